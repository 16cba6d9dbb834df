"""What a disk can do beyond the common verbs, and a clear line where it cannot."""

from typing import Any, TypeVar

from imgbackend.driver.abilities import Backed, Flattenable, Snapshottable
from imgbackend.driver.contract import Disk
from imgbackend.errors import DiskError

_T = TypeVar("_T")


def backing_of(disk: Disk[Any]) -> str | None:
    """The file that a disk depends on, where it depends on one."""
    found = disk.backing() if isinstance(disk, Backed) else None
    return None if found is None else str(found[0])


def snapshottable(disk: Disk[Any]) -> Snapshottable:
    """``disk``, as one that can have snapshots.

    :raises DiskError: if it cannot.
    """
    return _able(disk, Snapshottable, "snapshots")  # type: ignore[type-abstract]  # an ability is abstract by nature


def flattenable(disk: Disk[Any]) -> Flattenable:
    """``disk``, as one that can be made independent of its base.

    :raises DiskError: if it cannot.
    """
    return _able(disk, Flattenable, "flattening")  # type: ignore[type-abstract]  # an ability is abstract by nature


def _able(disk: Disk[Any], ability: type[_T], word: str) -> _T:
    if not isinstance(disk, ability):
        raise DiskError(f"{disk.id} is kept by {disk.backend.name}, whose driver {disk.backend.driver} has no {word}")
    return disk
