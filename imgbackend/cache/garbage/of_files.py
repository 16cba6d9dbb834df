"""Leftovers that are files: in the base folder, beside the locks, and in the folders of instances.

Only names that this program gives are looked at, and only regular files; whatever else is there
is somebody else's.
"""

import contextlib
import functools
import os
import re
import stat
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, Final

from imgbackend import errors
from imgbackend.bases import instance_folders
from imgbackend.bases.folders_seen import FoldersSeen
from imgbackend.bases.store import Bases
from imgbackend.cache.clocks import Clocks
from imgbackend.cache.garbage.collect import Candidate, Guard, Kind, LeftoverState
from imgbackend.cache.policy import Policy, span
from imgbackend.cache.usage import Use
from imgbackend.state import records, shared_failure
from imgbackend.system import files, locks, promises
from imgbackend.system.host import Host
from imgbackend.types import DiskId, is_base_name

_MAKING: Final = re.compile(r"([^.]+)\.(?:part|converted)\Z")
_BAD: Final = re.compile(r"([^.]+)\.bad-([0-9]{1,12})\Z")
_MANIFEST: Final = re.compile(r"([^.]+)\.json\Z")
_TEMPORARY: Final = re.compile(r"\.(.+)\.tmp\Z")
_UNFINISHED: Final = re.compile(r"\.(.+)\.part\Z")
_TRIED: Final = re.compile(r"\.(?:direct-[0-9]+|doctor-[a-z0-9_]{8})\Z")
_KEPT_BY_NFS: Final = re.compile(r"\.nfs[0-9a-f]{24}\Z")
"""What a client of NFS calls a file that was removed on its host and is open there."""
_RESERVED: Final = re.compile(r"[0-9a-f]{40}\.reserved\Z")

Look = Callable[[os.stat_result], LeftoverState | None]


