"""The driver ``lvm``: with a thin pool, or without one."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from oslo_config import cfg, types

from imgbackend.driver.abilities import Checkable, ChecksBases, TellsLeftovers
from imgbackend.types import Capacity, DiskId, Finding, ImageInfo, Progress, StoreBase, StoreLeftover
from imgbackend_lvm import checks, leftovers
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import value_of
from imgbackend_lvm.thick import ThickDisk
from imgbackend_lvm.thin import ThinDisk, ThinGroup
from imgbackend_lvm.volume_names import BACKEND, disk_of, dotted_names, volume_name
from imgbackend_lvm.volumes import VolumeDisk


def _novas(name: str) -> list[cfg.DeprecatedOpt]:
    return [cfg.DeprecatedOpt(name, group="libvirt")]


class LvmBackend(GroupBackend, Checkable, TellsLeftovers):
    """A volume group, whose disks are thick volumes; with a thin pool, :class:`ThinBackend`."""

    disk_type: ClassVar[type[VolumeDisk]] = ThickDisk
    opts: ClassVar[Sequence[cfg.Opt]] = (
        cfg.StrOpt(
            "volume_group", deprecated_opts=_novas("images_volume_group"), help="The volume group; it has to be there."
        ),
        cfg.StrOpt(
            "thin_pool",
            help="A thin pool of that group: disks are snapshots of a base in it, made at once whatever their size. "
            "None: each disk is a thick volume, and a copy.",
        ),
        cfg.StrOpt(
            "volume_clear",
            default="zero",
            choices=["none", "zero", "shred"],
            deprecated_opts=_novas("volume_clear"),
            help="How a thick volume is overwritten when it is removed. A thin one is not: its pool gives out zeroes.",
        ),
        cfg.Opt(
            "volume_clear_size",
            type=types.Integer(min=0),
            default=0,
            deprecated_opts=_novas("volume_clear_size"),
            help="MiB at the start of a thick volume that are overwritten when it is removed; 0: all of it.",
        ),
        cfg.BoolOpt(
            "allow_unzeroed_pool",
            default=False,
            help="Use a thin pool that does not zero new chunks: guests may see what others have written.",
        ),
        cfg.StrOpt(
            "root_helper",
            help="What runs the commands of lvm2 as root where this process is not; None: sudo -n.",
        ),
    )

    @classmethod
    def for_options(cls, conf: cfg.ConfigOpts.GroupAttr) -> "type[LvmBackend]":
        """With a thin pool, or without."""
        return ThinBackend if conf.thin_pool else cls

    def capacity(self) -> Capacity:
        """Of the group."""
        found = self.lvm.vgs(self.group)
        return Capacity(total=found.vg_size, free=found.vg_free)

    def findings(self) -> Iterator[Finding]:
        """Of the group, and of the pool where there is one."""
        return checks.findings(self.lvm, self.host, self.group, self.conf.thin_pool)

    def list_disks(self) -> Iterator[DiskId]:
        """By their tags and names, whether whole, unfinished, or not yet cleared; Nova's by their records."""
        found: dict[DiskId, None] = {}
        volumes = self.volumes()
        names = {volume.lv_name for volume in volumes}
        for volume in volumes:
            disk = disk_of(volume.lv_tags)
            if disk is None or value_of(volume.lv_tags, BACKEND) != self.name:
                continue
            if volume.lv_name in {volume_name(disk), *dotted_names(disk)}:
                found[disk] = None
        for disk in self.host.records.kept_by(self.name):
            if volume_name(disk) in names:
                found[disk] = None
        yield from found

    def leftovers(self) -> Iterator[StoreLeftover]:
        """By their tags and names."""
        return leftovers.of_disks(self, self.volumes())


class ThinBackend(LvmBackend, ThinGroup, ChecksBases):
    """Disks are thin volumes, and the pool keeps their bases."""

    disk_type = ThinDisk

    def capacity(self) -> Capacity:
        """Of the pool."""
        return self.thin.capacity()

    def leftovers(self) -> Iterator[StoreLeftover]:
        """By their tags and names; and what tells when bases were used that are gone."""
        volumes = self.volumes()
        yield from leftovers.of_disks(self, volumes)
        yield from self.bases.leftovers(volumes)
        yield from self.bases.outlived(volumes)

    def find_base(self, name: str) -> StoreBase | None:
        """By its tag."""
        return self.bases.find(name)

    def list_bases(self) -> Iterator[StoreBase]:
        """By their tags."""
        return self.bases.all()

    def touch_base(self, name: str) -> None:
        """In a file beside the local bases."""
        self.bases.touch(name)

    def remove_base(self, name: str) -> None:
        """With its file."""
        self.bases.remove(name)

    def import_base(
        self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress
    ) -> StoreBase:
        """Its data are written into a thin volume under another name."""
        return self.bases.take(name, path, info, tags, progress)

    def read_base(self, name: str) -> Generator[tuple[int, bytes | memoryview], None, None]:
        """From its device, which it has meanwhile."""
        return self.bases.read(name)

    def tag_base(self, name: str, tags: Mapping[str, str]) -> None:
        """As tags of its volume."""
        self.bases.tag(name, tags)

    def rename_base(self, name: str, new: str, tags: Mapping[str, str]) -> None:
        """By its tags, then its volume."""
        self.bases.rename(name, new, tags)
