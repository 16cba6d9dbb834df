"""Rolling a disk back.

librbd copies a snapshot back object by object, and a killed process leaves a disk that is
neither what it was nor what it is to be.  So the disk's name points nowhere in the meantime,
see :mod:`imgbackend_rbd.names`: no guest is started on half of it, and whoever finishes the
rollback later takes away nothing that was written since.
"""

import contextlib
import logging
from typing import Final

from imgbackend import errors
from imgbackend_rbd import headers, images, lock, names
from imgbackend_rbd.pool import PoolBackend

LOG: Final = logging.getLogger(__name__)


def roll_back(backend: PoolBackend, image: str, name: str) -> None:
    """Roll back to the snapshot of that name.

    :raises DiskBusy: if somebody has the disk open; then it is as it was.
    :raises DiskError: if the image has no lock that would hold off a host which hung in the midst of this.
    """
    with backend.rolling(image):
        image_id = headers.identity(backend.ioctx, image)
        snapshot = headers.snapshot(backend.ioctx, image_id, name)
        if snapshot is None:
            raise errors.DiskError(f"there is no snapshot {name} any more")
        if not headers.read(backend.ioctx, image_id).exclusive:
            raise errors.DiskError(
                f"{backend.pool}/{image} lacks the feature exclusive-lock, so that a host that hangs in the midst of a "
                f"rollback could go on later, under a guest: rbd feature enable {backend.pool}/{image} exclusive-lock"
            )
        begun = names.Rollback(image=image_id, snapshot=snapshot.id)
        names.point(backend.ioctx, image, image_id, str(begun))
        try:  # who opened it before its name was hidden may be a watcher by now
            images.refuse_open(backend.cluster, backend.pool, image, images.A_MOMENT, image_id)
        except BaseException:
            names.point(backend.ioctx, image, str(begun), image_id)
            raise
        _copy_back(backend, image, begun, rebuilt=False)


def finished(backend: PoolBackend, image: str) -> str:
    """Finish a rollback that a killed process began, under the disk's lock; the id of the disk's image.

    :raises DiskBusy: if somebody has the image open by its id.
    :raises StorageUnavailable: if it is going on.
    """
    with backend.rolling(image):
        pointed = headers.identity(backend.ioctx, image)
        begun = names.rollback(pointed)
        if begun is None:
            return pointed
        images.refuse_open(backend.cluster, backend.pool, image, backend.patience, begun.image)
        LOG.warning("The rollback of %s/%s was broken off, and is finished now", backend.pool, image)
        _copy_back(backend, image, begun, rebuilt=headers.read(backend.ioctx, begun.image).mapped)
        return begun.image


def _copy_back(backend: PoolBackend, image: str, begun: names.Rollback, *, rebuilt: bool) -> None:
    with backend.cluster.image(backend.pool, image, image_id=begun.image) as opened:
        if rebuilt:
            # librbd rolls the map back before the objects: one that the map denies would be kept, and shine through
            opened.rebuild_object_map()
        [name] = [snap["name"] for snap in images.snapshots(opened) if snap["id"] == begun.snapshot]
        opened.rollback_to_snap(name)
    names.point(backend.ioctx, image, str(begun), begun.image)


def remove_lock(backend: PoolBackend, image: str) -> None:
    """What a rollback of a disk that is no more may have left."""
    with contextlib.suppress(*backend.cluster.absent):
        backend.ioctx.remove_object(lock.object_of(f"rollback.{image}"))
