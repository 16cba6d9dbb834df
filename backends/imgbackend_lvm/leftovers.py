"""What killed calls left in a group, known by the tags of volumes."""

from collections.abc import Iterator
from typing import Final

from imgbackend.types import DiskId, StoreLeftover
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import LogicalVolume, value_of
from imgbackend_lvm.volumes import BACKEND, DISK, spent, volume_name

_BASE: Final = "imgbackend.base"


def leftovers(backend: GroupBackend, volumes: list[LogicalVolume]) -> Iterator[StoreLeftover]:
    """Volumes whose names begin with a dot, and snapshots of disks that are gone."""
    names = {volume.lv_name for volume in volumes}
    for volume in volumes:
        if value_of(volume.lv_tags, BACKEND) != backend.name:
            continue
        disk, base = disk_of(volume.lv_tags), value_of(volume.lv_tags, _BASE)
        alone = disk is not None and volume_name(disk) not in names
        if (disk is not None or base is not None) and (volume.lv_name[0] == "." or alone):
            yield StoreLeftover(
                name=f"{backend.group}/{volume.lv_name}",
                disk=disk,
                base=base if disk is None else None,
                allocated=spent(volume),
                time=float(volume.lv_time),
            )


def disk_of(tags: tuple[str, ...]) -> DiskId | None:
    """The disk that a volume belongs to; None: none, or it was tagged by hand."""
    instance, _, name = (value_of(tags, DISK) or "").partition("/")
    try:
        return DiskId(instance=instance, name=name)
    except ValueError:
        return None
