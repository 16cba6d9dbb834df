"""Bases in a pool: images with one protected snapshot, that disks are clones of.

A base is visible by its mark, which is set last, in one request, and taken away first: then
it is whole and can be cloned.  What there is of a base without its mark is a leftover, and
the next import clears it.

Where the renaming of an image is broken off, both names lead to it.  So the mark says
beforehand what is renamed to what: the base has its old name for as long as that leads to it.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgbackend import errors
from imgbackend.system import files
from imgbackend.types import ImageInfo, Progress, StoreBase, StoreLeftover, is_base_name
from imgbackend_rbd import headers, images, lock, names
from imgbackend_rbd.images import Patience

if TYPE_CHECKING:
    from imgbackend_rbd.cluster import Cluster

SNAPSHOT: Final = "base"
"""What disks are cloned from."""
_PREFIX: Final = "imgbackend-base."
"""No name of a disk begins so and goes on as that of a base; nor does an id of Glance's."""
_MARK: Final = "imgbackend.base"
_TOUCHED: Final = "imgbackend.touched"
_COARSE: Final = 300.0
"""Seconds in which a use is not noted again."""
_SKEW: Final = 60.0
"""Seconds by which the clocks of two hosts may differ."""


def image_of(base: str) -> str:
    """The name of the image that keeps a base."""
    return f"{_PREFIX}{base}"


def _aside(image_id: str) -> str:
    """The name of a base that its image has when it is put aside."""
    return hashlib.sha1(image_id.encode(), usedforsecurity=False).hexdigest()


def _last(*times: float) -> float:
    """The last of them, those in the future only where there are no others: a clock was wrong, and was set right."""
    now = time.time() + _SKEW
    return max((each for each in times if each <= now), default=max(times))


