"""Whole images: filled, read, and taken away with what hangs on them."""

import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Final

from imgbackend import errors
from imgbackend.system import files
from imgbackend.types import Ki, Mi, Progress
from imgbackend_rbd import headers, names

if TYPE_CHECKING:
    from rbd import Completion, Image, Snapshot

    from imgbackend_rbd.cluster import Cluster

_STEP: Final = 4 * Mi
"""Bytes of one request: an object, as images have them by default."""
_IN_FLIGHT: Final = 16
_BLOCK: Final = 64 * Ki
"""What is all zeroes in a file of ours is a hole, in blocks of so many bytes."""
_USERS: Final = 0
"""RBD_SNAP_NAMESPACE_TYPE_USER."""
_GROUPS: Final = 1
"""RBD_SNAP_NAMESPACE_TYPE_GROUP."""
_MIRRORED: Final = 1
"""RBD_MIRROR_IMAGE_ENABLED."""


class _Window:
    """Requests that are under way; leaving it waits for them, for their bytes are librbd's until then."""

    def __init__(self) -> None:
        self._pending: deque[tuple[Completion, Callable[[], object]]] = deque()

    def __enter__(self) -> "_Window":
        return self

    def __exit__(self, *exc: object) -> None:
        act, failed = not any(exc), None
        while self._pending:
            try:
                self._finish(act=act)
            except BaseException as first:
                act, failed = False, first  # the others are waited for all the same
        if failed is not None:
            raise failed

    def add(self, completion: "Completion", then: Callable[[], object]) -> None:
        """Keep a request in view; ``then`` is called in this thread when it is done, in order."""
        self._pending.append((completion, then))
        if len(self._pending) >= _IN_FLIGHT:
            self._finish(act=True)

    def _finish(self, *, act: bool) -> None:
        completion, then = self._pending.popleft()
        completion.wait_for_complete_and_cb()
        code = completion.get_return_value()
        if code < 0 and act:
            raise OSError(-code, os.strerror(-code))
        if act:
            then()


