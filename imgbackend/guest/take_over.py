"""An instance of another host, or of another folder, becomes this one's: its disks, records and domain say so."""

import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from imgbackend import errors
from imgbackend.bases import instance_folders
from imgbackend.disks import record_stores
from imgbackend.disks.owners import Owners
from imgbackend.driver.abilities import Exclusive, Marked
from imgbackend.driver.contract import Disk
from imgbackend.guest.closed_disks import kept_closed
from imgbackend.guest.hypervisor import OFF, FoundDomain, Hypervisor
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.guest.spawn import write_xml
from imgbackend.state import domain_xml
from imgbackend.state.records import GOING, RESIZED
from imgbackend.system.host import Host
from imgbackend.types import Owner

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """What became of one instance of a host whose instances were taken over."""

    instance: str
    reason: str = ""
    """Why it was not; empty: it is this host's now."""


def instances_of(name: str, host: Host, marked: Iterable[tuple[Disk[Any], Owner | None]]) -> dict[str, str]:
    """The instances that are noted as those of the host of that name: by the records here, or by a store's mark.

    Also those whose records cannot be read, each with the reason: whose they are is not known.
    """
    found: dict[str, str] = {}
    for folder in instance_folders.instances(host):
        instance = _instance_of(folder)
        try:
            owner = host.records.owner(folder)
        except (errors.DiskError, OSError) as exc:
            found[instance] = str(exc)
            continue
        if owner is not None and owner.host == name:
            found.setdefault(instance, "")
    for disk, owner in marked:
        if owner is not None and owner.host == name:
            found.setdefault(disk.id.instance, "")
    return dict(sorted(found.items()))


def _instance_of(folder: str) -> str:
    return folder.removesuffix(GOING).removesuffix(RESIZED)


class TakingOver:
    """One take-over, with the instance's lock held.

    Killed at any point it is finished by the next one: the stores' notes go first, by compare-and-swap, and the
    records last.
    """

    def __init__(self, host: Host, owners: Owners, hypervisor: Hypervisor, own: OwnInstances, name: str) -> None:
        """Keep them; nothing is touched."""
        self._host, self._owners, self._hypervisor, self._own = host, owners, hypervisor, own
        self._name = name

    def run(self, disks: Sequence[Disk[Any]]) -> None:
        """Take it over; ``disks`` are those on record here, and those that a store has under the instance's name.

        :raises InstanceNotFound: if there is nothing to take over.
        :raises InstanceElsewhere: if a domain of that name is another folder's.
        :raises DiskBusy: if somebody has a disk open.
        :raises WrongStore: if this host's store of that name is not the one that a disk was made in.
        """
        for disk in disks:
            record_stores.expect_reached(disk)
        ends = ("", GOING, RESIZED)
        folders = [f"{self._name}{end}" for end in ends if (self._host.instances / f"{self._name}{end}").is_dir()]
        found, me = self._domain(), self._owners.me()
        if found is not None and not self._is_of_this_folder(found):
            self._own.domain(self._name)
        if found is None and not folders and not disks:
            raise errors.InstanceNotFound(f"there is no instance {self._name}")
        with contextlib.ExitStack() as stack:
            if found is None or found.state in OFF:  # else it is our own libvirt's guest that has them open
                for folder in folders:
                    stack.enter_context(kept_closed(self._host, folder))
                for disk in disks:
                    _expect_closed(disk)
            for disk in disks:
                self._mark(disk)
            for folder in folders:
                self._note(folder)
        if found is not None and found.owner != me:
            self._hypervisor.set_owner(self._name, me)
        LOG.info("Instance %s is %s's now", self._name, me)

    def _domain(self) -> FoundDomain | None:
        """The instance's domain; where it never had one, libvirt need not be there."""
        try:
            return self._hypervisor.find(self._name)
        except (errors.ConfigError, errors.HypervisorUnavailable):
            if self._own.kept_xml(self._name) is not None:
                raise
            return None

    def _is_of_this_folder(self, found: FoundDomain) -> bool:
        """By the folder's id, or, where its marker was lost and another made, by the paths of the domain."""
        if found.owner is not None and found.owner.folder == self._owners.me().folder:
            return True
        return found.instance == found.name and f"{self._host.instances / found.name}/" in self._hypervisor.xml(
            found.name
        )

    def _mark(self, disk: Disk[Any]) -> None:
        with disk.locked(changing=False):
            if not isinstance(disk, Marked):
                return
            mark = disk.mark()
            if mark is None or mark.owner == self._owners.me():
                return
            with disk.exclusively() if isinstance(disk, Exclusive) else contextlib.nullcontext():
                disk.set_mark(mark, self._owners.me())

    def _note(self, folder: str) -> None:
        me, durable = self._owners.me(), self._host.settings.durable
        before = self._host.records.owner(folder)
        if before != me:
            self._host.records.set_owner(folder, before, me, durable=durable)
        xml = self._own.kept_xml(folder)
        if xml is not None and domain_xml.owner_in(xml) != me:
            write_xml(self._host, folder, domain_xml.with_owner(xml, me))


def _expect_closed(disk: Disk[Any]) -> None:
    if disk.backend.traits.files:
        return  # by its folder's records, above
    with disk.locked(changing=False):
        disk.expect_closed()
