"""Disks that are files: what their drivers share.

By itself this keeps a disk as Nova does, as the file ``<instance>/<name>`` of
``instances_path``.  A driver that keeps it elsewhere says where: :attr:`FileBackend.folder`,
:attr:`FileDisk.path` and :attr:`FileDisk.unfinished`.  The disk is raw, or, where the
driver's traits say that it keeps it so, a flat container of its base's format.

Each hook flushes what it changed: the file, and the folder that its name is in, or was.
Folders that a driver makes or removes beside that are flushed by the driver.
"""

import contextlib
import functools
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from imgbackend import errors
from imgbackend.driver.abilities import Exclusive
from imgbackend.driver.contract import Backend, Disk
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files, image_lock, qemu_img
from imgbackend.system.host import DISK_MODE, SECRET_MODE
from imgbackend.types import Capacity, Declared, DiskId, DiskInfo, FileSource, ImageInfo, Plan, Progress, Way

_NO_REFLINK = "the file system of {} cannot share blocks (reflink) with the bases"


class FileBackend(Backend):
    """A store that is a folder; the folders of the instances, unless a driver says otherwise.

    Its traits are the usual ones: raw, in sectors, ``files`` false.  While the folder is not
    there, what is told of it is told of the nearest one above, on whose file system it will be made.
    """

    @property
    def folder(self) -> Path:
        """Below it are the disks."""
        return self.host.instances

    @functools.cached_property
    def reflinks(self) -> bool:
        """Whether disks can share blocks with their bases; tried once, when it is first asked."""
        return files.can_reflink(self.host.bases, into=self.folder)

    _there: tuple[int, int] | None = None
    _device: int | None = None

    def open(self) -> None:
        """Note where the folder is, or will be; whoever overrides this calls it."""
        with contextlib.suppress(FileNotFoundError):
            self._there = _place(self.folder)
        self._device = os.stat(files.nearest(self.folder)).st_dev

    def expect_folder(self) -> None:
        """Nothing is known of a disk whose file system went away since this was opened.

        :raises StorageUnavailable: if the folder is another one now, or on another file system.
        """
        place = files.nearest(self.folder)
        device, number = _place(place)
        if self._device not in (None, device) or self._there not in (None, (device, number)):
            raise errors.StorageUnavailable(
                f"{self.folder} is not the folder that it was; mount its file system, or restart if it was moved"
            )

    def list_disks(self) -> Iterator[DiskId]:
        """By their records; Nova's are whoever's backend the engine finds for them."""
        self.expect_folder()
        return self.host.records.kept_by(self.name)

    def capacity(self) -> Capacity:
        """Of the folder's file system, as an unprivileged writer may use it."""
        try:
            usage = shutil.disk_usage(files.nearest(self.folder))
        except OSError as exc:
            raise files.as_error(exc, self.folder) from exc
        return Capacity(total=usage.total, free=usage.free)