class Strewn:
    """Looks for them below one ``instances_path``."""

    def __init__(
        self,
        host: Host,
        bases: Bases,
        policy: Policy,
        use: Callable[[], Use],
        clocks: Clocks,
        alive: Callable[[], object] = instance_folders.nothing,
        seen: FoldersSeen | None = None,
    ) -> None:
        """``use`` looks which bases disks hang on; it is asked where that matters, once.

        ``alive`` is called before each folder, and each file that may be a leftover; it may raise.
        ``seen``: what was just seen in folders, which are not listed again.
        """
        self._alive, self._seen = alive, seen or FoldersSeen()
        self._host, self._bases, self._policy, self._clocks = host, bases, policy, clocks
        self._use = functools.cache(use)
        self._recorded = functools.lru_cache(maxsize=8)(host.records.all)
        self._locks = host.instances / "locks"
        self.faults: list[str] = []
        """What could not be looked at, a line each."""

    def candidates(self) -> Iterator[Candidate]:
        """All files that look like leftovers."""
        yield from self._of_bases()
        yield from self._of_pins()
        yield from self._of_instances()
        yield from self._of_locks()

    # What there is

    def _of_bases(self) -> Iterator[Candidate]:
        names = self._names(self._host.bases)
        for name in names:
            self._alive()
            path = self._host.bases / name
            if _KEPT_BY_NFS.match(name):
                yield self._open_file(path)
            elif match := _MAKING.match(name):
                yield from self._of_base(match[1], "fetch", path, self._is_abandoned(path))
            elif match := _BAD.match(name):
                aside = functools.partial(self._is_not_needed, match[1], float(match[2]))
                yield from self._of_base(match[1], "bad base", path, aside)
            elif (match := _MANIFEST.match(name)) and match[1] not in names:
                yield from self._of_base(match[1], "manifest", path, functools.partial(self._lacks_its_base, match[1]))
            elif (match := _TEMPORARY.match(name)) and match[1].endswith(".json"):
                yield from self._of_base(match[1].removesuffix(".json"), "file", path, self._is_abandoned(path))

    def _of_pins(self) -> Iterator[Candidate]:
        for name in self._names(self._host.bases / ".pins"):
            if match := _TEMPORARY.match(name):
                path = self._host.bases / ".pins" / name
                yield from self._of_base(match[1].partition("@")[0], "file", path, self._is_abandoned(path))

    def _of_instances(self) -> Iterator[Candidate]:
        for name in self._names(self._host.instances):
            if _TRIED.match(name):
                path = self._host.instances / name
                yield self._file(
                    "file", path, self._guard(locks.SPACE, self._host.locks.space), self._is_abandoned(path)
                )
        for instance in self._instances():
            self._alive()
            hidden = self._seen.hidden(instance)
            for name in self._names(f"{self._host.instances}/{instance}") if hidden is None else hidden:
                if _KEPT_BY_NFS.match(name):
                    yield self._open_file(self._host.instances / instance / name)
                elif name[0] == ".":
                    yield from self._of_instance(instance, name)

    def _of_instance(self, instance: str, name: str) -> Iterator[Candidate]:
        path, found = self._host.instances / instance / name, self._host.locks
        unfinished, temporary = _UNFINISHED.match(name), _TEMPORARY.match(name)
        try:
            disk = DiskId(instance=instance, name=unfinished[1] if unfinished else "disk")
        except ValueError:
            return  # a folder that is going, or none of an instance; or no disk's name
        if unfinished:
            guard = self._guard(locks.name_of(disk), functools.partial(found.disk, disk))
            yield self._file("disk", path, guard, self._is_abandoned(path))
        elif temporary and temporary[1] in (records.OURS, records.NOVAS):
            guard = self._guard(f"{locks.RECORD_PREFIX}{instance}", functools.partial(found.record, instance))
            yield self._file("file", path, guard, self._is_abandoned(path))
        elif temporary and temporary[1] == records.DOMAIN:
            guard = self._guard(f"{locks.INSTANCE_PREFIX}{instance}", functools.partial(found.instance, instance))
            yield self._file("file", path, guard, self._is_abandoned(path))

    def _of_locks(self) -> Iterator[Candidate]:
        for name in self._names(self._locks):
            self._alive()
            path = self._locks / name
            temporary = _TEMPORARY.match(name)
            whole = temporary[1] if temporary else name
            if whole.endswith(".failed") and is_base_name(whole.removesuffix(".failed")):
                look = self._is_abandoned(path) if temporary else self._is_past
                kind: Kind = "file" if temporary else "failure"
                yield from self._of_base(whole.removesuffix(".failed"), kind, path, look)
            elif _RESERVED.match(whole):
                guard = self._guard(locks.SPACE, self._host.locks.space)
                yield self._file("room", path, guard, self._is_broken_promise(path))
            elif not temporary:
                yield from self._of_lock(name, path)

    def _of_lock(self, name: str, path: Path) -> Iterator[Candidate]:
        """The lock of a disk or an instance that is gone; a base's stays, for a Nova may wait for it."""
        take = self._host.locks
        disk: str | None = None
        if name.startswith(locks.DISK_PREFIX):
            instance, _, disk = name.removeprefix(locks.DISK_PREFIX).partition("_")
            try:
                disk_id = DiskId(instance=instance, name=disk)
            except ValueError:
                return
            guard, gone = self._guard(name, functools.partial(take.disk, disk_id)), self._is_gone(instance, disk)
        elif name.startswith(locks.INSTANCE_PREFIX):
            instance = name.removeprefix(locks.INSTANCE_PREFIX)
            guard, gone = self._guard(name, functools.partial(take.instance, instance)), self._is_gone(instance)
        elif name.startswith(locks.RECORD_PREFIX):
            instance = name.removeprefix(locks.RECORD_PREFIX)
            guard, gone = self._guard(name, functools.partial(take.record, instance)), self._is_gone(instance)
        else:
            return
        with contextlib.suppress(OSError, errors.Error):  # whoever's records are broken is told of elsewhere
            if not self._seen.has(instance, disk) and not self._is_there(instance, disk, self._recorded):
                yield self._file("lock", path, guard, gone)

    def _open_file(self, path: Path) -> Candidate:
        """It is never removed: nobody can tell here whether a guest of another host still writes to it."""
        reason = (
            "removed while it was open, and kept by NFS until it is closed; if the host that had it open is no more, "
            "remove it by hand"
        )
        guard = self._guard(locks.SPACE, self._host.locks.space)
        return self._file("open file", path, guard, lambda found: _state(found, dead=False, reason=reason))

    def _of_base(self, base: str, kind: Kind, path: Path, look: Look) -> Iterator[Candidate]:
        if is_base_name(base):
            guard = self._guard(f"{locks.BASE_PREFIX}{base}", functools.partial(self._host.locks.base, base))
            yield self._file(kind, path, guard, look)

    def _instances(self) -> list[str]:
        try:
            return instance_folders.instances(self._host)
        except OSError as exc:
            self.faults.append(str(files.as_error(exc, self._host.instances)))
            return []

    def _names(self, folder: Path | str) -> list[str]:
        """What is in a folder, by name; told where it cannot be listed."""
        try:
            return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as exc:
            self.faults.append(str(files.as_error(exc, Path(folder))))
            return []

    def _guard(self, lock: str, take: Callable[..., Any]) -> Guard:
        return Guard(file=self._locks / lock, take=take)

    def _file(self, kind: Kind, path: Path, guard: Guard, look: Look) -> Candidate:
        name = str(path.relative_to(self._host.instances))

        def looked() -> LeftoverState | None:
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                return None
            return look(found) if stat.S_ISREG(found.st_mode) else None

        return Candidate(kind=kind, name=name, guard=guard, look=looked, remove=lambda: path.unlink(missing_ok=True))

    # Whether it is dead: asked under its lock

    def _is_abandoned(self, path: Path) -> Look:
        """By its maker, where that was noted, else by its age."""
        return lambda found: self._judged(found, self._promise(promises.note_of(self._locks, path)), found.st_mtime)

    def _is_broken_promise(self, note: Path) -> Look:
        """The same of the promise itself; another host's is kept while the file that it is for grows."""

        def look(found: os.stat_result) -> LeftoverState:
            promise, since = self._promise(note), found.st_mtime
            if promise is not None:
                with contextlib.suppress(OSError):
                    since = max(since, os.stat(promise.target).st_mtime)
            return self._judged(found, promise, since)

        return look

    def _promise(self, note: Path) -> promises.Promise | None:
        """The promise of room for what may be a leftover; None where there is none that can be read."""
        try:
            return promises.read(note, self._host.settings.hostname)
        except OSError:
            return None

    def _judged(self, found: os.stat_result, promise: promises.Promise | None, since: float) -> LeftoverState:
        if promise is None:
            return self._unchanged(found, since)
        maker = promise.maker
        if promise.state == "gone":
            return _state(found, dead=True, reason=f"the process {maker.pid} that made it is gone")
        if promise.state == "alive":
            return _state(found, dead=False, reason=f"the process {maker.pid} is at it")
        return self._unchanged(found, since, f" by {maker.host or 'another host'}")

    def _unchanged(self, found: os.stat_result, since: float, where: str = "") -> LeftoverState:
        age = self._clocks.of_file(found) - since
        if age >= self._policy.lease:
            return _state(found, dead=True, reason=f"unchanged for {span(age)}{where}")
        return _state(
            found, dead=False, reason=f"changed {span(age)} ago{where}, and left for {span(self._policy.lease)}"
        )

    def _is_not_needed(self, base: str, since: float, found: os.stat_result) -> LeftoverState:
        """A bad base is the last there is of its content until it was fetched again."""
        if self._bases.entry(base) is None:
            if self._use().unseen:
                return _state(found, dead=False, reason="a disk that may need its content could not be looked at")
            disks = self._use().disks(base)
            if disks:
                told = f"{disks[0]}{f' and {len(disks) - 1} more' if len(disks) > 1 else ''}"
                return _state(found, dead=False, reason=f"{told} hangs on it, and no other is there yet")
        age = self._clocks.of_file(found) - since
        if age < self._policy.original_age:
            kept = span(self._policy.original_age)
            return _state(found, dead=False, reason=f"put aside {span(age)} ago, and kept for {kept}")
        return _state(found, dead=True, reason=f"put aside {span(age)} ago")

    def _lacks_its_base(self, base: str, found: os.stat_result) -> LeftoverState | None:
        """Disks need what it says of their base, when that is fetched again; so does one that was put aside."""
        if os.path.lexists(self._bases.path(base)):
            return None
        if self._use().unseen or self._use().disks(base):
            return _state(found, dead=False, reason="disks hang on its base, or may do so, and need it back")
        if any(_BAD.match(name) and name.startswith(f"{base}.") for name in self._names(self._host.bases)):
            return _state(found, dead=False, reason="its base was put aside, and what comes in its place is compared")
        return self._unchanged(found, found.st_mtime)

    def _is_past(self, found: os.stat_result) -> LeftoverState:
        """Nobody who waits takes notice of it any more."""
        age = self._clocks.of_file(found) - found.st_mtime
        return _state(
            found, dead=abs(age) > shared_failure.SECONDS, reason=f"told {span(age)} ago to those who waited then"
        )

    def _is_gone(self, instance: str, disk: str | None = None) -> Look:
        def look(found: os.stat_result) -> LeftoverState | None:
            if self._is_there(instance, disk, self._host.records.all):
                return None
            return _state(found, dead=True, reason=f"there is no such {'instance' if disk is None else 'disk'}")

        return look

    def _is_there(self, instance: str, disk: str | None, recorded: Callable[[str], Container[str]]) -> bool:
        """Whether an instance has a folder, or a disk a file or a record."""
        for suffix in ("", "_del", "_resize"):
            folder = f"{self._host.instances}/{instance}{suffix}"
            if disk is None:
                if os.path.isdir(folder):
                    return True
            elif os.path.lexists(f"{folder}/{disk}") or disk in recorded(f"{instance}{suffix}"):
                return True
        return False


def _state(found: os.stat_result, *, dead: bool, reason: str) -> LeftoverState:
    return LeftoverState(size=found.st_blocks * 512, time=found.st_mtime, dead=dead, reason=reason)
