"""Disks that are files of the instance's folder, as Nova keeps them: what their drivers share."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from imgbackend import files, overlays
from imgbackend.backend import Backend, Disk
from imgbackend.host import DISK_MODE, SECRET_MODE
from imgbackend.templates import Base
from imgbackend.types import Capacity, DiskId, DiskInfo, FileSource


class FileBackend(Backend):
    """A store that is the folders of the instances."""

    def list_disks(self) -> Iterator[DiskId]:
        """By their records; Nova's are whoever's backend the engine finds for them."""
        for instance in overlays.instances(self.host):
            for name, record in self.host.records.all(instance).items():
                if record.backend == self.name:
                    with contextlib.suppress(ValueError):
                        yield DiskId(instance=instance, name=name)

    def capacity(self) -> Capacity:
        """Of the file system of ``instances_path``, as an unprivileged writer may use it."""
        folder = self.host.instances
        while not folder.exists():
            folder = folder.parent
        status = os.statvfs(folder)
        return Capacity(total=status.f_blocks * status.f_frsize, free=status.f_bavail * status.f_frsize)


FileBackendT = TypeVar("FileBackendT", bound=FileBackend)


class FileDisk(Disk[FileBackendT], Generic[FileBackendT]):
    """A disk that is a file."""

    @property
    def path(self) -> Path:
        """Where it is, or would be."""
        return self.backend.host.path(self.id)

    @property
    def unfinished(self) -> Path:
        """Where it is made."""
        return self.backend.host.unfinished(self.id)

    @property
    def format(self) -> str:
        """As recorded, else the driver's own; never what the bytes look like."""
        return self.recorded.format if self.recorded else self.backend.traits.formats[0]

    def find(self) -> DiskInfo | None:
        """One ``stat``, and for a container its header."""
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return DiskInfo(format=self.format, size=self.virtual_size(status.st_size), allocated=status.st_blocks * 512)

    def virtual_size(self, _length: int) -> int:
        """What a guest sees of a file of that length."""
        return _length

    def publish(self, fd: int, base: Base) -> None:
        """The file at :attr:`unfinished` is whole: give it its mode, flush it, and its name."""
        self.backend.host.finish(fd, mode=SECRET_MODE if base.secret else DISK_MODE)
        self.backend.host.publish(self.id)

    def discard(self) -> None:
        """The unfinished file is unlinked, never truncated: somebody may still write to it."""
        self.unfinished.unlink(missing_ok=True)

    def remove_image(self) -> None:
        """Unlink it."""
        try:
            self.path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        if self.backend.host.settings.durable:
            files.flush_folder(self.path.parent)

    def source(self) -> FileSource:
        """The file, in the recorded format."""
        return FileSource(path=self.path, format=self.format)
