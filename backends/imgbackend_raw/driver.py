"""The driver ``raw``."""

import functools
import os
from pathlib import Path
from typing import ClassVar

from imgbackend import errors, files, qcow2, qemu_img
from imgbackend.filedisk import FileBackend, FileDisk
from imgbackend.templates import Base, PrepareTemplate
from imgbackend.types import Declared, ImageInfo, Plan, Progress, Traits, Way

_NO_REFLINK = "the file system of instances_path cannot share blocks (reflink)"


class RawDisk(FileDisk["RawBackend"]):
    """A file with the disk's own bytes."""

    def virtual_size(self, _length: int) -> int:
        """Of a flat qcow2 its header tells."""
        if self.format == "raw":
            return _length
        header = qcow2.read(self.path)
        qcow2.refuse_foreign(header, str(self.path))
        if header.backing_file is not None:
            raise errors.DiskError(f"{self.path} refers to {header.backing_file}, and is to be a disk without a base")
        return header.virtual_size

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        """A reflink where the file system can, else a copy."""
        if template.role in {"generated", "private"}:
            return Plan(way="generate", writes=template.size or 0, needs=template.size or 0)
        whole = base.virtual_size if base else template.virtual_size or template.size or 0
        needs = size or whole if self.backend.host.settings.preallocate else 0
        if self.backend.reflinks:
            return Plan(way="reflink", needs=needs)
        return Plan(way="copy", reason=_NO_REFLINK, writes=whole, needs=max(needs, whole))

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """Filled under another name, grown, flushed, renamed."""
        way: Way = "generate"
        if base.generated:
            info = prepare_template(self.unfinished)
            with files.open_fd(self.unfinished, os.O_RDWR) as target:
                self._finish(target, base, info, size)
            return way
        info = prepare_template(base)
        with files.new_file(self.unfinished) as target:
            way = self._filled(base, target)
            self._finish(target, base, info, size)
        return way

    def _filled(self, base: Base, target: int) -> Way:
        source = base.open()
        if self.backend.reflinks and files.reflink(source, target):
            return "reflink"
        with self.backend.host.space.reserved(self.unfinished, os.fstat(source).st_blocks * 512):
            files.copy(source, target, base.progress)
        return "copy"

    def _finish(self, target: int, base: Base, info: ImageInfo, size: int | None) -> None:
        host = self.backend.host
        if size is not None and size > info.virtual_size:
            if info.format == "raw":
                os.ftruncate(target, size)
            else:
                qemu_img.resize(host, [(target, info.format)], size)
        if info.format == "raw":
            host.preallocate(target, max(size or 0, info.virtual_size))
        self.publish(target, base)

    def resize_image(self, size: int) -> None:
        """Raw: the file is made longer, its new part a hole; qcow2: by qemu-img."""
        host = self.backend.host
        with files.open_fd(self.path, os.O_RDWR) as fd:
            if self.format == "raw":
                os.ftruncate(fd, size)
                host.preallocate(fd, size)
            else:
                qemu_img.resize(host, [(fd, self.format)], size)
            if host.settings.durable:
                files.flush(fd)

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        """The same format is copied, another converted."""
        with files.open_fd(self.path, os.O_RDONLY) as source, files.open_fd(target, os.O_RDWR) as out:
            if format == self.format == "raw":
                qemu_img.refuse_open(source)
                if not files.reflink(source, out):
                    files.copy(source, out, progress, phase="extract")
                return
            size = self.found().size
            layers = [(source, self.format)]
            qemu_img.convert(
                self.backend.host, layers, out, format, size=size, compress=compress, progress=progress, phase="extract"
            )


class RawBackend(FileBackend):
    """Raw disks in the folders of the instances."""

    disk_type = RawDisk
    traits: ClassVar[Traits] = Traits(formats=("raw", "qcow2"), files=True)

    @functools.cached_property
    def reflinks(self) -> bool:
        """Whether the file system of the instances shares blocks between files; tried once."""
        return files.can_reflink(self.host.instances)
