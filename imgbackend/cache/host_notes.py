"""What ``compute_nodes`` has no room for: which machine a host's passes come from, and when its entry last changed.

It is the file ``imgbackend_hosts.json`` beside it, read and written under the same lock.  Nova does not know it.
"""

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from imgbackend.system import files

NAME: Final = "imgbackend_hosts.json"
_VERSION: Final = 1

Program: TypeAlias = Literal["Nova", "older version"]
"""What makes passes and writes no notes: a Nova, or an imgbackend that is older than they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNote:
    """What was noted of one host."""

    last_pass: float
    """Its entry in ``compute_nodes`` when that was last looked at."""
    seen: float
    """When that entry was first seen, by the time of the file system."""
    credible: bool = True
    """Its pass may have been at the time that the entry tells; False: the clock of its host is wrong."""
    machine: str | None = None
    """The machine id of the host that made its last pass; None: a Nova's, or it has none."""
    instances: str | None = None
    """Where that host has mounted the folder."""
    format: int | None = None
    """What the version that made its last pass writes, as in the marker of the folder; None: it did not tell."""
    replaced: int | float | None = None
    """The entry that its last pass was to replace: it is there still if the pass was killed between the two files."""
    made_by: Program | None = None
    """What made the passes of which nobody wrote a note, where that could be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What was noted of all hosts."""

    hosts: Mapping[str, HostNote]
    """By name."""
    looked: float | None = None
    """When the entries were last looked at, by the time of the file system; None: never."""
    is_ours: bool = True
    """False: a newer version wrote them, and they are left as they are."""
    is_readable: bool = True
    """False: there are notes, and they cannot be understood; nothing is known of any host."""


def read(instances: Path) -> Notes:
    """All notes; none where there is no file that can be understood.

    :raises OSError: if it cannot be read.
    """
    try:
        content = json.loads((instances / NAME).read_bytes())
        if content["version"] > _VERSION:
            return Notes(hosts={}, is_ours=False, is_readable=False)
        hosts = {name: _note(noted) for name, noted in content["hosts"].items()}
        return Notes(hosts=hosts, looked=content["looked"])
    except FileNotFoundError:
        return Notes(hosts={})
    except (ValueError, KeyError, TypeError, AttributeError):
        return Notes(hosts={}, is_readable=False)


def _note(noted: dict[str, Any]) -> HostNote:
    """A note; what later versions of the same file note beside it is passed over."""
    known = {each.name for each in fields(HostNote)}
    return HostNote(**{name: value for name, value in noted.items() if name in known})


def write(instances: Path, notes: Notes) -> None:
    """Replace all notes."""
    if notes.is_ours:
        hosts = {name: asdict(note) for name, note in sorted(notes.hosts.items())}
        content = {"version": _VERSION, "looked": notes.looked, "hosts": hosts}
        replace(instances / NAME, json.dumps(content).encode())


def replace(path: Path, data: bytes) -> None:
    """Replace a file that hosts share, and leave it to whom it belongs: a Nova has to be able to write there.

    Another user's is written in place, by one call.
    """
    try:
        before = os.stat(path)
    except FileNotFoundError:
        before = None
    owner = before or os.stat(path.parent)
    ours = os.geteuid()
    if before is not None and ours not in (0, before.st_uid):
        with files.open_fd(path, os.O_WRONLY) as fd:
            os.pwrite(fd, data.ljust(before.st_size), 0)  # never shorter: killed before the end, it is whole JSON
            os.ftruncate(fd, len(data))
        return
    files.write_whole(path, data, mode=stat.S_IMODE(before.st_mode) if before else 0o644)
    if ours == 0 and owner.st_uid != 0:
        with contextlib.suppress(PermissionError):  # a server that squashes root; the file is written all the same
            os.chown(path, owner.st_uid, owner.st_gid)
