"""An instance of another host, or of another folder, becomes this one's: its disks, records and domain say so."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from imgbackend import errors
from imgbackend.bases import instance_folders
from imgbackend.disks import record_stores
from imgbackend.disks.owners import Owners, elsewhere
from imgbackend.driver.abilities import Exclusive, Marked
from imgbackend.driver.contract import Disk
from imgbackend.guest.closed_disks import kept_closed
from imgbackend.guest.hypervisor import OFF, FoundDomain, Hypervisor
from imgbackend.guest.marked_disks import MarkedDisk, mark_of
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.guest.spawn import write_xml
from imgbackend.state import domain_xml
from imgbackend.state.records import GOING, RESIZED
from imgbackend.system.host import Host
from imgbackend.types import RELEASED, Owner, Progress, ignore

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """What became of one instance of a host whose instances were taken over."""

    instance: str
    reason: str = ""
    """Why it was not; empty: it is this host's now."""


def instances_of(name: str, host: Host, marked: Iterable[MarkedDisk]) -> dict[str, str]:
    """The instances that are noted as those of the host of that name: by the records here, or by a store's mark.

    Also those whose records cannot be read, each with the reason: whose they are is not known.

    :raises ConfigError: if no host can have that name.
    """
    if name == RELEASED.host:
        raise errors.ConfigError(f"{name} is no host; imgbackend instance take takes what was released")
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
    for each in marked:
        if each.owner is not None and each.owner.host == name:
            found.setdefault(each.disk.id.instance, "")
    return dict(sorted(found.items()))


def _instance_of(folder: str) -> str:
    return folder.removesuffix(GOING).removesuffix(RESIZED)


class TakingOver:
    """One take-over, with the instance's lock held.

    Killed at any point it is finished by the next one: the stores' notes go first, by compare-and-swap, and the
    records last.
    """

    def __init__(
        self,
        host: Host,
        owners: Owners,
        hypervisor: Hypervisor,
        own: OwnInstances,
        name: str,
        *,
        released: bool = False,
        xml_comes: bool = False,
        progress: Progress = ignore,
    ) -> None:
        """Keep them; nothing is touched.

        ``released``: only what its former owner released is taken.  ``xml_comes``: the caller writes ``libvirt.xml``
        afterwards, where there is none.  ``progress`` is called while a disk's lock is waited for, and may raise.
        """
        self._host, self._owners, self._hypervisor, self._own = host, owners, hypervisor, own
        self._name, self._released, self._xml_comes, self._progress = name, released, xml_comes, progress

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
        if found is not None and found.state not in OFF and self._released:
            raise errors.InstanceError(f"a guest of the name {self._name} runs here; stop it first")
        with contextlib.ExitStack() as stack:
            if found is None or found.state in OFF:  # else it is our own libvirt's guest that has them open
                for folder in folders:
                    stack.enter_context(kept_closed(self._host, folder))
                for disk in disks:
                    expect_closed(disk, self._progress)
            if found is not None and self._is_stale(found, disks):
                self._hypervisor.forget(self._name)  # first: killed after it, what comes next is the same
                found = None
            for disk in disks:
                note_owner(disk, me, (lambda owner: owner == RELEASED) if self._released else None, self._progress)
            for folder in folders:
                self._note(folder)
        if found is not None and found.owner != me:
            self._hypervisor.set_owner(self._name, me)
        LOG.info("Instance %s is %s's now", self._name, me)

    def _domain(self) -> FoundDomain | None:
        return self._own.reached(self._name, self._hypervisor.find)

    def _is_stale(self, found: FoundDomain, disks: Sequence[Disk[Any]]) -> bool:
        """Whether a domain that is off is from a time before the instance was its present owner's, and another comes.

        It may have other disks, and a saved memory that knows an older content of them.
        """
        if found.state not in OFF or not (self._xml_comes or self._own.kept_xml(self._name) is not None):
            return False
        marks = [mark_of(disk) for disk in disks]
        owners = {self._own.owner(self._name), *(mark.owner for mark in marks if mark is not None)}
        before = owners - {None, self._owners.me()}
        return self._xml_comes or bool(before and found.owner not in {None, *before})

    def _is_of_this_folder(self, found: FoundDomain) -> bool:
        """By the folder's id, or, where its marker was lost and another made, by the paths of the domain."""
        if found.owner is not None and found.owner.folder == self._owners.me().folder:
            return True
        return found.instance == found.name and f"{self._host.instances / found.name}/" in self._hypervisor.xml(
            found.name
        )

    def _note(self, folder: str) -> None:
        me, durable = self._owners.me(), self._host.settings.durable
        before = self._host.records.owner(folder)
        if before != me:
            if self._released and before not in (None, RELEASED):
                raise errors.InstanceElsewhere(f"{folder} is {before}'s meanwhile")
            self._host.records.set_owner(folder, before, me, durable=durable)
        xml = self._own.kept_xml(folder)
        if xml is not None:
            after = domain_xml.with_owner(domain_xml.moved(xml, str(self._host.instances / self._name)), me)
            if after != xml:
                write_xml(self._host, folder, after)


def note_owner(
    disk: Disk[Any], after: Owner, of: Callable[[Owner | None], bool] | None, progress: Progress = ignore
) -> None:
    """Have the store of a disk note another owner, in one step; one that notes none has nothing changed.

    ``of``: whether that may be so, of the owner until then; None: whoever it is.

    :raises DiskElsewhere: if it is another's.
    :raises DiskBusy: if somebody has it open.
    """
    with disk.locked(progress, changing=False):
        mark = disk.mark() if isinstance(disk, Marked) else None
        if not isinstance(disk, Marked) or mark is None or mark.owner == after:
            return
        if of is not None and not of(mark.owner):
            raise elsewhere(disk, mark.owner)
        with disk.exclusively() if isinstance(disk, Exclusive) else contextlib.nullcontext():
            disk.set_mark(mark, after)


def expect_closed(disk: Disk[Any], progress: Progress = ignore) -> None:
    """Refuse a disk that is kept in a store, and that somebody has open.

    :raises DiskBusy: if somebody has.
    """
    if disk.backend.traits.files or not disk.may_be_there():
        return  # by its folder's records, above; of one that is gone nobody has anything
    with disk.locked(progress, changing=False):
        disk.expect_closed()
