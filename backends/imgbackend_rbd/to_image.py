"""Images made of disks, inside the cluster: a clone in the images' pool, which is then flattened."""

import contextlib
import re
from collections.abc import Iterator
from typing import Final

from imgbackend import errors
from imgbackend.types import Location, Progress
from imgbackend_rbd import headers, images
from imgbackend_rbd.locations import ImagePlace
from imgbackend_rbd.pool import PoolBackend
from imgbackend_rbd.unfinished import Unfinished

SNAPSHOT: Final = ".imgbackend-image"
"""Of the disk, while the image is made; no name that a user's snapshot can have."""
_PUBLISHED: Final = "snap"
"""Of the image: what Glance calls it."""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}\Z")


def made(backend: PoolBackend, disk: str, image_id: str, pool: str | None, progress: Progress) -> Location:
    """See :meth:`imgbackend_rbd.disk.RbdDisk.to_image`; the disk's lock is held."""
    if not _ID.match(image_id):
        raise errors.DiskError(f"not an id of an image: {image_id!r}; use up to 63 letters, digits, dots and hyphens")
    cluster = backend.cluster
    place = ImagePlace(
        fsid=cluster.fsid, pool=pool or _parents_pool(backend, disk), image=image_id, snapshot=_PUBLISHED
    )
    _clear(backend, place)
    with _snapshot(backend, disk), _unfinished(backend, place):
        cluster.rbd().clone(backend.ioctx, disk, SNAPSHOT, cluster.pool(place.pool), image_id)
        with cluster.image(place.pool, image_id) as image:
            size = image.size()
            progress("copy", 0, size)
            image.flatten()
            progress("copy", size, size)
            for key in [key for key, _ in image.metadata_list() if key.startswith("imgbackend.")]:
                image.metadata_remove(key)  # it is no disk, though it has a disk's metadata
            image.create_snap(_PUBLISHED)
            image.protect_snap(_PUBLISHED)
    return Location(url=place.url, format="raw", virtual_size=size)


def _parents_pool(backend: PoolBackend, disk: str) -> str:
    with backend.cluster.image(backend.pool, disk, read_only=True) as image:
        try:
            return image.parent_info()[0]
        except backend.cluster.absent as exc:
            raise errors.DiskError(
                f"{backend.pool}/{disk} is a clone of no image; name the pool that the images are in"
            ) from exc


def _clear(backend: PoolBackend, place: ImagePlace) -> None:
    """Take away what a killed call left of the image, which has to be absent then."""
    cluster, image = backend.cluster, place.image
    waiting = Unfinished(cluster, place.pool, backend.host.instances)
    left = waiting.settle(image)
    if left is not None:
        images.purge(cluster, place.pool, image, backend.patience)
        waiting.drop(image, left)
    with contextlib.suppress(*cluster.absent):
        headers.identity(cluster.pool(place.pool), image)
        raise errors.DiskError(f"there is an image {place.pool}/{image} already; give another id")


@contextlib.contextmanager
def _unfinished(backend: PoolBackend, place: ImagePlace) -> Iterator[None]:
    """The image is on its pool's list until the end of this; on an error it goes."""
    cluster, image = backend.cluster, place.image
    waiting = Unfinished(cluster, place.pool, backend.host.instances)
    entry = waiting.add(image)
    try:
        yield
    except cluster.taken as exc:
        waiting.drop(image, entry)
        raise errors.DiskError(f"there is an image {place.pool}/{image} already; give another id") from exc
    except BaseException:
        with contextlib.suppress(errors.Error), cluster.asked("clearing", place.pool):
            images.purge(cluster, place.pool, image, backend.patience)
            waiting.drop(image, entry)
        raise
    waiting.drop(image, entry)


@contextlib.contextmanager
def _snapshot(backend: PoolBackend, disk: str) -> Iterator[None]:
    """A protected snapshot of the disk, for as long; one that a killed call left goes first."""
    _unsnapped(backend, disk)
    try:
        with backend.cluster.image(backend.pool, disk) as image:
            image.create_snap(SNAPSHOT)
            image.protect_snap(SNAPSHOT)
        yield
    except BaseException:
        with contextlib.suppress(errors.Error), backend.cluster.asked("clearing", backend.pool):
            _unsnapped(backend, disk)
        raise
    _unsnapped(backend, disk)


def _unsnapped(backend: PoolBackend, disk: str) -> None:
    with backend.cluster.image(backend.pool, disk) as image:
        if any(snap["name"] == SNAPSHOT for snap in images.snapshots(image)):
            if image.is_protected_snap(SNAPSHOT):
                image.unprotect_snap(SNAPSHOT)
            image.remove_snap(SNAPSHOT)
