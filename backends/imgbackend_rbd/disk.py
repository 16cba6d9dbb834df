"""Disks that are images of a Ceph pool."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from imgbackend import errors
from imgbackend.driver.abilities import (
    CarriesHandover,
    Cloneable,
    Flattenable,
    Importable,
    Marked,
    Snapshottable,
    TellsOpen,
)
from imgbackend.driver.contract import Disk
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.types import (
    Declared,
    DiskInfo,
    ImageInfo,
    Location,
    Mark,
    NetworkSource,
    Owner,
    Plan,
    Progress,
    SnapshotInfo,
    Way,
    ignore,
)
from imgbackend_rbd import bases, export, headers, images, locations, marks, names, rollback, to_image
from imgbackend_rbd.images import A_MOMENT
from imgbackend_rbd.locations import ImagePlace
from imgbackend_rbd.pool import PoolBackend
from imgbackend_rbd.unfinished import Work


class RbdDisk(Disk[PoolBackend], Cloneable, Importable, Marked, CarriesHandover, Snapshottable, Flattenable, TellsOpen):
    """An image named ``<instance>_<disk>``, as Nova's; whole where the pool's list does not say unfinished."""

    backend: PoolBackend
    _made: "tuple[object, DiskInfo] | None" = None
    """The turn in which the disk was cloned here, and what it is since then."""

    @property
    def image(self) -> str:
        """Its name in the pool: no instance's has ``_`` in it."""
        return f"{self.id.instance}_{self.id.name}"

    def find(self) -> DiskInfo | None:
        """Four small requests; the image is not opened.  None is needed in the turn in which it was made."""
        backend = self.backend
        if self._made is not None and self._made[0] is self.operation:
            return self._made[1]
        with self._asked("looking for"):
            try:
                pointed = headers.identity(backend.ioctx, self.image)
            except backend.cluster.absent:
                backend.cluster.expect_pool(backend.pool)
                return None
            if backend.unfinished.has(self.image):
                return None
            begun = names.rollback(pointed)
            if begun is not None:  # it is there, but who merely looks changes nothing
                pointed = rollback.finished(backend, self.image) if self.operation is not None else begun.image
            header = headers.read(backend.ioctx, pointed)
            return DiskInfo(format="raw", size=header.size, allocated=self._allocated(header))

    def identity(self) -> str | None:
        """Ceph's id of the image that has the disk's name now; one made later has another.  None: there is none.

        :raises StorageUnavailable: if that cannot be told.
        """
        with self._asked("looking for"):
            try:
                pointed = headers.identity(self.backend.ioctx, self.image)
            except self.backend.cluster.absent:
                self.backend.cluster.expect_pool(self.backend.pool)
                return None
        begun = names.rollback(pointed)
        if begun is not None:
            return begun.image
        return None if names.is_removal(pointed) else pointed

    def mark(self) -> Mark | None:
        """In the image's metadata."""
        header = self._whole_header()
        return None if header is None else marks.of(self.backend, header)

    def set_mark(self, before: Mark, owner: Owner) -> None:
        """By one request, which compares what is there."""
        header, backend = self._whole_header(), self.backend
        done = False
        if header is not None and marks.of(backend, header) == before:
            with self._asked("taking over"):
                done = marks.replaced(
                    backend, header, marks.content(backend, self.id, header.id, owner, before.identity)
                )
        if not done:
            raise errors.DiskElsewhere(f"{backend.pool}/{self.image} has another owner meanwhile; look again")

    def handover(self) -> str | None:
        """In the image's metadata."""
        header = self._whole_header()
        if header is None:
            return None
        with self._asked("reading what was left with"):
            return marks.handover(self.backend, header.id)

    def set_handover(self, text: str | None) -> None:
        """By one request."""
        header = self._whole_header()
        if header is None:
            raise errors.DiskNotFound(f"there is no whole image {self.backend.pool}/{self.image}")
        with self._asked("leaving something with"):
            marks.set_handover(self.backend, header.id, text)

    def _whole_header(self) -> headers.ImageHeader | None:
        """Of the image, with its mark; None where there is no whole one."""
        with self._asked("looking whose is"):
            image_id = self.identity()
            if image_id is None or self.backend.unfinished.has(self.image):
                return None
            try:
                return headers.read(self.backend.ioctx, image_id, (marks.MARK,))
            except self.backend.cluster.absent:
                return None

    def _refuse_foreign(self, header: headers.ImageHeader) -> None:
        if self.recorded is None and not marks.own(header):
            image = f"{self.backend.pool}/{self.image}"
            raise errors.DiskError(
                f"the image {image} was made by another program, and is not on record here; take the disk over with "
                f"disk create, or remove the image: rbd rm {image}"
            )

    def _allocated(self, header: headers.ImageHeader) -> int:
        if header.mapped:
            return headers.allocated(self.backend.ioctx, header)
        with self.backend.cluster.image(self.backend.pool, self.image, image_id=header.id, read_only=True) as image:
            return images.own_bytes(image)

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:  # noqa: ARG002 - a clone of any size costs the same
        """A clone; of an image that the pool does not have yet, after an import."""
        whole = template.virtual_size or template.size or 0
        if template.role == "private":
            return Plan(way="import", reason="it is a secret, and becomes no base", writes=whole, needs=whole)
        if base is not None:
            return Plan(way="clone")
        reason = f"the image is not in the pool {self.backend.pool} yet: it is imported once"
        return Plan(way="clone", reason=reason, writes=whole, needs=whole)

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """A clone of the pool's base; a secret is written to an image of its own."""
        if base.secret:
            local = self.backend.host.unfinished(self.id)
            try:
                prepare_template(local)
                self._import(local, size or 0, base.progress)
            finally:
                local.unlink(missing_ok=True)
            return "import"
        whole = prepare_template(base).virtual_size
        place = ImagePlace(pool=self.backend.pool, image=bases.image_of(base.name), snapshot=bases.SNAPSHOT)
        try:
            self._clone(place, size if size is not None and size > whole else None)
        except (*self.backend.cluster.absent, *self.backend.cluster.invalid) as exc:
            if self.backend.find_base(base.name) is not None:
                raise errors.StorageError(f"cannot clone {place}: {exc}") from exc
            raise errors.BaseMissing(f"the base {base.name} has gone from the pool {self.backend.pool}") from exc
        return "clone"

    def parent(self, location: str) -> ImageInfo | str:
        """What is at ``rbd://fsid/pool/image/snapshot``, if it is in this cluster."""
        return locations.parent(self.backend.cluster, location)

    def clone_image(self, location: str) -> Way:
        """From another pool, or this one."""
        place = locations.parsed(location)
        if place is None:
            raise errors.StorageError(f"{location} is no location in a Ceph cluster")
        with self._asked("cloning"):
            self._clone(place, None)
        return "clone"

    def import_image(self, path: Path) -> None:
        """Written to an image of its own."""
        self._import(path, 0, ignore)

    def _clone(self, place: ImagePlace, size: int | None) -> None:
        """``size``: what it is grown to at once; None: it is as large as its parent."""
        backend = self.backend
        with self._asked("cloning", but=(*backend.cluster.absent, *backend.cluster.invalid)), self._making():
            parent = backend.cluster.pool(place.pool)
            backend.cluster.rbd().clone(parent, place.image, place.snapshot, backend.ioctx, self.image)
            image_id = headers.identity(backend.ioctx, self.image) if size is None else self._resize(size)
            whole = headers.read(backend.ioctx, image_id).size if size is None else size
            self._mark(image_id)
        if self.operation is not None:
            self._made = self.operation, DiskInfo(format="raw", size=whole, allocated=0)

    def _import(self, path: Path, size: int, progress: Progress) -> None:
        backend = self.backend
        with files.open_fd(path, os.O_RDONLY) as source, self._asked("importing"), self._making():
            length = os.fstat(source).st_size
            whole = -(-length // 512) * 512
            backend.cluster.rbd().create(backend.ioctx, self.image, max(size, whole), old_format=False)
            with backend.cluster.image(backend.pool, self.image) as image:
                images.fill(image, source, length, progress)
                image_id = image.id()
            self._mark(image_id)

    def _mark(self, image_id: str) -> None:
        """Say whose it is."""
        record, me = self.recorded, self.backend.attached.owners.me
        owner, identity = (record.owner, record.identity) if record is not None else (None, None)
        note = marks.content(self.backend, self.id, image_id, owner or me(), identity)
        note["record"] = dataclasses.asdict(record) if record is not None else None
        headers.set_metadata(self.backend.ioctx, image_id, marks.MARK, json.dumps(note))

    @contextlib.contextmanager
    def _making(self) -> Iterator[None]:
        """The image is unfinished until the end of this, or until it is discarded."""
        backend = self.backend
        with backend.unfinished.working(self.image) as work:
            try:
                yield
            except backend.cluster.taken as exc:
                work.drop()  # whose it is it is not told to be unfinished
                raise errors.DiskBusy(
                    f"{backend.pool}/{self.image} was made meanwhile by another host; try again"
                ) from exc
            work.drop()

    def discard(self) -> None:
        """What is on the list of the unfinished, and what is left of an image of the disk; the rest is whole."""
        backend, self._made = self.backend, None
        backend.host.unfinished(self.id).unlink(missing_ok=True)
        with self._asked("clearing"):
            left = backend.unfinished.left(self.image, to_image.entry_name(self.image))
            for name, before in left.items():
                with backend.unfinished.taking_over(name, before, locked=True) as work:
                    if name == self.image:
                        self._purge(work)
                    else:
                        to_image.clear(backend, self.image, work)

    def resize_image(self, size: int) -> None:
        """One request to the header; a guest that runs is told by librbd."""
        with self._asked("growing"):
            self._resize(size)
        if self._made is not None:
            self._made = self._made[0], dataclasses.replace(self._made[1], size=size)

    def _resize(self, size: int) -> str:
        with self.backend.cluster.image(self.backend.pool, self.image) as image:
            image.resize(size, allow_shrink=False)
            return image.id()

    def remove_image(self) -> None:
        """With its own snapshots.  It is unfinished from the first step on, and whole again if it is refused.

        An image of another program's is found by its name, and used, but not removed before it is on record.
        """
        backend, self._made = self.backend, None
        with self._asked("removing"):
            image_id = self.identity()
            if image_id is None or backend.unfinished.has(self.image):
                return
            if headers.identity(backend.ioctx, self.image) != image_id:
                self.find()  # it is made whole first: what refuses to be removed is to be used
            with contextlib.suppress(*backend.cluster.absent):
                self._refuse_foreign(headers.read(backend.ioctx, image_id, (marks.MARK,)))
                images.refuse_bound(backend.cluster, backend.pool, self.image)
                images.refuse_open(backend.cluster, backend.pool, self.image, backend.patience)
            with backend.unfinished.working(self.image, image_id=image_id) as work:
                self._purge(work)

    def _purge(self, work: Work) -> None:
        """What is on the list; a removal that is refused takes the disk off it, for it is whole then."""
        backend = self.backend
        try:
            if work.entry.image:
                images.remove(backend.cluster, backend.pool, self.image, work.entry.image, backend.patience)
            else:
                images.purge(backend.cluster, backend.pool, self.image, backend.patience)
            rollback.remove_lock(backend, self.image)
        except BaseException:
            with contextlib.suppress(errors.Error), self._asked("looking for"):
                if work.entry.image and headers.identity(backend.ioctx, self.image) == work.entry.image:
                    work.drop()
            raise
        work.drop()

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        """Read here; see :mod:`imgbackend_rbd.export`."""
        self.refuse_open()
        with self._asked("reading"):
            export.write(self.backend, self.image, target, format, compress=compress, progress=progress)

    def source(self) -> NetworkSource:
        """With the monitors that were there when the backend was opened."""
        backend = self.backend
        return NetworkSource(
            protocol="rbd",
            name=f"{backend.pool}/{self.image}",
            hosts=backend.cluster.monitors,
            user=backend.cluster.access.user,
            secret_uuid=backend.conf.secret_uuid,
            conf=backend.cluster.access.conf or None,
        )

    def create_image_snap(self, name: str) -> None:
        """One request to the header."""
        self.refuse_open()
        with self._asked("making a snapshot of"), self.backend.cluster.image(self.backend.pool, self.image) as image:
            image.create_snap(name)

    def rollback_image_snap(self, name: str) -> None:
        """The disk's name points nowhere meanwhile, for librbd copies object by object: no guest sees half of it."""
        self.refuse_open()
        with self._asked("rolling back"):
            rollback.roll_back(self.backend, self.image, name)

    def remove_image_snap(self, name: str) -> None:
        """DiskBusy where it has clones."""
        self.refuse_open()
        backend = self.backend
        with self._asked("removing a snapshot of"), backend.cluster.image(backend.pool, self.image) as image:
            if image.is_protected_snap(name):
                image.unprotect_snap(name)
            image.remove_snap(name)

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        """Those that people made, with any tool."""
        backend = self.backend
        with (
            self._asked("listing the snapshots of"),
            backend.cluster.image(backend.pool, self.image, read_only=True) as image,
        ):
            found = [
                SnapshotInfo(name=snap["name"], size=snap["size"], time=images.taken(image, snap["id"]))
                for snap in images.snapshots(image)
                if snap["name"] != to_image.SNAPSHOT
            ]
        yield from found

    def to_image(self, image_id: str, pool: str | None = None, *, progress: Progress = ignore) -> Location:
        """Make an image of the disk, in the pool that the images are in; nothing leaves the cluster.

        What is returned is for the image service: an image whose place it is.  ``image_id`` is
        the id that the image has there; ``pool`` None: that of the image that the disk is a
        clone of.  A guest may run on the disk: the image is what a power cut would leave.
        The image needs neither the disk nor its base.  On an error nothing is left of it.

        :raises DiskNotFound: if there is no disk.
        :raises DiskError: if it is no id, if there is such an image, or if the pool is not known.
        :raises ConfigError: if the user may not write to that pool.
        """
        with self.locked(progress) as watched:
            self.found()
            with self._asked("making an image of"):
                return to_image.made(self.backend, self.image, image_id, pool, watched)

    def flatten_image(self, progress: Progress) -> None:
        """By librbd, object by object; at each of them the bytes are the same."""
        self.refuse_open()
        backend = self.backend
        with self._asked("flattening"), backend.cluster.image(backend.pool, self.image) as image:
            try:
                image.parent_info()
            except backend.cluster.absent:
                return
            size = image.size()
            progress("convert", 0, size)
            image.flatten()
            progress("convert", size, size)

    def refuse_open(self) -> None:
        """By the image's watchers."""
        with self._asked("looking who has opened"):
            images.refuse_open(self.backend.cluster, self.backend.pool, self.image, A_MOMENT)

    def _asked(self, what: str, but: tuple[type[Exception], ...] = ()) -> contextlib.AbstractContextManager[None]:
        return self.backend.cluster.asked(f"{what} {self.backend.pool}/{self.image}", self.backend.pool, but=but)