def _steps(start: int, end: int) -> Iterator[tuple[int, int]]:
    """``(offset, length)``: no step goes beyond the end of an object."""
    while start < end:
        length = min(end, (start // _STEP + 1) * _STEP) - start
        yield start, length
        start += length


def fill(image: "Image", source: int, size: int, progress: Progress) -> None:
    """Write the ``size`` bytes of a file into a new image; holes and zeroes are left out.  It is flushed.

    :raises OSError: as the cluster answers.
    """
    progress("import", 0, size)
    with _Window() as window:
        for start, end in files.data_ranges(source, size):
            for at, length in _steps(start, end):
                data = os.pread(source, length, at)
                if data.count(0) != len(data):
                    window.add(image.aio_write(data, at, _ignore), data.__len__)
                progress("import", at + length, size)
    image.flush()
    progress("import", size, size)


def drain(image: "Image", target: int, progress: Progress, phase: str) -> None:
    """Write all bytes of an image, its parent's too, into an empty file, zeroes as holes.

    :raises OSError: as the cluster answers, or the file system.
    """
    size = image.size()
    os.ftruncate(target, size)
    progress(phase, 0, size)
    with _Window() as window:
        for start, end in _extents(image, size, include_parent=True):
            for at, length in _steps(start, end):
                _request(image, window, target, at, length)
                progress(phase, at, size)
    progress(phase, size, size)


def pieces(image: "Image") -> Generator[tuple[int, bytes], None, None]:
    """All bytes of an image, as ``(offset, bytes)``; objects that are not there are left out.

    :raises OSError: as the cluster answers.
    """
    ready = deque[tuple[int, bytes]]()
    with _Window() as window:
        for start, end in _extents(image, image.size(), include_parent=True):
            for at, length in _steps(start, end):
                _ask(image, window, at, length, ready)
                while ready:
                    yield ready.popleft()
    yield from ready


def has_bytes(image: "Image", source: int, size: int) -> bool:
    """Whether an image has that size, and the bytes of a file, with zeroes behind its end.

    :raises OSError: as the cluster answers, or the file system.
    """
    if image.size() != size:
        return False
    end = 0
    with contextlib.closing(pieces(image)) as found:
        for start, data in found:
            if not _is_zero(source, end, start) or os.pread(source, len(data), start).ljust(len(data), b"\0") != data:
                return False
            end = start + len(data)
    return _is_zero(source, end, size)


def _is_zero(source: int, start: int, end: int) -> bool:
    read = (os.pread(source, length, at) for at, length in _steps(start, end))
    return all(data.count(0) == len(data) for data in read)


def _ask(image: "Image", window: _Window, at: int, length: int, ready: deque[tuple[int, bytes]]) -> None:
    got: list[bytes] = []
    completion = image.aio_read(at, length, lambda _completion, data: got.append(data or b""))
    window.add(completion, lambda: ready.append((at, b"".join(got))))


def _request(image: "Image", window: _Window, target: int, at: int, length: int) -> None:
    got: list[bytes] = []
    completion = image.aio_read(at, length, lambda _completion, data: got.append(data or b""))
    window.add(completion, lambda: _put(target, at, b"".join(got)))


def _put(target: int, at: int, data: bytes) -> None:
    for start in range(0, len(data), _BLOCK):
        block = memoryview(data)[start : start + _BLOCK]
        if data.count(0, start, start + _BLOCK) == len(block):
            continue
        done = 0
        while done < len(block):
            done += os.pwrite(target, block[done:], at + start + done)


def _ignore(_completion: "Completion") -> None:
    pass


def snapshots(image: "Image") -> list["Snapshot"]:
    """Those that people made, oldest first; not what librbd keeps for clones after a removal."""
    found = [snap for snap in image.list_snaps() if image.snap_get_namespace_type(snap["id"]) == _USERS]
    return sorted(found, key=lambda snap: snap["id"])


def taken(image: "Image", snapshot: int) -> float:
    """When a snapshot was made, in seconds since 1970; librbd's module tells UTC without saying so."""
    return image.get_snap_timestamp(snapshot).replace(tzinfo=UTC).timestamp()


def dependents(image: "Image") -> list[str]:
    """The images that are clones of any snapshot of this one, as ``pool/image``."""
    return [
        f"{child['pool']}/{child['image']}" + (" (in the trash)" if child["trash"] else "")
        for child in image.list_children2()
    ]


def own_bytes(image: "Image") -> int:
    """Bytes of the objects that an image has of its own, where it has no object map."""
    return sum(end - start for start, end in _extents(image, image.size(), include_parent=False))


def _extents(image: "Image", size: int, *, include_parent: bool) -> list[tuple[int, int]]:
    """``(start, end)`` of the objects that are there."""
    found: list[tuple[int, int]] = []

    def note(at: int, length: int, there: bool) -> None:
        if there:
            found.append((at, min(at + length, size)))

    image.diff_iterate(0, size, None, note, include_parent, whole_object=True)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often what is in use is tried again."""

    retries: int
    interval: float
    """Seconds."""


A_MOMENT: Final = Patience(retries=6, interval=0.5)
"""What is open for longer is open at a guest."""


def refuse_dependents(cluster: "Cluster", pool: str, name: str) -> None:
    """Refuse to take away what others hang on.

    :raises DiskBusy: naming up to five of them.
    """
    with cluster.image(pool, name, read_only=True) as image:
        _refuse_clones(image, f"{pool}/{name}")


def _refuse_clones(image: "Image", told: str) -> None:
    found = dependents(image)
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise errors.DiskBusy(f"{told} has clones: {', '.join(found[:5])}{more}; flatten or remove them first")


def refuse_bound(cluster: "Cluster", pool: str, name: str, image_id: str = "") -> None:
    """Refuse to take away what librbd would not remove: what has clones, or is bound to a group or a mirror.

    :raises DiskBusy: naming what binds it.
    """
    told = f"{pool}/{name}"
    with cluster.image(pool, name, image_id=image_id, read_only=True) as image:
        _refuse_clones(image, told)
        group = image.group()["name"]
        if group:
            raise errors.DiskBusy(f"{told} is in the group {group}; take it out first: rbd group image rm")
        for snap in image.list_snaps():
            if image.snap_get_namespace_type(snap["id"]) == _GROUPS:
                made_by = image.snap_get_group_namespace(snap["id"])
                raise errors.DiskBusy(
                    f"{told} is in the snapshot {made_by['snap_name']} of the group {made_by['name']}; "
                    "remove that first: rbd group snap rm"
                )
        mirror = image.mirror_image_get_info()
        if mirror["state"] == _MIRRORED and not mirror["primary"]:
            raise errors.DiskBusy(f"{told} is a mirror's copy of an image of another cluster; remove it there")


def refuse_open(cluster: "Cluster", pool: str, name: str, patience: Patience, image_id: str = "") -> None:
    """Refuse an image that somebody has open for writing.

    :raises DiskOpen: with the address of who has.
    """
    for left in range(patience.retries, -1, -1):
        with cluster.image(pool, name, image_id=image_id, read_only=True) as image:
            found = [watcher["addr"] for watcher in image.watchers_list()]
        if not found:
            return
        if left:
            time.sleep(patience.interval)
    raise errors.DiskOpen(
        f"{pool}/{name} is open at {', '.join(found)}; stop its guest first (who died is forgotten in half a minute)"
    )


def remove(cluster: "Cluster", pool: str, name: str, image_id: str, patience: Patience) -> None:
    """Remove a whole image with its snapshots; one that this was begun for goes on.

    Its name is hidden first, so that what is found then stays so: no guest opens it.  Whatever
    refuses it does so before anything is taken away, and the name points to the image again.

    :raises DiskBusy: if something depends on it, or somebody has it open.
    """
    ioctx = cluster.pool(pool)
    try:
        pointed = headers.identity(ioctx, name)
        if pointed == image_id:
            names.point(ioctx, name, image_id, names.removal(image_id))
            pointed = names.removal(image_id)
        if pointed != names.removal(image_id):
            return  # another image has the name by now
        _empty_hidden(cluster, pool, name, image_id, patience)
    except cluster.absent:
        pass  # what there may be of it is removed by its name
    _remove_bare(cluster, pool, name, patience)


def _empty_hidden(cluster: "Cluster", pool: str, name: str, image_id: str, patience: Patience) -> None:
    try:
        refuse_bound(cluster, pool, name, image_id)
        refuse_open(cluster, pool, name, patience, image_id)
    except cluster.absent:
        raise
    except BaseException:
        names.point(cluster.pool(pool), name, names.removal(image_id), image_id)
        raise
    with cluster.image(pool, name, image_id=image_id) as image:
        _remove_snapshots(image)


def _remove_snapshots(image: "Image") -> None:
    for snap in snapshots(image):
        if image.is_protected_snap(snap["name"]):
            image.unprotect_snap(snap["name"])
        image.remove_snap(snap["name"])


def purge(cluster: "Cluster", pool: str, name: str, patience: Patience) -> None:
    """Remove what there is of an image that was being made, with its snapshots; absent is no error.

    :raises DiskBusy: if it has clones, or somebody has it open.
    :raises StorageError: if it is there still.
    """
    try:
        refuse_dependents(cluster, pool, name)
        refuse_open(cluster, pool, name, patience)
        with cluster.image(pool, name) as image:
            _remove_snapshots(image)
    except cluster.absent:
        pass  # what there may be of it is removed by its name
    _remove_bare(cluster, pool, name, patience)


def _remove_bare(cluster: "Cluster", pool: str, name: str, patience: Patience) -> None:
    """Without snapshots; what is half removed too, at which a client that died may be a watcher still."""
    for left in range(patience.retries, -1, -1):
        try:
            with contextlib.suppress(*cluster.absent):
                cluster.rbd().remove(cluster.pool(pool), name)
            break
        except cluster.busy as exc:
            if not left or getattr(exc, "errno", None) != errno.EBUSY:
                raise
            time.sleep(patience.interval)
    with contextlib.suppress(*cluster.absent):
        headers.identity(cluster.pool(pool), name)
        # in a full pool that never had a trash librbd says that there is no such image
        raise errors.StorageError(f"{pool}/{name} could not be removed; see whether the pool is full: ceph df")
