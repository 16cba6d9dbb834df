"""Disks in a thin pool: a snapshot of a base, whatever its size."""

import hashlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from imgbackend import errors
from imgbackend.abilities import Snapshottable
from imgbackend.templates import Base, PrepareTemplate
from imgbackend.types import Declared, ImageInfo, Plan, Progress, SnapshotInfo, Way
from imgbackend_lvm.lvm2 import LogicalVolume, tag_of, value_of
from imgbackend_lvm.volumes import FROM, VolumeDisk

if TYPE_CHECKING:
    from imgbackend_lvm.driver import ThinBackend

SNAPSHOT: Final = "imgbackend.snapshot"
"""The tag of a snapshot: its name."""
TIME: Final = "imgbackend.time"
"""When it was made, in seconds since 1970."""


class ThinDisk(VolumeDisk, Snapshottable):
    """A thin volume; its snapshots are thin volumes too, which are not active."""

    backend: "ThinBackend"

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
        prepare_template(base)
        self.backend.thin.refuse_full()
        tags, origin = (*self.tags, tag_of(FROM, base.name)), self.backend.bases.volume_of(base.name)
        try:
            self.backend.lvm.lvcreate_snapshot(self.backend.group, origin, self.name, tags=tags)
        except errors.DiskNotFound as exc:
            raise errors.BaseMissing(f"the base {base.name} has just gone from {self.backend.pool}; try again") from exc
        return "snapshot"

    def allocate(self, size: int) -> None:
        """A thin volume takes no room before it is written to."""
        backend = self.backend
        backend.lvm.lvcreate_thin(backend.group, backend.pool, self.unfinished, size, tags=self.tags)

    def fill(self, source: int, size: int, progress: Progress) -> None:
        """The data alone: what a thin volume does not map reads as zeroes."""
        self.backend.thin.write(self.unfinished, source, size, progress, phase="copy")

    def resize_image(self, size: int) -> None:
        """One ``lvextend``; what is new is not mapped, and reads as zeroes."""
        self.backend.lvm.lvextend(self.backend.group, self.name, size)

    def remove_image(self) -> None:
        """The disk, then its snapshots; the pool has their room again."""
        parts = self.parts()
        if self.name in parts:
            self.backend.lvm.lvremove(self.backend.group, self.name)
        if rest := parts.keys() - {self.name}:
            self.backend.lvm.lvremove(self.backend.group, *sorted(rest))

    def discard(self) -> None:
        """What was made of it; a rollback that was killed is completed, and so is a removal."""
        super().discard()
        parts = self.parts()
        copies = {name for name in parts if name[0] == "." and name != self.unfinished}
        whole = {name for name in copies if self.name in parts and name[1:] not in parts}
        for name in whole:
            self.backend.lvm.lvrename(self.backend.group, name, name[1:])
        orphans = set() if self.name in parts else parts.keys()
        if doomed := ({self.unfinished} & parts.keys()) | (copies - whole) | orphans:
            self.backend.lvm.lvremove(self.backend.group, *sorted(doomed))

    # Snapshots

    def create_image_snap(self, name: str) -> None:
        """A thin snapshot, known by its tag."""
        self.refuse_open()
        self.backend.thin.refuse_full()
        tags = (*self.tags, tag_of(SNAPSHOT, name), tag_of(TIME, f"{time.time():.6f}"))
        self._snapshot(self.name, self._volume_of(name), tags)

    def rollback_image_snap(self, name: str) -> None:
        """The snapshot becomes the disk, in one step of lvm2's; a copy of it, made before, takes its place.

        Killed between, the copy has another name until the next call, and is listed for what it is.
        """
        self.discard()
        self.refuse_open()
        self.backend.thin.refuse_full()
        kept = self._volume_of(name)
        backend, copy = self.backend, f".{kept}"
        self._snapshot(kept, copy, self.parts()[kept].lv_tags)
        backend.lvm.lvconvert_mergethin(backend.group, kept)
        if backend.lvm.lvs(backend.group, kept):
            raise errors.DiskBusy(f"{self.device} is open in another process; it is rolled back when that has ended")
        backend.lvm.lvrename(backend.group, copy, kept)
        self.found()

    def remove_image_snap(self, name: str) -> None:
        """Remove its volume."""
        self.discard()
        self.refuse_open()
        self.backend.lvm.lvremove(self.backend.group, self._volume_of(name))

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        """By their tags."""
        found = {}
        for volume in self.parts().values():
            name = value_of(volume.lv_tags, SNAPSHOT)
            if name is not None:
                found[name] = SnapshotInfo(name=name, size=volume.lv_size, time=_made(volume))
        yield from sorted(found.values(), key=lambda snap: snap.time)

    def _volume_of(self, snapshot: str) -> str:
        digest = hashlib.sha1(snapshot.encode(), usedforsecurity=False).hexdigest()
        return f"{self.name}+{digest[:8]}"

    def _snapshot(self, origin: str, name: str, tags: tuple[str, ...]) -> None:
        self.backend.lvm.lvcreate_snapshot(self.backend.group, origin, name, tags=tags, permission="r", activate=False)


def _made(volume: LogicalVolume) -> float:
    return float(value_of(volume.lv_tags, TIME) or volume.lv_time)
