"""An instance that is off is given away: it is nobody's until a host takes it, see :mod:`imgbackend.guest.take`.

Hosts that share the folder of instances find everything there.  For those that share a store alone, what is known of
each disk, and the domain's XML, is left with the disks; the folder goes where nothing in it is needed.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from imgbackend import errors
from imgbackend.disks import record_stores
from imgbackend.disks.owners import Owners
from imgbackend.driver.abilities import CarriesHandover, Marked
from imgbackend.driver.contract import Disk
from imgbackend.guest import console, handed_xml, handover
from imgbackend.guest.closed_disks import kept_closed
from imgbackend.guest.hypervisor import OFF, FoundDomain, Hypervisor
from imgbackend.guest.marked_disks import mark_of
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.guest.spawn import write_xml
from imgbackend.guest.take_over import expect_closed, note_owner
from imgbackend.state import domain_xml
from imgbackend.state.records import DOMAIN, GOING, NOVAS, OURS, RESIZED
from imgbackend.system import audit
from imgbackend.system.host import Host
from imgbackend.types import RELEASED, DiskId, Owner, Progress

_BESIDE: Final = frozenset({"kernel", "ramdisk", "disk.config"})
"""Disks that are files whatever the others are, and of no use without them."""


class Releasing:
    """One release, with the instance's lock held.

    Killed at any point it goes on when it is called again: what goes with the disks is left in their stores first, then
    the domain goes, then the stores note that the disks are nobody's, and the folder's records last.
    """

    def __init__(
        self, host: Host, owners: Owners, hypervisor: Hypervisor, own: OwnInstances, name: str, progress: Progress
    ) -> None:
        """Keep them; nothing is touched.  ``progress`` is called while a disk's lock is waited for, and may raise."""
        self._host, self._owners, self._hypervisor, self._own = host, owners, hypervisor, own
        self._name, self._progress = name, progress

    def run(self, disks: Mapping[str, Disk[Any]]) -> None:
        """Release it; ``disks`` are those on record here, and those that a store notes as this host's, by their names.

        :raises InstanceNotFound: if there is nothing of it here.
        :raises InstanceElsewhere: if it is another host's, or another folder's.
        :raises InstanceError: if it runs, is being destroyed, or has what the next host would not get.
        :raises DiskError: if a disk on record is not there.
        :raises DiskBusy: if somebody has a disk open, or makes one meanwhile.
        """
        self._expect_instance()
        owner = self._own.owner(self._name)
        if owner != RELEASED:
            self._own.check(self._name)
            self._expect_note()
            recorded = self._host.records.all(self._name)
            for disk in disks.values():
                with disk.reading():
                    record_stores.expect_reached(disk)
            mine = {name: disk for name, disk in disks.items() if self._may_release(_owner_of(disk))}
            with kept_closed(self._host, self._name):
                for disk in mine.values():
                    self._expect_there(disk)
                self._leave_to_the_next(mine)
                for disk in mine.values():
                    note_owner(disk, RELEASED, self._may_release, self._progress)
                self._note(f"{self._name}{RESIZED}", None)
                self._note(self._name, recorded)
            me = self._owners.me()
            audit.log("release", host=me.host, what=self._name, store="", identity=None, why="asked for")
        self._note_in_xml()
        if disks and self._needs_no_folder(disks.values()):
            self._clear(disks)

    def _expect_instance(self) -> None:
        folder = self._host.instances / self._name
        if not self._own.has_folder(self._name):
            with contextlib.suppress(OSError):
                folder.rmdir()  # an empty one, where this was broken off at the end
            raise errors.InstanceNotFound(f"there is no instance {self._name} on this host")
        if folder.with_name(f"{self._name}{GOING}").is_dir():
            raise errors.InstanceError(
                f"{self._name} is being destroyed: imgbackend instance destroy {self._name} finishes it"
            )

    def _expect_note(self) -> None:
        """See that something can say that it was released."""
        folder, kept = self._host.instances / self._name, self._own.kept_xml(self._name) or ""
        noted = domain_xml.owner_in(domain_xml.with_owner(kept, RELEASED)) == RELEASED
        if not noted and not (folder / OURS).is_file():
            raise errors.InstanceError(
                f"nothing in {folder} says whose it is, and so nothing can say that it is nobody's"
            )

    def _may_release(self, owner: Owner | None) -> bool:
        """Where this was broken off a disk may be the next host's by now."""
        return owner in (None, RELEASED) or self._owners.is_mine(self._name, owner)

    def _expect_there(self, disk: Disk[Any]) -> None:
        if not disk.may_be_there():
            raise errors.DiskError(
                f"{disk.id} is on record, and is not there; imgbackend cache leftovers tells when its record goes"
            )
        expect_closed(disk, self._progress)

    def _leave_to_the_next(self, disks: Mapping[str, Disk[Any]]) -> None:
        """What the next host needs goes to the stores, and the domain goes."""
        found, kept = self._own.reached(self._name, self._own.domain), self._own.kept_xml(self._name)
        if found is not None:
            self._expect_movable(found, kept)
        told = kept if kept is not None and self._can_be_told(kept, disks.values()) else None
        for disk in disks.values():
            with disk.locked(self._progress, changing=False):
                self._leave(disk, tuple(sorted(disks)), told)
        if found is not None:
            self._hypervisor.forget(self._name)

    def _can_be_told(self, kept: str, disks: Iterable[Disk[Any]]) -> bool:
        """Whether another host would take the domain as it is: one that somebody altered it would not."""
        folder, sources = str(self._host.instances / self._name), [disk.source() for disk in disks]
        try:
            handed_xml.adopted(kept, self._name, folder, sources, self._owners.me())
        except errors.DiskError:
            return False
        return True

    def _expect_movable(self, found: FoundDomain, kept: str | None) -> None:
        """See that all there is to know of the domain is in ``libvirt.xml``."""
        path = f"{self._host.instances / self._name}/{DOMAIN}"
        if found.state not in OFF:
            raise errors.InstanceError(f"the instance {self._name} runs; stop it first")
        if self._hypervisor.has_saved_state(self._name):
            raise errors.InstanceError(
                f"libvirt keeps the memory of {self._name}, which would be lost: start it, then stop it"
            )
        known = domain_xml.opened(self._hypervisor.xml(self._name))
        if kept is None or not known <= domain_xml.opened(kept):
            others = ", ".join(sorted(known - domain_xml.opened(kept or "")))
            raise errors.InstanceError(
                f"libvirt knows of {self._name} what {path} does not: {others or 'all'}; detach it, or have the output "
                f"of virsh dumpxml --inactive {self._name} there"
            )

    def _leave(self, disk: Disk[Any], names: tuple[str, ...], domain: str | None) -> None:
        if not isinstance(disk, CarriesHandover) or not isinstance(disk, Marked):
            return
        mark = disk.mark()
        if mark is None or mark.owner == RELEASED or not self._may_release(mark.owner):
            return  # it was released before this was broken off
        record = disk.recorded and replace(disk.recorded, owner=None, identity=mark.identity)
        disk.set_handover(handover.written(handover.Handover(record=record, disks=names, domain=domain), mark))

    def _note(self, folder: str, disks: Collection[str] | None) -> None:
        before, durable = self._host.records.owner(folder), self._host.settings.durable
        if (self._host.instances / folder / OURS).exists() and self._may_release(before):
            self._host.records.set_owner(folder, before, RELEASED, durable=durable, disks=disks)

    def _note_in_xml(self) -> None:
        kept = self._own.kept_xml(self._name)
        if kept is not None and domain_xml.owner_in(kept) != RELEASED:
            write_xml(self._host, self._name, domain_xml.with_owner(kept, RELEASED))

    def _needs_no_folder(self, disks: Collection[Disk[Any]]) -> bool:
        """Whether all disks go with what is known of them, or are another host's by now."""
        folder, kept = self._host.instances / self._name, self._own.kept_xml(self._name)
        if folder.with_name(f"{self._name}{RESIZED}").is_dir():
            return False
        stored = [disk for disk in disks if not disk.backend.traits.files]
        others = {disk.id.name for disk in disks if disk.backend.traits.files} - _BESIDE
        if stored and not others and not any(self._is_here(disk) for disk in stored):
            return True
        travels = len(stored) == len(disks) and all(_travels(disk) or not self._is_here(disk) for disk in stored)
        return travels and (kept is None or self._can_be_told(kept, disks))

    def _is_here(self, disk: Disk[Any]) -> bool:
        """Whether a disk is there, and is this host's or nobody's."""
        return disk.may_be_there() and self._may_release(_owner_of(disk))

    def _clear(self, disks: Iterable[str]) -> None:
        """The folder says whose the instance is until its last file goes; what others put there stays."""
        folder = self._host.instances / self._name
        beside = [name for name in disks if name in _BESIDE]
        for name in (*beside, console.NAME, console.FORMER, DOMAIN, NOVAS, OURS):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
        self._host.flush_folders([folder.parent])
        locks = self._host.locks
        for held in (*(locks.disk(DiskId(instance=self._name, name=name)) for name in disks), locks.record(self._name)):
            with held as lock:
                lock.forget()


def _owner_of(disk: Disk[Any]) -> Owner | None:
    """By its store; None where that does not say."""
    mark = mark_of(disk)
    return mark.owner if mark is not None else None


def _travels(disk: Disk[Any]) -> bool:
    """Whether whoever takes it needs nothing of the folder."""
    return isinstance(disk, CarriesHandover) and isinstance(disk, Marked) and not disk.backend.traits.files
