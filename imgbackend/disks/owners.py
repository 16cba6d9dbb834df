"""Whose a disk is: before anything is changed, it is this host's and this folder's, or the call is refused.

The owner of an instance is noted in its records, and, for hosts that do not share those, in the store, by drivers that
are :class:`~imgbackend.driver.abilities.Marked`.  What was noted by nobody is whoever's folder has it on record.
"""

import contextlib
import json
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from imgbackend import errors
from imgbackend.bases import instance_folders
from imgbackend.driver.abilities import Marked
from imgbackend.state import domain_xml, folder_marker
from imgbackend.state.records import DOMAIN, GOING
from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.types import RELEASED, Owner

if TYPE_CHECKING:
    from imgbackend.driver.contract import Disk

    AnyDisk: TypeAlias = Disk[Any]

LOG = logging.getLogger(__name__)


class Placement(Protocol):
    """Who decides which host an instance is on; a platform that does so passes its own to the engine."""

    def is_here(self, instance: str, owner: Owner, me: Owner, /) -> bool:
        """Whether this host may change an instance that was noted as ``owner``'s."""


class ByOwner:
    """An instance is where its owner is, until it is taken over."""

    def is_here(self, _instance: str, owner: Owner, me: Owner, /) -> bool:
        """Whether they are the same."""
        return owner == me


