"""Whether a disk that exists was made of the image that is asked for: it is not silently taken for one of another."""

from typing import TYPE_CHECKING, Any, TypeAlias

from imgbackend import errors
from imgbackend.bases.fetch import declared_of, role_of
from imgbackend.types import FetchFunc

if TYPE_CHECKING:
    from imgbackend.driver.contract import Disk

    AnyDisk: TypeAlias = Disk[Any]


def other_image(disk: "AnyDisk", fetch: FetchFunc, filename: str) -> tuple[str, str] | None:
    """The ids of the image that a disk was made of, and of the one that is asked for, where both are known and differ.

    The source is asked for nothing where the disk's base has the name that is asked for.
    """
    record = disk.recorded
    if record is None or record.image_id is None or not (record.base or record.digest) or record.base == filename:
        return None
    if role_of(fetch) not in {"image", "boot-file"}:
        return None
    try:
        declared = declared_of(fetch)
    except errors.SourceError:
        return None  # nobody knows what its id is now
    asked = declared.image_id if declared is not None else ""
    return (record.image_id, asked) if asked not in {"", record.image_id} else None


def check(disk: "AnyDisk", fetch: FetchFunc, filename: str) -> None:
    """Refuse a disk that was made of another image.

    :raises DiskError: with both images.
    """
    differing = other_image(disk, fetch, filename)
    if differing is not None:
        had, asked = differing
        raise errors.DiskError(
            f"{disk.id} was made of the image {had}, and {asked} was asked for; an image file that was changed is "
            "another one: give the image that the disk was made of, or delete the disk first"
        )
