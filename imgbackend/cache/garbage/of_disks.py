"""Leftovers of disks: records without a disk, disks without a record, and what is unfinished in the stores of backends.

A disk that is whole is never removed here, whatever is known of it: it may hold a guest's data.  Nor is what people put
aside in a store, and the record of its disk stays with it.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from imgbackend import errors
from imgbackend.bases import instance_folders
from imgbackend.bases.folders_seen import FoldersSeen
from imgbackend.cache.clocks import Clocks
from imgbackend.cache.garbage.collect import Candidate, Guard, LeftoverState, aged
from imgbackend.cache.garbage.of_instances import GOING
from imgbackend.cache.policy import Policy
from imgbackend.cache.ports import Ports
from imgbackend.disks.prepare import store_lock
from imgbackend.driver.abilities import HoldsBases, SharedStore, TellsLeftovers
from imgbackend.driver.contract import Backend, Disk
from imgbackend.state import records
from imgbackend.system import files, locks
from imgbackend.system.host import Host
from imgbackend.types import DiskId, StoreLeftover, is_base_name


class Orphans:
    """Looks for them, on one host."""

    def __init__(
        self,
        host: Host,
        ports: Ports,
        policy: Policy,
        clocks: Clocks,
        alive: Callable[[], object] = instance_folders.nothing,
        seen: FoldersSeen | None = None,
        *,
        whole: bool = True,
        shared: bool = False,
    ) -> None:
        """Keep them; nothing is looked at.  ``alive`` is called before each folder, and may raise.

        ``seen``: what was just seen in folders, where records whose disks have their files are not read again.
        ``whole``: tell of whole disks too of which no record tells, and of what people put aside; none is removed.
        ``shared``: other hosts use the folder.
        """
        self._alive, self._whole, self._shared = alive, whole, shared
        self._seen = seen or FoldersSeen()
        self._host, self._ports, self._policy, self._clocks = host, ports, policy, clocks
        self.faults: list[str] = []
        """What could not be looked at, a line each."""
        self._root = str(host.instances)
        self._opened: dict[str, Backend | None] = {}
        self._lists: dict[str, set[DiskId]] = {}
        self._asides: dict[str, set[DiskId]] = {}
        self._rewritten: dict[str, tuple[int, os.stat_result]] = {}
        """Of instances whose records were changed here: the time that they have now, and what was there before."""

    def candidates(self) -> Iterator[Candidate]:
        """All of them."""
        for disk, kept_by in self._missing():
            yield self._of_record(kept_by.disk(disk))
        for name in sorted({*self._ports.configured(), *self._opened}):
            backend = self._backend(name)
            if backend is not None and not backend.traits.files:
                yield from self._of_backend(backend)

    # What there is

    def _of_backend(self, backend: Backend) -> Iterator[Candidate]:
        unfinished: set[DiskId] = set()
        for left in self._told(backend):
            if left.kept_because:
                if self._whole:
                    yield self._of_aside(backend, left)
                continue
            yield self._of_store(backend, left)
            unfinished |= {left.disk} if left.disk is not None else set()
        for disk in sorted(self._made_here(backend) - unfinished, key=str) if self._whole else ():
            if not self._is_known(disk):
                yield self._unrecorded(backend, disk)

    def _made_here(self, backend: Backend) -> set[DiskId]:
        """The disks whose records are on this host, if they are anywhere, as far as the store can tell."""
        if not backend.traits.shared:
            return self._listed(backend)
        try:
            return set((backend.made_here() if isinstance(backend, SharedStore) else None) or ())
        except (OSError, errors.Error) as exc:
            self._fault(f"the disks of {backend.name} cannot be listed", exc)
            return set()

    def _missing(self) -> Iterator[tuple[DiskId, Backend]]:
        """The disks on record that are not there, at a first look."""
        for instance in instance_folders.each_instance(self._host, self._alive):
            for name, backend_name, has_file in self._recorded(instance):
                backend = self._backend(backend_name)
                if backend is None:
                    continue
                if backend.traits.files and (has_file or os.path.lexists(f"{self._root}/{instance}/{name}")):
                    continue
                with contextlib.suppress(ValueError):  # a folder that is going, or another's
                    disk = DiskId(instance=instance, name=name)
                    if backend.traits.files or not self._is_there(backend, disk):
                        yield disk, backend

    def _recorded(self, instance: str) -> Iterator[tuple[str, str, bool]]:
        """The disks on record, each with its backend, and whether a file of its name was seen just now."""
        seen = self._seen.recorded(instance)
        if seen is not None:
            yield from ((each.name, each.backend, each.has_file) for each in seen)
            return
        try:
            found = self._host.records.backends(instance)
        except (OSError, errors.Error) as exc:
            self._fault(f"the records of {instance} cannot be read", exc)
            return
        yield from ((name, backend, False) for name, backend in found.items())

    def _backend(self, name: str) -> Backend | None:
        """A backend, opened; None, and told once: it cannot be."""
        if name not in self._opened:
            self._opened[name] = None
            try:
                self._opened[name] = self._ports.backend(name)
            except errors.Error as exc:
                self.faults.append(f"the backend {name} cannot be opened, and what is left in it is not known: {exc}")
        return self._opened[name]

    def _listed(self, backend: Backend) -> set[DiskId]:
        """What a store lists; told once: it cannot."""
        if backend.name not in self._lists:
            self._lists[backend.name] = set()
            try:
                self._lists[backend.name] = set(backend.list_disks())
            except (OSError, errors.Error) as exc:
                self._fault(f"the disks of {backend.name} cannot be listed", exc)
        return self._lists[backend.name]

    def _told(self, backend: Backend) -> list[StoreLeftover]:
        try:
            return list(backend.leftovers()) if isinstance(backend, TellsLeftovers) else []
        except (OSError, errors.Error) as exc:
            self._fault(f"what is left in {backend.name} cannot be told", exc)
            return []

    def _aside(self, backend: Backend) -> set[DiskId]:
        """The disks of what people put aside in a store; they may bring it back."""
        if backend.name not in self._asides:
            kept = {left.disk for left in self._told(backend) if left.kept_because}
            self._asides[backend.name] = {disk for disk in kept if disk is not None}
        return self._asides[backend.name]

    def _fault(self, what: str, exc: OSError | errors.Error) -> None:
        told = files.as_error(exc, self._host.instances) if isinstance(exc, OSError) else exc
        if (line := f"{what}: {told}") not in self.faults:
            self.faults.append(line)

    def _is_there(self, backend: Backend, disk: DiskId) -> bool:
        """A first look, without a lock; of a store of this host's own that tells what is in it by one list of all."""
        listed = isinstance(backend, TellsLeftovers) and not backend.traits.shared
        if (listed and disk in self._listed(backend)) or disk in self._aside(backend):
            return True
        try:
            return backend.disk(disk).exists()
        except errors.DiskElsewhere:
            return True  # in a store of another host's own, which alone can tell
        except (OSError, errors.Error) as exc:
            self._fault(f"whether {disk} is there cannot be told", exc)
            return True

    def _is_known(self, disk: DiskId) -> bool:
        """Whether a record tells of a disk; broken ones might."""
        folders = (disk.instance, f"{disk.instance}{GOING}")
        try:
            return any(disk.name in self._host.records.all(folder) for folder in folders)
        except (OSError, errors.Error):
            return True

    # How it is looked at, and how it goes

    def _guard(self, name: str, take: Callable[..., Any]) -> Guard:
        return Guard(file=self._host.instances / "locks" / name, take=take)

    def _disk_guard(self, disk: DiskId) -> Guard:
        return self._guard(locks.name_of(disk), functools.partial(self._host.locks.disk, disk))

    def _base_guard(self, base: str) -> Guard:
        return self._guard(f"{locks.BASE_PREFIX}{base}", functools.partial(self._host.locks.base, base))

    def _of_record(self, disk: Disk[Any]) -> Candidate:
        def look() -> LeftoverState | None:
            with disk.reading():
                record = self._host.records.of(disk.id)
                if record is None or disk.find() is not None:
                    return None
            found, owner = self._records_of(disk.id.instance), self._host.records.owner(disk.id.instance)
            if not self._ports.is_mine(disk.id.instance, owner):
                return None  # its store may be out of this host's reach
            if owner is None and self._shared and not disk.backend.traits.files:
                reason = "nobody noted which of the hosts that share the folder it is of, and their stores may differ"
                return LeftoverState(size=0, time=found.st_mtime, dead=False, reason=reason)
            reason = "there is no such disk: its making was broken off, or it was taken away"
            return aged(self._policy.lease, found.st_mtime, self._clocks.of_file(found), reason)

        def remove() -> None:
            with disk.reading():
                disk.discard()
            before = self._records_of(disk.id.instance)
            self._host.records.forget(disk.id, durable=self._host.settings.durable)
            self._host.locks.forget(disk.id)
            with contextlib.suppress(FileNotFoundError):
                after = os.stat(self._records_path(disk.id.instance))
                self._rewritten[disk.id.instance] = after.st_mtime_ns, before

        name = f"{disk.id.instance}/{records.OURS}: {disk.id.name}"
        return Candidate(kind="record", name=name, guard=self._disk_guard(disk.id), look=look, remove=remove)

    def _records_path(self, instance: str) -> str:
        return f"{self._root}/{instance}/{records.OURS}"

    def _records_of(self, instance: str) -> os.stat_result:
        """The records of an instance, with their last change by others: that tells the age of each, at least.

        What a record says of its time is by the clock of the host that wrote it.
        """
        found = os.stat(self._records_path(instance))
        changed, before = self._rewritten.get(instance, (-1, found))
        return before if changed == found.st_mtime_ns else found

    def _unrecorded(self, backend: Backend, disk: DiskId) -> Candidate:
        def look() -> LeftoverState | None:
            if self._is_known(disk):
                return None
            found = backend.disk(disk).find()
            reason = "no record tells of it, and it may hold a guest's data: take it over by disk create, or delete it"
            return None if found is None else LeftoverState(size=found.allocated, time=0.0, dead=False, reason=reason)

        return Candidate(
            kind="disk",
            store=backend.name,
            name=str(disk),
            guard=self._disk_guard(disk),
            look=look,
            remove=_never,
        )

    def _of_aside(self, backend: Backend, left: StoreLeftover) -> Candidate:
        return Candidate(
            kind="disk" if left.disk is not None else "base",
            store=backend.name,
            name=left.name,
            guard=self._base_guard(left.base or "") if left.disk is None else self._disk_guard(left.disk),
            look=lambda: LeftoverState(size=left.allocated, time=left.time, dead=False, reason=left.kept_because),
            remove=_never,
            size=left.allocated,
            time=left.time,
        )

    def _of_store(self, backend: Backend, left: StoreLeftover) -> Candidate:
        if left.disk is not None:
            guard, look, remove = self._of_stored_disk(backend, left, left.disk)
        else:
            guard, look, remove = self._of_stored_base(backend, left)
        return Candidate(
            kind="disk" if left.disk is not None else "base",
            store=backend.name,
            name=left.name,
            guard=guard,
            look=look,
            remove=remove,
            size=left.allocated,
            time=left.time,
        )

    def _of_stored_disk(
        self, backend: Backend, left: StoreLeftover, disk: DiskId
    ) -> tuple[Guard, Callable[[], LeftoverState | None], Callable[[], None]]:
        made = backend.disk(disk)

        def look() -> LeftoverState | None:
            return self._left(left, "its making or removal was broken off")

        def remove() -> None:
            with made.reading():
                made.discard()

        return self._disk_guard(disk), look, remove

    def _of_stored_base(
        self, backend: Backend, left: StoreLeftover
    ) -> tuple[Guard, Callable[[], LeftoverState | None], Callable[[], None]]:
        base = left.base
        if base is None or not is_base_name(base) or not isinstance(backend, HoldsBases):
            raise errors.StorageError(f"{backend.name} tells of {left.name}, which is neither a disk's nor a base's")
        store: HoldsBases = backend

        def look() -> LeftoverState | None:
            if store.find_base(base) is not None:
                return self._beside(left)
            return self._left(left, "its import was broken off")

        def remove() -> None:
            with store_lock(store, base, _busy):
                if store.find_base(base) is None:
                    store.remove_base(base)

        return self._base_guard(base), look, remove

    def _beside(self, left: StoreLeftover) -> LeftoverState:
        reason = "the base itself is whole, and what is beside it goes with it"
        return LeftoverState(size=left.allocated, time=left.time, dead=False, reason=reason)

    def _left(self, left: StoreLeftover, reason: str) -> LeftoverState:
        """Of what a store tells; by its age only where the store does not know whether somebody is at it."""
        if left.live is None:
            return aged(self._policy.lease, left.time, self._clocks.of_stores(), reason, left.allocated)
        told = "somebody is making or removing it" if left.live else reason
        return LeftoverState(size=left.allocated, time=left.time, dead=not left.live, reason=told)


def _never() -> None:
    raise errors.StorageError("what is whole is not removed as a leftover")


def _busy(_phase: str, _done: int, _total: int | None) -> None:
    raise errors.DiskBusy("another host is at it")
