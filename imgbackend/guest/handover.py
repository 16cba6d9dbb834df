"""An instance goes from one host to another by hand: the one releases it, and then the other takes it.

Hosts that share the folder of instances find everything there.  For those that share a store alone, the host that
releases leaves with each disk what it knows of it, and the domain's XML; the folder goes where nothing in it is needed.
Between the two the instance is nobody's: every verb but the taking refuses it.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from imgbackend import errors
from imgbackend.disks.owners import Owners
from imgbackend.driver.abilities import CarriesHandover, Marked
from imgbackend.driver.contract import Disk
from imgbackend.guest import console, handed_xml
from imgbackend.guest.closed_disks import kept_closed
from imgbackend.guest.hypervisor import OFF, Hypervisor
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.guest.spawn import write_xml
from imgbackend.guest.take_over import TakingOver, expect_closed, note_owner
from imgbackend.state import domain_xml
from imgbackend.state.records import DOMAIN, GOING, NOVAS, OURS, record_of
from imgbackend.system import audit
from imgbackend.system.host import Host
from imgbackend.types import RELEASED, DiskId, Mark, Record

_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What goes with a disk from host to host."""

    record: Record | None
    """The disk's record, whose owner is left out."""
    disks: tuple[str, ...]
    """The names of all disks of the instance."""
    domain: str | None
    """The domain's XML; None: the instance was never spawned."""


