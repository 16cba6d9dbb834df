"""What a disk can be cloned from: the image itself, where its source keeps it inside the disk's own storage."""

from typing import TYPE_CHECKING, Any, TypeAlias

from imgbackend import errors
from imgbackend.driver.abilities import Cloneable, HoldsBases
from imgbackend.types import Declared, ImageInfo

if TYPE_CHECKING:
    from imgbackend.driver.contract import Disk

    AnyDisk: TypeAlias = Disk[Any]


def find(disk: "AnyDisk", declared: Declared | None, size: int | None) -> tuple[tuple[str, ImageInfo] | None, str]:
    """The location that the disk's storage can clone, and what is there; or None, and why not.

    :raises TemplateTooLarge: if what is there is larger than the disk.
    """
    refused = ""
    if not isinstance(disk, Cloneable) or declared is None or declared.role != "image":
        return None, refused
    kept = disk.backend.traits.formats
    for location in declared.locations:
        told = location.format or declared.format
        if told not in kept:  # its bytes would be the guest's disk
            instead = "imported once" if isinstance(disk.backend, HoldsBases) else f"only {' or '.join(kept)} is cloned"
            refused = f"the image is {told or 'of an undeclared format'}: {instead}"
            continue
        found = disk.parent(location.url)
        if isinstance(found, str):
            refused = found
            continue
        least = max(found.virtual_size, declared.min_disk)
        if size is not None and least > size:
            raise errors.TemplateTooLarge(least, size)
        return (location.url, found), ""
    return None, refused