class CephPoolBases:
    """The bases of one pool."""

    def __init__(self, cluster: "Cluster", pool: str, patience: Patience) -> None:
        """Keep them."""
        self._cluster, self._pool, self._patience = cluster, pool, patience
        self._noted: dict[str, float] = {}

    def find(self, name: str) -> StoreBase | None:
        """A base that can be cloned.  Its children are not counted: that asks each of them."""
        with self._cluster.asked(f"looking for the base {name}", self._pool):
            return self._found(name)

    def all(self) -> Iterator[StoreBase]:
        """All bases, with the number of their children."""
        with self._cluster.asked("listing the bases", self._pool):
            listed = [image["name"] for image in self._cluster.rbd().list2(self._cluster.pool(self._pool))]
        for image in sorted(listed):
            name = image.removeprefix(_PREFIX)
            if image == name or not is_base_name(name):
                continue
            with self._cluster.asked(f"looking at the base {name}", self._pool):
                found = self._counted(name)
            if found is not None:
                yield found

    def unmarked(self) -> Iterator[StoreLeftover]:
        """Images of bases that are not visible: they are being imported or removed, or that was broken off."""
        with self._cluster.asked("looking for broken imports", self._pool):
            ioctx = self._cluster.pool(self._pool)
            for image in sorted(found["name"] for found in self._cluster.rbd().list2(ioctx)):
                name = image.removeprefix(_PREFIX)
                if image == name or not is_base_name(name) or self._named(name) is not None:
                    continue
                with contextlib.suppress(*self._cluster.absent):
                    made = headers.made(ioctx, image)
                    taken = headers.taken(ioctx, image, self._cluster.absent)
                    live = bool(lock.Holders(self._cluster, self._pool, lock.object_of(name)))
                    yield StoreLeftover(
                        name=f"{self._pool}/{image}", disk=None, base=name, allocated=taken, time=made, live=live
                    )

    def touch(self, name: str) -> None:
        """Note a use; one within some minutes of the last is the same."""
        now = time.time()
        if 0 <= now - self._noted.get(name, 0.0) < _COARSE:
            return
        with self._cluster.asked(f"noting a use of the base {name}", self._pool):
            ioctx = self._cluster.pool(self._pool)
            with contextlib.suppress(*self._cluster.absent):
                image_id = headers.identity(ioctx, image_of(name))
                headers.set_metadata(ioctx, image_id, _TOUCHED, str(now))
                self._noted[name] = now

    def remove(self, name: str) -> None:
        """Remove a base, visible or not, and its lock last; absent is no error.

        :raises DiskBusy: if disks are clones of it; then it is as it was.
        """
        self._noted.pop(name, None)
        with self._cluster.asked(f"removing the base {name}", self._pool):
            ioctx, image = self._cluster.pool(self._pool), image_of(name)
            try:
                name = self._finish_rename(name)
                image = image_of(name)
                image_id = headers.identity(ioctx, image)
                mark = headers.read(ioctx, image_id, (_MARK,)).metadata.get(_MARK)
                images.refuse_bound(self._cluster, self._pool, image)
                if mark is not None:
                    headers.remove_metadata(ioctx, image_id, _MARK)
            except self._cluster.absent:
                mark = None
            refused: tuple[type[Exception], ...] = (errors.DiskBusy, *self._cluster.busy)
            try:
                images.purge(self._cluster, self._pool, image, self._patience)
            except refused:
                if mark is not None:  # a disk was cloned meanwhile
                    self._publish(name, mark)
                raise
            with contextlib.suppress(*self._cluster.absent):
                ioctx.remove_object(lock.object_of(name))  # the lock of an importer that was killed, or our own

    def put(
        self,
        name: str,
        path: Path,
        info: ImageInfo,
        tags: Mapping[str, str],
        progress: Progress,
        check: Callable[[], None],
    ) -> StoreBase:
        """Make a base of a raw file; ``check`` raises where it is not ours to publish any more."""
        image = image_of(name)
        with self._cluster.asked(f"importing the base {name}", self._pool):
            with self._imported(name, path, info.virtual_size, progress):
                check()
            ioctx = self._cluster.pool(self._pool)
            self._publish(name, self._mark(headers.identity(ioctx, image), tags))
            found = self._found(name)
        if found is None:
            raise errors.StorageUnavailable(f"the base {name} went away while it was imported; try again")
        return found

    def _mark(self, image_id: str, tags: Mapping[str, str]) -> str:
        """What makes a base visible; nobody writes to a base: what it takes stays so."""
        ioctx = self._cluster.pool(self._pool)
        header = headers.read(ioctx, image_id)
        taken = headers.allocated(ioctx, header) if header.mapped else header.size
        return json.dumps({"image": image_id, "time": time.time(), "tags": dict(tags), "allocated": taken})

    def read(self, name: str) -> Generator[tuple[int, bytes | memoryview], None, None]:
        """See :meth:`imgbackend.driver.abilities.ChecksBases.read_base`.

        What disks are cloned from is read, not what is above it.
        """
        with self._asked("reading", name):
            if self._found(name) is None:
                raise errors.BaseMissing(f"there is no base {name} in the pool {self._pool}")
            image = image_of(name)
            with self._cluster.image(self._pool, image, snapshot=SNAPSHOT, read_only=True) as found:
                yield from images.pieces(found)

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        """See :meth:`imgbackend.driver.abilities.ChecksBases.tag_base`; in the mark, and so in one request."""
        with self._asked("tagging", name):
            ioctx = self._cluster.pool(self._pool)
            header = headers.read(ioctx, headers.identity(ioctx, image_of(name)), (_MARK,))
            mark = headers.note(header, _MARK)
            if mark.get("image") != header.id:
                raise errors.BaseMissing(f"there is no base {name} in the pool {self._pool}")
            mark["tags"] = {**mark["tags"], **tags}
            headers.set_metadata(ioctx, header.id, _MARK, json.dumps(mark))

    def rename(self, name: str, new: str, tags: Mapping[str, str]) -> None:
        """See :meth:`imgbackend.driver.abilities.ChecksBases.rename_base`; clones know their parent by its id."""
        self._noted.pop(name, None)
        with self._asked("renaming", name):
            if self._found(name) is None:
                raise errors.BaseMissing(f"there is no base {name} in the pool {self._pool}")
            ioctx, name = self._cluster.pool(self._pool), self._finish_rename(name)
            if name == new:
                self.tag(name, tags)
                return
            header = headers.read(ioctx, headers.identity(ioctx, image_of(name)), (_MARK,))
            mark = headers.note(header, _MARK) | {"rename": {"from": name, "to": new, "tags": dict(tags)}}
            headers.set_metadata(ioctx, header.id, _MARK, json.dumps(mark))
            self._finish_rename(name)

    def _finish_rename(self, name: str) -> str:
        """Go on with the renaming that a base's mark tells of, if it does; the name that the base then has."""
        ioctx = self._cluster.pool(self._pool)
        header = headers.read(ioctx, headers.identity(ioctx, image_of(name)), (_MARK,))
        mark = headers.note(header, _MARK)
        intent = mark.pop("rename", None)
        if intent is None or mark.get("image") != header.id:
            return name
        if self._leads_to(intent["from"], header.id):
            self._rename(header.id, intent["from"], intent["to"])
        mark["tags"] |= intent["tags"]
        headers.set_metadata(ioctx, header.id, _MARK, json.dumps(mark))
        renamed: str = intent["to"]
        return renamed

    def _rename(self, image_id: str, name: str, new: str) -> None:
        ioctx, absent = self._cluster.pool(self._pool), self._cluster.absent
        names.rename(ioctx, image_id, image_of(name), image_of(new), absent)

    def _leads_to(self, name: str, image_id: str) -> bool:
        try:
            return headers.identity(self._cluster.pool(self._pool), image_of(name)) == image_id
        except self._cluster.absent:
            return False

    @contextlib.contextmanager
    def _asked(self, what: str, name: str) -> Iterator[None]:
        """As :meth:`Cluster.asked`, of a base that has to be there."""
        with self._cluster.asked(f"{what} the base {name}", self._pool, but=self._cluster.absent):
            try:
                yield
            except self._cluster.absent as exc:
                raise errors.BaseMissing(f"the base {name} has just gone from the pool {self._pool}") from exc

    @contextlib.contextmanager
    def _imported(self, name: str, path: Path, size: int, progress: Progress) -> Iterator[None]:
        """The bytes of a file, in an image without a mark; on an error, here or later, what was made here goes."""
        cluster, ioctx, image = self._cluster, self._cluster.pool(self._pool), image_of(name)
        with files.open_fd(path, os.O_RDONLY) as source:
            length = os.fstat(source).st_size
            size = max(size, length)
            if self._was_whole(name, source, size):
                yield
                return
            images.purge(cluster, self._pool, image, self._patience)
            cluster.rbd().create(ioctx, image, size, old_format=False)
            image_id = headers.identity(ioctx, image)
            try:
                with cluster.image(self._pool, image, image_id=image_id) as target:
                    images.fill(target, source, length, progress)
                yield
            except BaseException:
                with contextlib.suppress(errors.Error), cluster.asked("clearing an import", self._pool):
                    if headers.identity(ioctx, image) == image_id:  # else it is another importer's by now
                        images.purge(cluster, self._pool, image, self._patience)
                raise

    def _was_whole(self, name: str, source: int, size: int) -> bool:
        """Whether an image is this base, and lost its mark alone: it has clones, and nobody writes to a base.

        One of other bytes is put aside as a bad base, for its clones need it.
        """
        image = image_of(name)
        try:
            with self._cluster.image(self._pool, image, read_only=True) as found:
                if not images.dependents(found):
                    return False
                image_id = found.id()
            with self._cluster.image(self._pool, image, snapshot=SNAPSHOT, read_only=True) as base:
                if images.has_bytes(base, source, size):
                    return True
        except self._cluster.absent:
            return False
        told = {"bad": "it has no mark, and other bytes than what was imported under its name", "was": name}
        self._rename(image_id, name, _aside(image_id))
        self._publish(_aside(image_id), self._mark(image_id, told))
        return False

    def _publish(self, name: str, mark: str) -> None:
        """Make sure of the snapshot, and set the mark."""
        with self._cluster.image(self._pool, image_of(name)) as image:
            if all(snap["name"] != SNAPSHOT for snap in images.snapshots(image)):
                image.create_snap(SNAPSHOT)
            if not image.is_protected_snap(SNAPSHOT):
                image.protect_snap(SNAPSHOT)
            image_id = image.id()
        headers.set_metadata(self._cluster.pool(self._pool), image_id, _MARK, mark)

    def _found(self, name: str) -> StoreBase | None:
        found = self._named(name)
        return found if found is not None and found.name == name else None

    def _named(self, name: str) -> StoreBase | None:
        """The base that a name leads to; it has another name where it is being renamed."""
        ioctx = self._cluster.pool(self._pool)
        try:
            header = headers.read(ioctx, headers.identity(ioctx, image_of(name)), (_MARK, _TOUCHED))
        except self._cluster.absent:
            return None
        mark = headers.note(header, _MARK)
        if mark.get("image") != header.id:
            return None  # a clone has its parent's metadata, and a leftover none
        tags, intent = mark["tags"], mark.get("rename")
        if intent is not None and self._leads_to(intent["from"], header.id):
            name = intent["from"]
        elif intent is not None:
            name, tags = intent["to"], tags | intent["tags"]
        touched = _last(*(float(told) for told in (mark["time"], header.metadata.get(_TOUCHED)) if told is not None))
        self._noted[name] = touched
        return StoreBase(
            name=name,
            size=header.size,
            allocated=mark["allocated"],
            children=None,
            touched=touched,
            tags=tags,
            identity=header.id,
        )

    def _counted(self, name: str) -> StoreBase | None:
        found = self._named(name)
        if found is None:
            return None
        try:
            with self._cluster.image(self._pool, image_of(found.name), read_only=True) as image:
                return dataclasses.replace(found, children=len(images.dependents(image)))
        except self._cluster.absent:
            return None
