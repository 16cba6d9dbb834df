"""What killed calls left in a group, known by the tags and the names of volumes; and what people put aside there."""

from collections.abc import Iterator
from typing import Final

from imgbackend.types import DiskId, StoreLeftover
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import LogicalVolume, value_of
from imgbackend_lvm.volume_names import (
    BACKEND,
    FORMER,
    WITHDRAWN,
    advice_for_renamed,
    advice_for_snapshots,
    disk_of,
    dotted_name,
    dotted_names,
    is_snapshot,
    volume_name,
)

_STAND_INS: Final = (FORMER, WITHDRAWN)
"""Ends of the names of volumes that were the disk: beside one of them its snapshots are not alone."""


def of_disks(backend: GroupBackend, volumes: list[LogicalVolume]) -> Iterator[StoreLeftover]:
    """Volumes that were to be disks or go; and whole ones that no disk has, which are told and never removed."""
    names = {volume.lv_name for volume in volumes}
    for volume in volumes:
        disk = disk_of(volume.lv_tags)
        if value_of(volume.lv_tags, BACKEND) != backend.name or disk is None or volume.lv_name == volume_name(disk):
            continue
        if volume.lv_name in dotted_names(disk):
            yield _left(backend, volume, disk)
        elif not is_snapshot(volume, disk):
            yield _left(backend, volume, disk, advice_for_renamed(backend.name, disk, volume))
        elif names.isdisjoint((volume_name(disk), *(dotted_name(disk, end) for end in _STAND_INS))):
            yield _left(backend, volume, disk, advice_for_snapshots(backend.name, disk, [volume]))


def _left(backend: GroupBackend, volume: LogicalVolume, disk: DiskId, kept_because: str = "") -> StoreLeftover:
    return StoreLeftover(
        name=f"{backend.group}/{volume.lv_name}",
        disk=disk,
        base=None,
        allocated=volume.spent,
        time=float(volume.lv_time),
        kept_because=kept_because,
    )