class Owners:
    """Tells own disks from others', for one engine."""

    def __init__(self, host: Host, placement: Placement | None = None) -> None:
        """Keep both; nothing is touched.  ``placement`` None: the notes decide."""
        self._host, self._placement = host, placement or ByOwner()
        self._folder: str | None = None

    def me(self) -> Owner:
        """This host and this folder, whose marker is made where it has none."""
        if self._folder is None:
            durable = self._host.settings.durable
            self._folder = folder_marker.make(self._host.instances, self._host.locks, durable=durable)
        return Owner(host=self._host.settings.hostname, folder=self._folder)

    def known_me(self) -> Owner | None:
        """This host and this folder; None where that has no marker yet: then nothing in it has an owner."""
        if self._folder is None:
            self._folder = folder_marker.read(self._host.instances)
        return None if self._folder is None else Owner(host=self._host.settings.hostname, folder=self._folder)

    def expect_mounted(self) -> None:
        """Before anything is written: see that the folder is no mount point on which nothing is mounted.

        Hosts are on record in such a one, from a time when nobody looked, and nothing that they made.

        :raises StorageUnavailable: if it looks so.
        """
        if self.known_me() is not None:
            return
        instances = self._host.instances
        if instances.is_symlink() and not instances.exists():
            raise errors.StorageUnavailable(
                f"{instances} is a link to nothing that is here now; mount what it leads to"
            )
        if (
            (instances / "compute_nodes").exists()
            and not self._host.bases.exists()
            and not instance_folders.instances(self._host)
        ):
            raise errors.StorageUnavailable(
                f"{instances} has hosts on record, and no disk, no base and no marker: mount its file system; "
                f"if it is empty indeed, remove {instances / 'compute_nodes'}"
            )

    def is_mine(self, instance: str, owner: Owner | None) -> bool:
        """Whether this host may change what is noted as that owner's; None: nobody noted it."""
        if owner is None:
            return True
        if owner == RELEASED:
            return False
        me = self.known_me()
        if me is None:  # the folder has no marker, so nothing of it was ever noted as its own
            return False
        return self._placement.is_here(instance, owner, me)

    def owner_of(self, instance: str) -> Owner | None:
        """Whose an instance is: by its records, and where those were lost by what was told to libvirt; None: nobody's.

        :raises DiskError: if its records are broken.
        """
        owner = self._host.records.owner(instance)
        return owner if owner is not None else domain_xml.owner_in(self._domain(instance))

    def put_aside_broken_records(self, instance: str) -> None:
        """Have an instance whose records are broken be one without records, for who wants it gone.

        :raises DiskElsewhere: if it is another's, by what can be read, or may be, for other hosts use the folder.
        """
        try:
            self._host.records.all(instance)
            self._host.records.nova_formats(instance)
        except errors.DiskError as exc:
            owner = self._readable_owner(instance)
            if not self.is_mine(instance, owner):
                raise errors.DiskElsewhere(f"{instance}, whose records are broken, is {owner}'s") from exc
            others = self._others() if owner is None else []
            if others:
                raise errors.DiskElsewhere(
                    f"nothing tells whose {instance} is, whose records are broken, and {', '.join(others)} use "
                    "the folder too; if it is this host's, move the broken files away by hand"
                ) from exc
            for path in self._host.records.put_aside_broken(instance):
                LOG.warning("The broken records of %s are put aside as %s", instance, path)

    def _readable_owner(self, instance: str) -> Owner | None:
        """Whose an instance is, though its disks' records may be broken; None: that cannot be told."""
        with contextlib.suppress(errors.DiskError):
            owner = self._host.records.owner(instance)
            if owner is not None:
                return owner
        return domain_xml.owner_in(self._domain(instance))

    def _others(self) -> list[str]:
        """Other hosts that made passes over the folder."""
        try:
            known = json.loads((self._host.instances / "compute_nodes").read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError):
            return ["others"]
        return sorted(set(known) - {self._host.settings.hostname}) if isinstance(known, dict) else ["others"]

    def check(self, disk: "AnyDisk", /, *, adopting: bool = False) -> None:
        """Refuse a disk that is another's, by its record, or by what its store notes.

        ``adopting``: one of which neither says anything may become this folder's; otherwise it is another's.

        :raises DiskElsewhere: with whose it is.
        """
        record = disk.recorded
        owner = (record.owner if record is not None else None) or self.owner_of(disk.id.instance)
        if not self.is_mine(disk.id.instance, owner):
            raise elsewhere(disk, owner)
        if adopting and owner not in (None, self.known_me()):  # whoever decides placement has moved it here
            self._host.records.set_owner(disk.id.instance, owner, self.me(), durable=self._host.settings.durable)
            if record is not None:
                disk.recorded = replace(record, owner=self.me())
        if record is None:
            self._expect_not_going(disk)
        if not isinstance(disk, Marked):
            return
        mark = disk.mark()
        if mark is None:
            return
        if not self.is_mine(disk.id.instance, mark.owner):
            raise elsewhere(disk, mark.owner)
        if record is None and mark.owner is None and not adopting:
            raise errors.DiskElsewhere(
                f"{disk.id} on {disk.backend.name} is not on record here, and its store does not tell whose it is; "
                "if it is yours, take it over by disk create"
            )
        if record is not None and mark.owner is not None and record.identity not in (None, mark.identity):
            raise errors.DiskElsewhere(
                f"{disk.id} on {disk.backend.name} is not the disk that is on record here: it was removed, and another "
                "was made under its name; look whose it is, then forget the record by cache leftovers"
            )

    def expect_unnamed(self, disk: "AnyDisk", /) -> None:
        """Refuse a disk without which an instance, off or not, would not start: by ``libvirt.xml`` in its folder.

        :raises DiskBusy: with the instance.
        """
        instance = disk.id.instance
        xml = self._domain(instance)
        if domain_xml.names_disk(xml, disk.source()) and disk.find() is not None:
            raise errors.DiskBusy(
                f"{disk.id} is a disk of the instance {instance}: imgbackend instance destroy {instance} takes both "
                "away, disk delete --force the disk alone"
            )

    def _domain(self, instance: str) -> str:
        """What ``libvirt.xml`` holds; empty where there is none."""
        try:
            return files.content(f"{self._host.instances}/{instance}/{DOMAIN}").decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def _expect_not_going(self, disk: "AnyDisk") -> None:
        """Refuse what a broken off destroy has not taken away yet: the instance that is made now has none of it."""
        instance = disk.id.instance
        if disk.backend.traits.files or not os.path.exists(f"{self._host.instances}/{instance}{GOING}"):
            return
        if disk.find() is not None:
            raise errors.DiskError(f"{instance} is being destroyed: imgbackend instance destroy {instance} finishes it")


def elsewhere(disk: "AnyDisk", owner: Owner | None) -> errors.DiskElsewhere:
    """The error of a disk that is another's."""
    if owner == RELEASED:
        return errors.DiskElsewhere(
            f"{disk.id} on {disk.backend.name} is nobody's: its instance was released; imgbackend instance take "
            f"{disk.id.instance} makes it this host's"
        )
    how = f": imgbackend cache hosts take-over {owner.host}" if owner is not None else ""
    return errors.DiskElsewhere(
        f"{disk.id} on {disk.backend.name} is {owner}'s; call it there, or, if it uses it no more, take it over{how}"
    )
