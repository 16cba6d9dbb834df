"""Disks in a thin pool: a snapshot of a base, whatever its size."""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Final

from imgbackend import errors
from imgbackend.driver.abilities import Snapshottable
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.types import Declared, DiskInfo, ImageInfo, Plan, Progress, SnapshotInfo, Way
from imgbackend_lvm.bases import ThinPoolBases
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import LogicalVolume, check_name, tag_of, value_of
from imgbackend_lvm.pool import Pool
from imgbackend_lvm.volume_names import FROM, IDENTITY, OWNER, SNAPSHOT, snapshot_name
from imgbackend_lvm.volumes import VolumeDisk

TIME: Final = "imgbackend.time"
"""When it was made, in seconds since 1970."""


class ThinGroup(GroupBackend):
    """A group with a thin pool, which keeps the bases of its disks."""

    @property
    def pool(self) -> str:
        """The thin pool's name."""
        return str(self.conf.thin_pool)

    @functools.cached_property
    def thin(self) -> Pool:
        """Its room."""
        return Pool(self, self.pool)

    @functools.cached_property
    def bases(self) -> ThinPoolBases:
        """Its bases."""
        return ThinPoolBases(self, self.thin)

    def open(self) -> None:
        """See that the pool is there, and gives out zeroes."""
        super().open()
        check_name(self.group, self.pool)
        if not self.thin.volume().zeroes and not self.conf.allow_unzeroed_pool:
            raise errors.ConfigError(
                f"{self.thin.name} does not zero new chunks: guests would see what others have written; "
                f"set it: lvchange --zero y {self.group}/{self.pool}"
            )


class ThinDisk(VolumeDisk, Snapshottable):
    """A thin volume; its snapshots are thin volumes too, which are not active."""

    backend: ThinGroup
    _made: tuple[object, DiskInfo] | None = None

    def find(self) -> DiskInfo | None:
        """As of any volume; what this turn made itself, and nothing has changed since, is known."""
        return self._known() or super().find()

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:  # noqa: ARG002 - growing is free
        """A snapshot, always; its base is imported into the pool once."""
        if template.role in {"generated", "private"}:
            return Plan(way="generate", writes=template.size or 0, needs=template.size or 0)
        whole = 0 if base is not None else template.virtual_size or template.size or 0
        return Plan(way="snapshot", writes=whole, needs=whole)

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """One ``lvcreate``; the disk is as large as its base, and grown by the engine."""
        if base.generated:
            return self.made_in_place(prepare_template, base, size)
        check_name(self.backend.group, self.withdrawn)  # a disk with a longer name could not be removed
        bases = self.backend.bases
        bases.offered = self
        prepare_template(base)
        self.backend.thin.refuse_full(bases.seen)
        tags, origin = (*self.own_tags, tag_of(FROM, base.name)), bases.volume_of(base.name)
        parent = next((volume for volume in bases.seen if volume.lv_name == origin), None)
        try:
            self.backend.lvm.lvcreate_snapshot(self.backend.group, origin, self.name, tags=tags)
        except errors.DiskNotFound as exc:
            raise errors.BaseMissing(f"the base {base.name} has just gone from {self.backend.pool}; try again") from exc
        if parent is not None:
            self._note(DiskInfo(format="raw", size=parent.lv_size, allocated=parent.spent))
        return "snapshot"

    def _note(self, made: DiskInfo) -> None:
        """What the disk is like after a command that went well."""
        moment = self.moment()
        self._made = None if moment is None else (moment, made)

    def _known(self) -> DiskInfo | None:
        """What the disk is like, where this turn made it so."""
        return self._made[1] if self._made is not None and self._made[0] == self.moment() else None

    def make(self, source: int, size: int, progress: Progress) -> None:
        """The data alone: what a thin volume does not map reads as zeroes."""
        pool = self.backend.thin
        check_name(self.backend.group, self.withdrawn)
        pool.make(self.unfinished, source, size, self.own_tags, progress, phase="copy", seen=self.look())

    def resize_image(self, size: int) -> None:
        """One ``lvextend``; what is new is not mapped, and reads as zeroes."""
        known = self._known()
        self.backend.lvm.lvextend(self.backend.group, self.name, size)
        if known is not None:
            self._note(dataclasses.replace(known, size=size))

    # Snapshots

    def create_image_snap(self, name: str) -> None:
        """A thin snapshot, known by its tag."""
        self.refuse_open()
        self.backend.thin.refuse_full(self.look())
        backend, tags = self.backend, (*self.tags, tag_of(SNAPSHOT, name), tag_of(TIME, f"{time.time():.6f}"))
        backend.lvm.lvcreate_snapshot(
            backend.group, self.name, snapshot_name(self.id, name), tags=tags, permission="r", activate=False
        )

    def rollback_image_snap(self, name: str) -> None:
        """A snapshot of the snapshot takes the disk's name; killed between the renames, the next use ends it.

        :raises DiskBusy: if something has the disk open; it is as it was.
        """
        self.discard()
        volume, backend, lvm = self.refuse_open(), self.backend, self.backend.lvm
        backend.thin.refuse_full(self.look())
        origin, tags = snapshot_name(self.id, name), (*self.tags, *_origin(volume))
        lvm.lvcreate_snapshot(backend.group, origin, self.replacement, tags=tags)
        try:
            self.withdraw(volume, self.former)
        except errors.DiskBusy:
            lvm.lvremove(backend.group, self.replacement)
            raise
        self._replace()
        lvm.lvremove(backend.group, self.former)

    def _replace(self) -> None:
        """Give the replacement the disk's name; whoever looked meanwhile may have done it already."""
        try:
            self.backend.lvm.lvrename(self.backend.group, self.replacement, self.name)
        except errors.DiskError as exc:
            if self.replacement in self.parts():  # he gave the name back, for he looked before the device was gone
                raise errors.DiskBusy(f"{self.device} was looked at by another process; try again") from exc

    def remove_image_snap(self, name: str) -> None:
        """Remove its volume."""
        self.refuse_open()
        self.backend.lvm.lvremove(self.backend.group, snapshot_name(self.id, name))

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        """By their tags."""
        found = []
        for volume in self.parts().values():
            name = value_of(volume.lv_tags, SNAPSHOT)
            if name is not None:
                found.append(SnapshotInfo(name=name, size=volume.lv_size, time=_made(volume)))
        yield from sorted(found, key=lambda snap: snap.time)


def _origin(volume: LogicalVolume) -> Iterator[str]:
    """The tags that tell which base a disk was made from, whose it is, and which."""
    kept = tuple(f"{key}=" for key in (FROM, OWNER, IDENTITY))
    yield from (tag for tag in volume.lv_tags if tag.startswith(kept))


def _made(volume: LogicalVolume) -> float:
    return float(value_of(volume.lv_tags, TIME) or volume.lv_time)
