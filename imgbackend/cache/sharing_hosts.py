"""The hosts that share an ``instances_path``, and when each of them was last heard of.

It is the file ``compute_nodes`` that a Nova keeps there, in Nova's form: a JSON object of host names and seconds since
1970, read and written under Nova's lock, so that the one sees the other.  Ours is whole at every moment, where
Nova's may be cut off.  A host that was not heard of for a day is no user any more, as for Nova.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from imgbackend.cache.policy import OtherHost, span
from imgbackend.system import files
from imgbackend.system.host import Host

ALIVE: Final = 86400.0
"""Seconds that a host counts for after its last pass: Nova's own limit."""
_TOLD: Final = 7 * ALIVE
"""A host is told to be missing for so long; after that it is taken to be gone for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenHost:
    """A host on record."""

    name: str
    last_pass: float
    """Seconds since 1970: when its last pass began that saw all there is, or a Nova's last one."""
    alive: bool
    here: bool
    """It is this one."""


class SharingHosts:
    """The hosts of one ``instances_path``."""

    def __init__(self, host: Host, clock: Callable[[], float]) -> None:
        """Nothing is touched."""
        self._host, self._clock = host, clock
        self._file = host.instances / "compute_nodes"

    def all(self) -> list[SeenHost]:
        """All hosts on record, by name; none where the file cannot be understood: a Nova begins anew then, too.

        :raises OSError: if it cannot be read.
        """
        here, now = self._host.settings.hostname, self._clock()
        if not self._file.exists():
            return []
        with self._host.locks.hosts():
            found = self._read()
        return [
            SeenHost(name=name, last_pass=seen, alive=now - seen < ALIVE, here=name == here)
            for name, seen in sorted(found.items())
        ]

    def slowest(self) -> OtherHost | None:
        """Of the other hosts that are alive, the one whose last pass is longest ago."""
        others = [each for each in self.all() if each.alive and not each.here]
        last = min(others, key=lambda each: each.last_pass, default=None)
        return None if last is None else OtherHost(name=last.name, last_pass=last.last_pass)

    def missing(self) -> list[str]:
        """Hosts that have fallen silent within the last week, a line each."""
        now = self._clock()
        return [
            f"the host {each.name} made no pass for {span(now - each.last_pass)}: of what it uses, only the disks in "
            f"{self._host.instances} count; if it is no more, forget it: imgbackend cache hosts --forget {each.name}"
            for each in self.all()
            if not each.alive and not each.here and now - each.last_pass < _TOLD
        ]

    def register(self, began: float) -> None:
        """Tell the others of a pass of this host that saw everything, and that began then.

        :raises Error: if it cannot be written.
        """
        if not self._host.instances.is_dir():
            return
        try:
            with self._host.locks.hosts():
                found = self._read()
                found[self._host.settings.hostname] = began
                self._write(json.dumps(found).encode())
        except OSError as exc:
            raise files.as_error(exc, self._file) from exc

    def forget(self, name: str) -> None:
        """Take a host off the record that is no more; one that is not on it is no error.

        :raises ConfigError: if it cannot be written.
        """
        try:
            with self._host.locks.hosts():
                found = self._read()
                if found.pop(name, None) is not None:
                    self._write(json.dumps(found).encode())
        except OSError as exc:
            raise files.as_error(exc, self._file) from exc

    def _read(self) -> dict[str, float]:
        try:
            found = json.loads(files.content(self._file))
        except (FileNotFoundError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: float(seen) for name, seen in found.items() if isinstance(seen, int | float)}

    def _write(self, data: bytes) -> None:
        """Replace the file, and leave it to whom it belongs: a Nova has to be able to write there.

        Another user's is written in place, by one call.
        """
        try:
            before = os.stat(self._file)
        except FileNotFoundError:
            before = None
        owner = before or os.stat(self._host.instances)
        ours = os.geteuid()
        if before is not None and ours not in (0, before.st_uid):
            with files.open_fd(self._file, os.O_WRONLY) as fd:
                os.pwrite(fd, data.ljust(before.st_size), 0)  # never shorter: killed before the end, it is whole JSON
                os.ftruncate(fd, len(data))
            return
        files.write_whole(self._file, data, mode=stat.S_IMODE(before.st_mode) if before else 0o644)
        if ours == 0 and owner.st_uid != 0:
            with contextlib.suppress(PermissionError):  # a server that squashes root; the file is written all the same
                os.chown(self._file, owner.st_uid, owner.st_gid)