class Releasing:
    """One release, with the instance's lock held.

    Killed at any point it goes on when it is called again: what goes with the disks is left in their stores first, then
    the domain goes, then the stores note that the disks are nobody's, and the folder's records last.
    """

    def __init__(self, host: Host, owners: Owners, hypervisor: Hypervisor, own: OwnInstances, name: str) -> None:
        """Keep them; nothing is touched."""
        self._host, self._owners, self._hypervisor, self._own = host, owners, hypervisor, own
        self._name = name

    def run(self, disks: Mapping[str, Disk[Any]]) -> None:
        """Release it; ``disks`` are all that it has, by their names.

        :raises InstanceNotFound: if there is nothing of it here.
        :raises InstanceElsewhere: if it is another host's, or another folder's.
        :raises InstanceError: if it runs, or is being destroyed.
        :raises DiskBusy: if somebody has a disk open.
        """
        folder, me = self._host.instances / self._name, self._owners.me()
        if not self._own.has_folder(self._name):
            with contextlib.suppress(OSError):
                folder.rmdir()  # an empty one, where this was broken off at the end
            raise errors.InstanceNotFound(f"there is no instance {self._name} on this host")
        if folder.with_name(f"{self._name}{GOING}").is_dir():
            raise errors.InstanceError(
                f"{self._name} is being destroyed: imgbackend instance destroy {self._name} finishes it"
            )
        if self._own.owner(self._name) != RELEASED:
            self._own.check(self._name)
            mine = {name: disk for name, disk in disks.items() if self._is_mine(disk)}
            with kept_closed(self._host, self._name):
                for disk in mine.values():
                    expect_closed(disk)
                self._leave_to_the_next(mine)
                for disk in mine.values():
                    note_owner(disk, RELEASED, (None, me))
                self._host.records.set_owner(self._name, me, RELEASED, durable=self._host.settings.durable)
            audit.log("release", host=me.host, what=self._name, store="", identity=None, why="asked for")
        self._note_in_xml()
        if disks and all(_travels(disk) for disk in disks.values()):
            self._clear(disks)

    def _is_mine(self, disk: Disk[Any]) -> bool:
        """Where this was broken off a disk may be the next host's by now."""
        with disk.reading():
            mark = disk.mark() if isinstance(disk, Marked) else None
        return mark is None or mark.owner in (None, RELEASED, self._owners.me())

    def _leave_to_the_next(self, disks: Mapping[str, Disk[Any]]) -> None:
        """What the next host needs goes to the stores, and the domain goes."""
        found, kept = self._own.reached(self._name, self._own.domain), self._own.kept_xml(self._name)
        if found is not None and found.state not in OFF:
            raise errors.InstanceError(f"the instance {self._name} runs; stop it first")
        for disk in disks.values():
            with disk.locked(changing=False):
                self._leave(disk, tuple(sorted(disks)), kept)
        if found is not None:
            self._hypervisor.forget(self._name)

    def _leave(self, disk: Disk[Any], names: tuple[str, ...], domain: str | None) -> None:
        if not isinstance(disk, CarriesHandover) or not isinstance(disk, Marked):
            return
        mark = disk.mark()
        if mark is None or mark.owner not in (None, self._owners.me()):
            return  # it was released before this was broken off
        record = disk.recorded and replace(disk.recorded, owner=None, identity=mark.identity)
        disk.set_handover(_written(Handover(record=record, disks=names, domain=domain), mark))

    def _note_in_xml(self) -> None:
        kept = self._own.kept_xml(self._name)
        if kept is not None and domain_xml.owner_in(kept) != RELEASED:
            write_xml(self._host, self._name, domain_xml.with_owner(kept, RELEASED))

    def _clear(self, disks: Iterable[str]) -> None:
        """The folder says whose the instance is until its last file goes; what others put there stays."""
        folder = self._host.instances / self._name
        for name in (console.NAME, console.FORMER, DOMAIN, NOVAS, OURS):
            (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
        self._host.flush_folders([folder.parent])
        locks = self._host.locks
        for held in (*(locks.disk(DiskId(instance=self._name, name=name)) for name in disks), locks.record(self._name)):
            with held as lock:
                lock.forget()


class Taking:
    """One taking, with the instance's lock held; killed at any point it goes on when it is called again.

    The stores note the new owner first, by compare-and-swap, in the order of the disks' names: one of two has all.
    """

    def __init__(self, host: Host, owners: Owners, hypervisor: Hypervisor, own: OwnInstances, name: str) -> None:
        """Keep them; nothing is touched."""
        self._host, self._owners, self._hypervisor, self._own = host, owners, hypervisor, own
        self._name = name

    def run(self, disks: Mapping[str, Disk[Any]]) -> None:
        """Take it; ``disks`` are those on record here, and those that a store has under the instance's name.

        :raises InstanceNotFound: if there is nothing of it, here or in a store.
        :raises InstanceElsewhere: if it, or a disk of it, is a host's that did not release it.
        :raises DiskError: if a disk of it is not there.
        :raises DiskBusy: if somebody has a disk open, or another host is about to take it.
        """
        self._expect_released(disks)
        left = self._left(disks)
        missing = {name for each in left.values() for name in each.disks} - disks.keys()
        if missing:
            raise errors.DiskError(
                f"{self._name} was released with disks that are not here: {', '.join(sorted(missing))}"
            )
        domain, ordered = self._adopted(left, disks), [disks[name] for name in sorted(disks)]
        TakingOver(self._host, self._owners, self._hypervisor, self._own, self._name, released=True).run(ordered)
        self._restore(left, domain)
        for name in left:
            disk = disks[name]
            if isinstance(disk, CarriesHandover):
                with disk.locked(changing=False):
                    disk.set_handover(None)

    def _expect_released(self, disks: Mapping[str, Disk[Any]]) -> None:
        free = (None, RELEASED, self._owners.known_me())
        owner = self._own.owner(self._name)
        if owner not in free:
            raise errors.InstanceElsewhere(
                f"{self._name} is {owner}'s, which did not release it: call imgbackend instance release {self._name} "
                "there; if that host uses it no more, take it over with --take-over"
            )
        for disk in disks.values():
            with disk.reading():
                mark = disk.mark() if isinstance(disk, Marked) else None
            if mark is not None and mark.owner not in free:
                raise errors.InstanceElsewhere(
                    f"{disk.id} on {disk.backend.name} is {mark.owner}'s, which did not release it, or not to the end: "
                    f"call imgbackend instance release {self._name} there"
                )

    def _left(self, disks: Mapping[str, Disk[Any]]) -> dict[str, Handover]:
        """What the former host left with the disks, by their names; nothing where this host has shared its folder."""
        found = {}
        for name, disk in disks.items():
            if not isinstance(disk, CarriesHandover) or not isinstance(disk, Marked):
                continue
            with disk.reading():
                text, mark = disk.handover(), disk.mark()
            handover = _read(disk.id, text, mark) if text is not None and mark is not None else None
            if handover is not None:
                found[name] = handover
        return found

    def _adopted(self, left: Mapping[str, Handover], disks: Mapping[str, Disk[Any]]) -> str | None:
        """The domain's XML as this host would have it; None: it came with none, or this folder has one."""
        domain = next((each.domain for each in left.values() if each.domain is not None), None)
        if domain is None or self._own.kept_xml(self._name) is not None:
            return None
        folder, sources = str(self._host.instances / self._name), [disk.source() for disk in disks.values()]
        return handed_xml.adopted(domain, self._name, folder, sources, self._owners.me())

    def _restore(self, left: Mapping[str, Handover], domain: str | None) -> None:
        """Records and XML, where this folder has none; the XML first: without records it is known whose it is."""
        me, durable = self._owners.me(), self._host.settings.durable
        known = self._host.records.all(self._name)
        folder = self._host.instances / self._name
        if domain is None and known.keys() >= left.keys():
            return
        changed = self._host.new_folder(folder)
        if domain is not None:
            write_xml(self._host, self._name, domain)
        for name, handover in left.items():
            if handover.record is not None and name not in known:
                record = replace(handover.record, owner=me)
                self._host.records.write(DiskId(instance=self._name, name=name), record, as_file=False, durable=durable)
        self._host.flush_folders([*changed, folder])


def _travels(disk: Disk[Any]) -> bool:
    """Whether whoever takes it needs nothing of the folder."""
    return isinstance(disk, CarriesHandover) and isinstance(disk, Marked) and not disk.backend.traits.files


def _written(handover: Handover, mark: Mark) -> str:
    record = handover.record
    fields = {key: value for key, value in asdict(record).items() if value is not None} if record is not None else None
    return json.dumps(
        {
            "version": _VERSION,
            "identity": mark.identity,
            "record": fields,
            "disks": handover.disks,
            "domain": handover.domain,
        }
    )


def _read(disk: DiskId, text: str, mark: Mark) -> Handover | None:
    """What was left with this very disk; None: with another, whose image this is a clone of.

    :raises DiskError: if it is not what imgbackend leaves.
    """
    try:
        content = json.loads(text)
        if content["identity"] != mark.identity:
            return None
        if content["version"] == _VERSION:
            return _parsed(disk, content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise errors.DiskError(
            f"what was left with {disk} when it was released is not what imgbackend writes ({exc}); take it over with "
            "--take-over, and spawn the instance anew"
        ) from exc
    raise errors.DiskError(f"{disk} was released by a newer version of imgbackend; take it with that, or a newer one")


def _parsed(disk: DiskId, content: Mapping[str, Any]) -> Handover:
    record, domain, disks = content["record"], content["domain"], content["disks"]
    if not isinstance(domain, str | None) or not all(isinstance(name, str) for name in disks):
        raise TypeError("a field is not of its type")
    known = record_of(disk.name, record) if record is not None else None
    return Handover(record=known, disks=tuple(disks), domain=domain)