def _place(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


FileBackendT = TypeVar("FileBackendT", bound=FileBackend)


class FileDisk(Disk[FileBackendT], Exclusive, Generic[FileBackendT]):
    """A disk that is a file: every hook but what a driver does better."""

    @property
    def path(self) -> Path:
        """Where it is, or would be."""
        return self.backend.host.path(self.id)

    @property
    def unfinished(self) -> Path:
        """Where it is made: on the same file system, and no disk's name."""
        return self.backend.host.unfinished(self.id)

    @property
    def format(self) -> str:
        """As recorded, else the driver's own; never what the bytes look like."""
        return self.recorded.format if self.recorded else self.backend.traits.formats[0]

    def find(self) -> DiskInfo | None:
        """One ``lstat``, and for a container its header."""
        try:
            status = os.lstat(self.path)
            if not stat.S_ISREG(status.st_mode):
                status = self._behind_link()
            size = self.virtual_size(status.st_size)
        except (FileNotFoundError, NotADirectoryError):  # of either: nobody who looks holds the disk's lock
            self.backend.expect_folder()
            return None
        return DiskInfo(format=self.format, size=size, allocated=status.st_blocks * 512)

    def may_be_there(self) -> bool:
        """A link that leads to nothing is there too."""
        try:
            os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            self.backend.expect_folder()
            return False
        return True

    def _behind_link(self) -> os.stat_result:
        """The file that a link in the disk's place leads to.

        :raises StorageUnavailable: if it is not there, as where its file system is not mounted.
        :raises DiskError: if it is no file, or may be another instance's disk.
        """
        real, own = os.path.realpath(self.path), os.path.realpath(self.backend.host.folder(self.id))
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            if not self.path.is_symlink():
                raise
            raise errors.StorageUnavailable(
                f"{self.path} is a link to {real}, where nothing is now; mount its file system"
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise errors.DiskError(f"{self.path} is no file; look what it is, and move it away")
        if real.startswith(f"{os.path.realpath(self.backend.folder)}/") and not real.startswith(f"{own}/"):
            raise errors.DiskError(f"{self.path} is a link to {real}, which is not of {self.id.instance}")
        return status

    def virtual_size(self, _length: int) -> int:
        """What a guest sees of a file of that length."""
        return _length

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        """A reflink where the file system can, else a copy; another format is converted."""
        if template.role in {"generated", "private"}:
            return Plan(way="generate", writes=template.size or 0, needs=template.size or 0)
        whole = base.virtual_size if base else template.virtual_size or template.size or 0
        needs = size or whole if self.backend.host.settings.preallocate else 0
        if base is not None and base.format not in self.backend.traits.formats:
            reason = f"the base is {base.format}, which {self.backend.driver} does not keep"
            return Plan(way="convert", reason=reason, writes=whole, needs=max(needs, whole))
        if self.backend.reflinks:
            return Plan(way="reflink", needs=needs)
        reason = _NO_REFLINK.format(self.backend.folder)
        return Plan(way="copy", reason=reason, writes=whole, needs=max(needs, whole))

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """Filled under another name, grown, flushed, renamed."""
        way: Way = "generate"
        if base.generated:
            self.begin()
            info = prepare_template(self.unfinished)
        else:
            info = prepare_template(base)
            self.begin()
            with files.new_file(self.unfinished) as target:
                way = self._filled(base, info, target)
        with files.open_fd(self.unfinished, os.O_RDWR) as target:
            kept = info.format if info.format in self.backend.traits.formats else self.backend.traits.formats[0]
            self._grown(target, kept, max(size or 0, info.virtual_size), info.virtual_size)
            self.publish(target, base)
        return way

    def begin(self) -> None:
        """The file at :attr:`unfinished` is about to be made; a driver may make what it is kept in.

        Called after ``prepare_template`` for what has a base; before it for what is put
        straight in place (``base.generated``), which may yet fail: ``discard`` clears it then.
        """

    def _filled(self, base: Base, info: ImageInfo, target: int) -> Way:
        source, host, kept = base.open(), self.backend.host, self.backend.traits.formats
        if info.format not in kept:
            layers = [(source, info.format)]
            qemu_img.convert(host, layers, target, kept[0], size=info.virtual_size, progress=base.progress)
            return "convert"
        if self.backend.reflinks and files.reflink(source, target):
            return "reflink"
        with host.space.reserved(self.unfinished, os.fstat(source).st_blocks * 512):
            files.copy(source, target, base.progress)
        return "copy"

    def _grown(self, target: int, format: str, size: int, now: int) -> None:
        host = self.backend.host
        if format != "raw":
            if size > now:
                qemu_img.resize(host, [(target, format)], size)
            return
        if size > now:
            os.ftruncate(target, size)
        host.preallocate(target, size)

    def publish(self, fd: int, base: Base) -> None:
        """The file at :attr:`unfinished` is whole: give it its mode, flush it, and its name."""
        host = self.backend.host
        host.finish(fd, mode=SECRET_MODE if base.secret else DISK_MODE)
        files.publish(self.unfinished, self.path, durable=host.settings.durable)

    def discard(self) -> None:
        """The unfinished file is unlinked, never truncated: somebody may still write to it."""
        self.unfinished.unlink(missing_ok=True)

    def resize_image(self, size: int) -> None:
        """Raw: the file is made longer, its new part a hole; a container: by qemu-img."""
        with files.open_fd(self.path, os.O_RDWR) as fd:
            with image_lock.kept_unwritten(fd) if self.format == "raw" else contextlib.nullcontext():
                self._grown(fd, self.format, size, 0)  # of a container qemu-img itself takes the lock
            if self.backend.host.settings.durable:
                files.flush(fd)

    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        """By QEMU's own lock of the file."""
        return image_lock.kept_closed(self.path)

    def remove_image(self) -> None:
        """Unlink it, and flush the folder that it was in."""
        try:
            self.path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            self.backend.expect_folder()
            return
        if self.backend.host.settings.durable:
            files.flush_folder(self.path.parent)

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        """The same format is copied, another converted."""
        host = self.backend.host
        with files.open_fd(self.path, os.O_RDONLY) as source, files.open_fd(target, os.O_RDWR) as out:
            size, layers = self.found().size, [(source, self.format)]
            if format == self.format == "raw":
                with image_lock.kept_unwritten(source):  # half of what a guest writes meanwhile would be in the copy
                    progress("extract", 0, size)
                    if not files.reflink(source, out):
                        files.copy(source, out, progress, phase="extract")
                return
            qemu_img.convert(
                host, layers, out, format, size=size, compress=compress, progress=progress, phase="extract"
            )

    def source(self) -> FileSource:
        """The file, in the recorded format."""
        return FileSource(path=self.path, format=self.format)
