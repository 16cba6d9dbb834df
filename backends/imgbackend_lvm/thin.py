"""Disks in a thin pool: a snapshot of a base, whatever its size."""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Final

from imgbackend import errors
from imgbackend.driver.abilities import Snapshottable
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.types import Declared, DiskInfo, ImageInfo, Plan, Progress, SnapshotInfo, Way
from imgbackend_lvm.bases import ThinPoolBases
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import LogicalVolume, check_name, tag_of, value_of
from imgbackend_lvm.pool import Pool
from imgbackend_lvm.volumes import FROM, VolumeDisk, spent

SNAPSHOT: Final = "imgbackend.snapshot"
"""The tag of a snapshot: its name."""
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
        bases = self.backend.bases
        bases.offered = self
        prepare_template(base)
        self.backend.thin.refuse_full(bases.seen)
        tags, origin = (*self.tags, tag_of(FROM, base.name)), bases.volume_of(base.name)
        parent = next((volume for volume in bases.seen if volume.lv_name == origin), None)
        try:
            self.backend.lvm.lvcreate_snapshot(self.backend.group, origin, self.name, tags=tags)
        except errors.DiskNotFound as exc:
            raise errors.BaseMissing(f"the base {base.name} has just gone from {self.backend.pool}; try again") from exc
        if parent is not None:
            self._note(DiskInfo(format="raw", size=parent.lv_size, allocated=spent(parent)))
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
        pool.make(self.unfinished, source, size, self.tags, progress, phase="copy", seen=self.look())

    def resize_image(self, size: int) -> None:
        """One ``lvextend``; what is new is not mapped, and reads as zeroes."""
        known = self._known()
        self.backend.lvm.lvextend(self.backend.group, self.name, size)
        if known is not None:
            self._note(dataclasses.replace(known, size=size))

    def remove_image(self) -> None:
        """The disk, then its snapshots; the pool has their room again."""
        parts = self.parts()
        if self.name in parts:
            self.backend.lvm.lvremove(self.backend.group, self.name)
        if rest := parts.keys() - {self.name}:
            self.backend.lvm.lvremove(self.backend.group, *sorted(rest))

    def discard(self) -> None:
        """What was made of it, or of a rollback; and snapshots of a disk that is gone."""
        super().discard()
        parts = self._parts_in_place()
        if doomed := [name for name in parts if name[0] == "." or self.name not in parts]:
            self.backend.lvm.lvremove(self.backend.group, *sorted(doomed))

    def volume(self) -> LogicalVolume | None:
        """The disk's volume; where a rollback was killed while nothing had its name, it gets it now."""
        return self._parts_in_place().get(self.name)

    def _parts_in_place(self) -> dict[str, LogicalVolume]:
        """All volumes of this disk, once what is to have its name has it."""
        parts = self.parts()
        if (name := self._put_aside(parts)) is None:
            return parts
        self._take_name(name)
        return self.parts()

    def _take_name(self, name: str) -> None:
        """Without a lock: whoever is at it would do the same next, and one of both finds it done."""
        try:
            self.backend.lvm.lvrename(self.backend.group, name, self.name)
        except errors.DiskError:
            if self.name not in self.parts():
                raise

    def _put_aside(self, parts: Mapping[str, LogicalVolume]) -> str | None:
        """The volume that is to have the disk's name, where nothing has it."""
        return None if self.name in parts else next((name for name in (self._next, self._last) if name in parts), None)

    @property
    def _next(self) -> str:
        """The volume that a rollback puts into the disk's place."""
        return f".{self.name}+next"

    @property
    def _last(self) -> str:
        """The volume that was the disk before a rollback."""
        return f".{self.name}+last"

    # Snapshots

    def create_image_snap(self, name: str) -> None:
        """A thin snapshot, known by its tag."""
        self.refuse_open()
        self.backend.thin.refuse_full(self.look())
        backend, tags = self.backend, (*self.tags, tag_of(SNAPSHOT, name), tag_of(TIME, f"{time.time():.6f}"))
        backend.lvm.lvcreate_snapshot(
            backend.group, self.name, self._volume_of(name), tags=tags, permission="r", activate=False
        )

    def rollback_image_snap(self, name: str) -> None:
        """A snapshot of the snapshot takes the disk's name; killed between the renames, the next use completes it."""
        self.discard()
        volume, backend, lvm = self.refuse_open(), self.backend, self.backend.lvm
        backend.thin.refuse_full(self.look())
        lvm.lvcreate_snapshot(backend.group, self._volume_of(name), self._next, tags=(*self.tags, *_origin(volume)))
        lvm.lvrename(backend.group, self.name, self._last)
        self._take_name(self._next)
        lvm.lvremove(backend.group, self._last)

    def remove_image_snap(self, name: str) -> None:
        """Remove its volume."""
        self.refuse_open()
        self.backend.lvm.lvremove(self.backend.group, self._volume_of(name))

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        """By their tags."""
        found = []
        for volume in self.parts().values():
            name = value_of(volume.lv_tags, SNAPSHOT)
            if name is not None:
                found.append(SnapshotInfo(name=name, size=volume.lv_size, time=_made(volume)))
        yield from sorted(found, key=lambda snap: snap.time)

    def _volume_of(self, snapshot: str) -> str:
        digest = hashlib.sha1(snapshot.encode(), usedforsecurity=False).hexdigest()
        return f"{self.name}+{digest[:8]}"


def _origin(volume: LogicalVolume) -> Iterator[str]:
    """The tag that tells which base a disk was made from."""
    yield from (tag for tag in volume.lv_tags if tag.startswith(f"{FROM}="))


def _made(volume: LogicalVolume) -> float:
    return float(value_of(volume.lv_tags, TIME) or volume.lv_time)
