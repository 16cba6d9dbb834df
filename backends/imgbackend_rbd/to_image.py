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
from imgbackend_rbd.unfinished import Unfinished, Work

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
    cluster.pool(place.pool)  # it is there: nothing is begun otherwise
    for before in backend.unfinished.left(entry_name(disk)).values():
        with backend.unfinished.taking_over(entry_name(disk), before, locked=True) as work:
            clear(backend, disk, work)
    # also on the list of the disk's own pool, for that alone is looked at for leftovers
    with backend.unfinished.working(entry_name(disk), copy=f"{place.pool}/{image_id}") as work:
        try:
            size = _copied(backend, disk, place, progress)
        except BaseException:
            with contextlib.suppress(errors.Error), cluster.asked("clearing", place.pool):
                clear(backend, disk, work)
            raise
        work.drop()
    return Location(url=place.url, format="raw", virtual_size=size)


def entry_name(disk: str) -> str:
    """The name under which the list of a disk's pool has the image that is made of it; no disk has such a name."""
    return f"{disk}/image"


def _copied(backend: PoolBackend, disk: str, place: ImagePlace, progress: Progress) -> int:
    """Its size."""
    cluster = backend.cluster
    _clear_image(backend, place.pool, place.image)
    with contextlib.suppress(*cluster.absent):
        headers.identity(cluster.pool(place.pool), place.image)
        raise errors.DiskError(f"there is an image {place.pool}/{place.image} already; give another id")
    with _snapshot(backend, disk), _unfinished(backend, place):
        cluster.rbd().clone(backend.ioctx, disk, SNAPSHOT, cluster.pool(place.pool), place.image)
        with cluster.image(place.pool, place.image) as image:
            size = image.size()
            progress("copy", 0, size)
            image.flatten()
            progress("copy", size, size)
            for key in [key for key, _ in image.metadata_list() if key.startswith("imgbackend.")]:
                image.metadata_remove(key)  # it is no disk, though it has a disk's metadata
            image.create_snap(_PUBLISHED)
            image.protect_snap(_PUBLISHED)
    return size


def _parents_pool(backend: PoolBackend, disk: str) -> str:
    with backend.cluster.image(backend.pool, disk, read_only=True) as image:
        try:
            return image.parent_info()[0]
        except backend.cluster.absent as exc:
            raise errors.DiskError(
                f"{backend.pool}/{disk} is a clone of no image; name the pool that the images are in"
            ) from exc


def clear(backend: PoolBackend, disk: str, work: Work) -> None:
    """Take away what a killed call left: of the image, and the disk's snapshot for it."""
    pool, _, image = work.entry.copy.partition("/")
    if backend.cluster.has(pool):
        _clear_image(backend, pool, image)
    with contextlib.suppress(*backend.cluster.absent):
        _unsnapped(backend, disk)
    work.drop()


def _clear_image(backend: PoolBackend, pool: str, image: str) -> None:
    waiting = Unfinished(backend.cluster, pool, backend.host)
    for before in waiting.left(image).values():
        # the lock of this disk excludes nobody who makes the same image of another
        with waiting.taking_over(image, before, locked=False) as work:
            images.purge(backend.cluster, pool, image, backend.patience)
            work.drop()


@contextlib.contextmanager
def _unfinished(backend: PoolBackend, place: ImagePlace) -> Iterator[None]:
    """The image is on its pool's list until the end of this; on an error it goes."""
    cluster, image = backend.cluster, place.image
    with Unfinished(cluster, place.pool, backend.host).working(image) as work:
        try:
            yield
        except cluster.taken as exc:
            work.drop()
            raise errors.DiskError(f"there is an image {place.pool}/{image} already; give another id") from exc
        except BaseException:
            with contextlib.suppress(errors.Error), cluster.asked("clearing", place.pool):
                images.purge(cluster, place.pool, image, backend.patience)
                work.drop()
            raise
        work.drop()


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
