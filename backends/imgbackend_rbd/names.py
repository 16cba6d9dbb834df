"""What the name of a disk points to: an image, or for a while nothing.

A name is an object of the pool that has the id of the image, and who opens an image by its
name reads that first.  While a disk is rolled back, or before it is removed, its name has
something else instead of the id: then nobody can open the disk, nor make another of that
name, for Ceph's list of images has it still.  One request hides a disk or shows it again, so
that nobody ever opens a disk that is half rolled back.  What has the image open already is
among its watchers, and is looked for when the name is hidden.
"""

import contextlib
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgbackend import errors
from imgbackend_rbd import headers

if TYPE_CHECKING:
    from rados import Ioctx

_OBJECT: Final = "rbd_id."
_LIST: Final = "rbd_directory"
"""The object that lists the pool's images by name and by id."""
_ROLLBACK: Final = "imgbackend-rollback."
_REMOVAL: Final = "~"
"""No id of Ceph's begins so.  The name has as many bytes as before: a full pool takes no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """A rollback that is going on, or was broken off, as the disk's name says."""

    image: str
    """The id of the image."""
    snapshot: int
    """Ceph's number of the snapshot."""

    def __str__(self) -> str:
        return f"{_ROLLBACK}{self.image}.{self.snapshot}"


def rollback(pointed: str) -> Rollback | None:
    """What the content of a name says of a rollback; None: it is the id of an image, or of a removal."""
    image, _, snapshot = pointed.removeprefix(_ROLLBACK).rpartition(".")
    return Rollback(image=image, snapshot=int(snapshot)) if pointed.startswith(_ROLLBACK) else None


def removal(image_id: str) -> str:
    """The content of the name of an image that is being removed."""
    return _REMOVAL + image_id[1:]


def is_removal(pointed: str) -> bool:
    """Whether the content of a name says that its image is being removed."""
    return pointed.startswith(_REMOVAL)


def point(ioctx: "Ioctx", name: str, before: str, after: str) -> None:
    """Change what a name has, in one request, if it has ``before``.

    :raises DiskBusy: if it has something else.
    """
    op = ioctx.create_write_op()
    try:
        op.cmpext(headers.packed(before.encode()), 0)
        op.write_full(headers.packed(after.encode()))
        ioctx.operate_write_op(op, f"{_OBJECT}{name}")
    except Exception as exc:
        if (getattr(exc, "errno", None) or 0) < headers.MISMATCH and getattr(exc, "errno", None) != errno.ECANCELED:
            raise
        raise errors.DiskBusy(f"{name} was made anew, or changed, just now; try again") from exc
    finally:
        ioctx.release_write_op(op)


def rename(ioctx: "Ioctx", image_id: str, before: str, after: str, absent: tuple[type[Exception], ...]) -> None:
    """Give an image another name, in the steps of librbd's own, which refuses to go on with one that was broken off.

    Killed between two of them both names lead to the image; called again it goes on.  ``absent`` are librados'
    errors of what is not there.

    :raises DiskBusy: if another image has the new name.
    """
    try:
        taken = headers.identity(ioctx, after)
    except absent:
        op = ioctx.create_write_op()
        try:
            op.new(1)  # LIBRADOS_CREATE_EXCLUSIVE
            op.write_full(headers.packed(image_id.encode()))
            ioctx.operate_write_op(op, f"{_OBJECT}{after}")
        finally:
            ioctx.release_write_op(op)
    else:
        if taken != image_id:
            raise errors.DiskBusy(f"there is another image of the name {after}; try again")
    names = b"".join(headers.packed(each.encode()) for each in (before, after, image_id))
    with contextlib.suppress(*absent):  # no such name in the list: it has the new one
        ioctx.execute(_LIST, "rbd", "dir_rename_image", names)
    _remove(ioctx, before, image_id, absent)


def _remove(ioctx: "Ioctx", name: str, image_id: str, absent: tuple[type[Exception], ...]) -> None:
    """Take a name away, if it leads to that image still: another may have been made under it."""
    op = ioctx.create_write_op()
    try:
        op.cmpext(headers.packed(image_id.encode()), 0)
        op.remove()
        ioctx.operate_write_op(op, f"{_OBJECT}{name}")
    except absent:
        pass
    except Exception as exc:
        if (getattr(exc, "errno", None) or 0) < headers.MISMATCH and getattr(exc, "errno", None) != errno.ECANCELED:
            raise
    finally:
        ioctx.release_write_op(op)
