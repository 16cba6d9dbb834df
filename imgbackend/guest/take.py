"""An instance that a host released becomes this one's, see :mod:`imgbackend.guest.release`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from imgbackend import errors
from imgbackend.disks import record_stores
from imgbackend.disks.owners import Owners
from imgbackend.driver.abilities import CarriesHandover
from imgbackend.driver.contract import Disk
from imgbackend.guest import handed_xml, handover
from imgbackend.guest.hypervisor import Hypervisor
from imgbackend.guest.marked_disks import MarkedDisk
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.guest.spawn import write_xml
from imgbackend.guest.take_over import TakingOver
from imgbackend.state.records import GOING, RESIZED
from imgbackend.system.host import Host
from imgbackend.types import RELEASED, Progress

_Left: TypeAlias = Mapping[str, tuple[MarkedDisk, handover.Handover]]
"""Of the disks that the former host left something with, by their names."""


class Taking:
    """One taking, with the instance's lock held; killed at any point it goes on when it is called again.

    The stores note the new owner first, by compare-and-swap, in the order of the disks' names: one of two has all.
    """

    def __init__(
        self, host: Host, owners: Owners, hypervisor: Hypervisor, own: OwnInstances, name: str, progress: Progress
    ) -> None:
        """Keep them; nothing is touched.  ``progress`` is called while a disk's lock is waited for, and may raise."""
        self._host, self._owners, self._hypervisor, self._own = host, owners, hypervisor, own
        self._name, self._progress = name, progress

    def run(self, recorded: Mapping[str, Disk[Any]], marked: Iterable[MarkedDisk]) -> None:
        """Take it; ``recorded`` are the disks on record here, ``marked`` those that stores have under its name.

        What a store does not note as anybody's is nobody's to give, and is left alone.

        :raises InstanceNotFound: if there is nothing of it, here or in a store.
        :raises InstanceElsewhere: if it, or a disk of it, is a host's that did not release it, or another is here.
        :raises DiskError: if a disk of it is not there.
        :raises DiskBusy: if somebody has a disk open, or another host is about to take it.
        """
        if (self._host.instances / f"{self._name}{GOING}").is_dir():
            raise errors.InstanceError(
                f"{self._name} is being destroyed here: imgbackend instance destroy {self._name} finishes it"
            )
        offered = [each for each in marked if each.owner is not None]
        self._expect_released(offered)
        for each in offered:
            self._expect_same(each)
        left = {each.disk.id.name: (each, found) for each in offered if (found := _left_with(each)) is not None}
        disks = {**{each.disk.id.name: each.disk for each in offered}, **recorded}
        self._expect_all(disks, left)
        domain, ordered = self._adopted(left, disks), [disks[name] for name in sorted(disks)]
        TakingOver(
            self._host, self._owners, self._hypervisor, self._own, self._name, released=True, progress=self._progress,
            xml_comes=domain is not None,
        ).run(ordered)  # fmt: skip
        self._restore(left, domain)
        for each, _ in left.values():
            if isinstance(each.disk, CarriesHandover):
                with each.disk.locked(changing=False):
                    each.disk.set_handover(None)

    def _expect_released(self, offered: Sequence[MarkedDisk]) -> None:
        free, released = (RELEASED, self._owners.known_me()), False
        for folder in (self._name, f"{self._name}{RESIZED}"):
            owner = self._own.owner(folder)
            if owner is None:
                continue
            released = True
            if owner not in free:
                raise errors.InstanceElsewhere(
                    f"{folder} is {owner}'s, which did not release it: call imgbackend instance release {self._name} "
                    "there; if that host uses it no more, take it over with --take-over"
                )
        for each in offered:
            released = True
            if each.owner not in free:
                raise errors.InstanceElsewhere(
                    f"{each.disk.id} on {each.disk.backend.name} is {each.owner}'s, which did not release it, or not "
                    f"to the end: call imgbackend instance release {self._name} there; if that host took it from here, "
                    "the same call here clears away what is left"
                )
        if not released and self._own.has_folder(self._name):
            raise errors.InstanceElsewhere(f"nobody released {self._name}, and nobody noted whose it is")

    def _expect_same(self, offered: MarkedDisk) -> None:
        """See that a released disk is the very one that is on record here, if this host has an instance of the name."""
        records = self._host.records.all(self._name)
        if offered.owner != RELEASED or not self._own.has_folder(self._name):
            return
        record, disk = records.get(offered.disk.id.name), offered.disk
        if (
            record is None
            or record.backend != disk.backend.name
            or record.identity not in (None, offered.mark.identity)
        ):
            raise errors.InstanceElsewhere(
                f"{disk.id} on {disk.backend.name} was released by another host, and there is another instance "
                f"{self._name} here: destroy that, or, if it was released too, have imgbackend instance release "
                f"{self._name} clear away what is left of it"
            )

    def _expect_all(self, disks: Mapping[str, Disk[Any]], left: _Left) -> None:
        absent = {name for name, disk in disks.items() if not disk.may_be_there()}
        missing = {name for _, each in left.values() for name in each.disks} - disks.keys() | absent
        if missing:
            raise errors.DiskError(
                f"{self._name} was released with disks that are not here: {', '.join(sorted(missing))}; take it where "
                "they are, or, if they are gone, take it over with --take-over"
            )

    def _adopted(self, left: _Left, disks: Mapping[str, Disk[Any]]) -> str | None:
        """The domain's XML as this host would have it; None: it came with none, or this folder has the one to use.

        What this folder has is older where it is this host's still, and another released the disks since.
        """
        domain = next((each.domain for _, each in left.values() if each.domain is not None), None)
        is_older = self._own.owner(self._name) == self._owners.known_me() and any(
            marked.owner == RELEASED for marked, _ in left.values()
        )
        if domain is None or (self._own.kept_xml(self._name) is not None and not is_older):
            return None
        folder, sources = str(self._host.instances / self._name), [disk.source() for disk in disks.values()]
        return handed_xml.adopted(domain, self._name, folder, sources, self._owners.me())

    def _restore(self, left: _Left, domain: str | None) -> None:
        """Records and XML, where this folder has none; the XML first: without records it is known whose it is."""
        known = self._host.records.all(self._name)
        if domain is None and known.keys() >= left.keys():
            return
        folder, durable = self._host.instances / self._name, self._host.settings.durable
        changed = self._host.new_folder(folder)
        if domain is not None:
            write_xml(self._host, self._name, domain)
        for name, (marked, each) in left.items():
            if each.record is not None and name not in known:
                record = replace(each.record, owner=self._owners.me(), identity=marked.mark.identity)
                self._host.records.write(marked.disk.id, record, as_file=False, durable=durable)
        self._host.flush_folders([*changed, folder])


def _left_with(offered: MarkedDisk) -> handover.Handover | None:
    """What the former host left with a disk; None: nothing, as where this host has shared its folder."""
    disk = offered.disk
    if not isinstance(disk, CarriesHandover):
        return None
    with disk.reading():
        text = disk.handover()
    left = handover.read(disk.id, text, offered.mark) if text is not None else None
    if left is None or left.record is None:
        return left
    backend = disk.backend
    if left.record.format not in backend.traits.formats:
        raise errors.DiskError(
            f"what was left with {disk.id} says that it is {left.record.format!r}, which {backend.name} does not keep"
        )
    store = record_stores.identity_of(backend)
    return replace(left, record=replace(left.record, backend=backend.name, driver=backend.driver, store=store))
