"""Disks without a thin pool: thick volumes, each a copy."""

import contextlib
import os
from typing import Final

from imgbackend import errors
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import qemu_img
from imgbackend.types import Declared, ImageInfo, Plan, Progress, Way
from imgbackend_lvm import wipe
from imgbackend_lvm.block_io import BLOCK, fill, opened, zero
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import check_name
from imgbackend_lvm.volume_names import GROWTH, dotted_name
from imgbackend_lvm.volumes import VolumeDisk

_NO_POOL: Final = "no thin pool: set thin_pool, and further disks of an image are made at once"
_TRIES: Final = 5


class _TakenError(Exception):
    """Somebody else has the extents now."""


class ThickDisk(VolumeDisk):
    """A thick volume: its room may be somebody else's bytes until it is overwritten."""

    backend: GroupBackend

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        """A copy, always."""
        whole = self.backend.rounded(size or (base.virtual_size if base else template.virtual_size) or 0)
        if template.role in {"generated", "private"}:
            return Plan(way="generate", writes=whole, needs=whole)
        way: Way = "copy" if base is None or base.format == "raw" else "convert"
        return Plan(way=way, reason=_NO_POOL, writes=whole, needs=whole)

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """All of the volume is written under another name: the base, and zeroes in its holes and after it."""
        if base.generated:
            return self.made_in_place(prepare_template, base, size)
        info = prepare_template(base)
        whole = max(size or 0, info.virtual_size)
        if info.format == "raw":
            self.made_from(base.open(), whole, base.progress)
            return "copy"
        self._convert(base, info, self.backend.rounded(whole))
        self.publish()
        return "convert"

    def _convert(self, base: Base, info: ImageInfo, whole: int) -> None:
        """By qemu-img, over zeroes where the base ends."""
        self._allocate(whole)
        with opened(self.backend.device(self.unfinished), os.O_RDWR | os.O_DIRECT) as target:
            zero(target, info.virtual_size // BLOCK * BLOCK, whole)
            layers, size = [(base.open(), info.format)], info.virtual_size
            qemu_img.convert(self.backend.host, layers, target, "raw", size=size, progress=base.progress, phase="copy")
            os.fsync(target)

    def _allocate(self, size: int) -> None:
        check_name(self.backend.group, self.withdrawn)  # a disk with a longer name could not be removed
        self.backend.lvm.lvcreate(self.backend.group, self.unfinished, size, tags=self.own_tags)

    def make(self, source: int, size: int, progress: Progress) -> None:
        """Every byte of the volume is written."""
        self._allocate(size)
        with opened(self.backend.device(self.unfinished), os.O_WRONLY | os.O_DIRECT) as target:
            fill(source, target, size, progress, phase="copy", zero=True)

    def resize_image(self, size: int) -> None:
        """By extents that are zeroed as a volume of their own, so that the disk never shows what was in them.

        Between that volume's removal and the growth they are free for a moment: where another
        command of lvm2's takes one, others are zeroed.
        """
        for _ in range(_TRIES):
            now = self.found().size
            if now >= size:
                return
            with contextlib.suppress(_TakenError):
                self._grow(now, self._zeroed(size - now))
                return
        raise errors.StorageUnavailable(f"others take the free extents of {self.backend.group} again and again")

    def _zeroed(self, size: int) -> list[str]:
        """Extents of that many bytes together, which are free and read as zeroes."""
        backend, lvm, tail = self.backend, self.backend.lvm, dotted_name(self.id, GROWTH)
        lvm.lvremove(backend.group, tail)
        lvm.lvcreate(backend.group, tail, size, tags=self.tags)
        wipe.zero(lvm.commands, backend.group, tail, 0, size, wipe.unheard)
        found = lvm.pe_ranges(backend.group, tail)
        lvm.lvremove(backend.group, tail)
        return found

    def _grow(self, size: int, extents: list[str]) -> None:
        """Add extents to the disk, which has ``size`` bytes.

        :raises _TakenError: if one of them is not free any more.
        """
        for each in extents:
            size += _count(each) * self.backend.extent
            try:
                self.backend.lvm.lvextend(self.backend.group, self.name, size, extents=each)
            except errors.StorageFull as exc:
                raise _TakenError from exc


def _count(extents: str) -> int:
    """Of a range ``<device>:<first>-<last>``."""
    first, _, last = extents.rpartition(":")[2].partition("-")
    return int(last) - int(first) + 1
