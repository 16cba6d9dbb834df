"""The doctor's look at ``instances_path``: what its file system can do, who may enter, what was left there.

The one thing that is written is a temporary file, without a name where the file system
can do that, and gone when the look is over.
"""

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imgbackend.cli.figures import human_size
from imgbackend.cli.places import nearest, room, time_in
from imgbackend.system import files
from imgbackend.system.shared_storage import file_system
from imgbackend.types import Finding

_SCARCE: Final = 20
"""Less than one part in so many free is worth a warning."""
_STALE: Final = 3600
"""Seconds after which an unfinished file is surely nobody's any more, unless something hangs."""
_LISTED: Final = 5


def folders(instances: Path, bases: Path, *, group: str | None) -> Iterator[Finding]:
    """All that is to be said of the two folders."""
    yield _place(instances)
    yield _space(instances)
    yield _path(instances, group)
    if instances.is_dir():
        yield from _modes(instances, bases)
        if os.access(instances, os.W_OK | os.X_OK):
            yield from _abilities(instances)
        yield _leftovers(instances, bases)


def _place(instances: Path) -> Finding:
    check = "instances_path"
    found = f"{instances}, on {file_system(instances)}"
    if instances.exists() and not instances.is_dir():
        return Finding(check, "error", f"{instances} is not a folder", "name a folder")
    there = nearest(instances)
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding(
            check, "error", f"{there} is not writable for this user", "give it to this user, or name another folder"
        )
    return Finding(check, "ok", found if there == instances else f"{found}; it will be made by the first disk")


def _space(instances: Path) -> Finding:
    capacity = room(instances)
    found = f"{human_size(capacity.free)} of {human_size(capacity.total)}"
    if not capacity.total:
        advice = "no image will be fetched; see to the file system: CephFS needs a manager (ceph-mgr) for this"
        return Finding("free space", "warning", f"{found}: the file system does not tell", advice)
    if capacity.free * _SCARCE < capacity.total:
        return Finding("free space", "warning", found, "free some; imgbackend cache usage shows what the bases take")
    return Finding("free space", "ok", found)


def _path(instances: Path, group: str | None) -> Finding:
    """Whether other users, the hypervisor's among them, can get at the disks."""
    check = "way to the disks"
    for folder in (*reversed(instances.parents), instances):
        if not folder.exists():
            break
        status = folder.stat()
        if not status.st_mode & stat.S_IXOTH:
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            who = f"the group {group}" if group else "the hypervisor's user"
            advice = f"see that {who} may pass: chmod o+x {folder}"
            return Finding(check, "warning", f"{folder} has mode {mode}: others cannot pass", advice)
    return Finding(check, "ok", "every folder lets others pass")


def _modes(instances: Path, bases: Path) -> Iterator[Finding]:
    for folder in (instances, bases, instances / "locks"):
        if not folder.is_dir():
            continue
        status = folder.stat()
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        if status.st_mode & stat.S_IWOTH:
            yield Finding(f"mode of {folder.name}", "error", f"{mode}: anybody may write", f"chmod o-w {folder}")
        else:
            yield Finding(f"mode of {folder.name}", "ok", mode)


def _abilities(instances: Path) -> Iterator[Finding]:
    """Try the file system out on a temporary file."""
    try:
        with _temporary(instances) as source, _temporary(instances) as target:
            os.write(source, b"imgbackend".ljust(4096, b"\0"))
            shared = files.reflink(source, target)
            direct = _direct(source)
    except OSError as exc:
        yield Finding("writing", "error", f"{instances}: {exc.strerror}", "see to the file system")
        return
    yield Finding("reflink", "ok", "yes: raw disks share their base's blocks" if shared else "no: raw disks are copied")
    if direct:
        yield Finding("O_DIRECT", "ok", "yes")
    else:
        yield Finding(
            "O_DIRECT", "warning", "no", "guests cannot use cache=none here; use another file system for that"
        )


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[int]:
    with tempfile.TemporaryFile(dir=folder, prefix=".doctor-") as file:
        yield file.fileno()


def _direct(fd: int) -> bool:
    try:
        with files.open_fd(Path(f"/proc/self/fd/{fd}"), os.O_RDONLY | os.O_DIRECT):
            return True
    except OSError:
        return False


def _leftovers(instances: Path, bases: Path) -> Finding:
    """Unfinished files, and bases that were put aside."""
    check, now = "leftovers", time_in(instances)
    try:
        found = [*_matching(bases, "*.part", "*.converted", ".*.tmp"), *_matching(instances, "*/.*.part", "*/.*.tmp")]
        aside = _matching(bases, "*.bad-*")
        stale = [path for path in found if now - path.stat().st_mtime > _STALE]
    except OSError as exc:
        return Finding(check, "warning", f"cannot look: {exc.filename}: {exc.strerror}", "run this as the disks' owner")
    if stale:
        advice = "whatever made them was killed; clear them: imgbackend cache leftovers --remove"
        return Finding(check, "warning", _names(stale), advice)
    if aside:
        return Finding(check, "warning", _names(aside), "bases that were found broken; remove them after a look")
    return Finding(check, "ok", f"{len(found)} files that are being written" if found else "none")


def _matching(folder: Path, *patterns: str) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _names(paths: list[Path]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(str(path) for path in paths[:_LISTED]) + more
