"""The reference: the smallest backend that conforms, and the start of one's own."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from oslo_config import cfg

from imgbackend import errors
from imgbackend.driver.abilities import Exclusive
from imgbackend.driver.contract import Backend, Disk
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files, image_lock, qemu_img
from imgbackend.system.host import DISK_MODE, SECRET_MODE
from imgbackend.types import Capacity, Declared, DiskId, DiskInfo, FileSource, ImageInfo, Plan, Progress, Way


class MemoryDisk(Disk["MemoryBackend"], Exclusive):
    """A raw file of a file system that is kept in memory."""

    @property
    def path(self) -> Path:
        """Where it is: no name of an instance has ``_`` in it."""
        return self.backend.folder / f"{self.id.instance}_{self.id.name}"

    @property
    def unfinished(self) -> Path:
        """Where it is made."""
        return self.path.with_name(f".{self.path.name}.part")

    def find(self) -> DiskInfo | None:
        """It is whole if it has its name."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            self.backend.expect_folder()
            return None
        return DiskInfo(format="raw", size=status.st_size, allocated=status.st_blocks * 512)

    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        """By QEMU's own lock of the file."""
        return image_lock.kept_closed(self.path)

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        """Always a copy."""
        whole = size or (base.virtual_size if base else template.virtual_size) or 0
        return Plan(way="copy", reason="memory has no snapshots", writes=whole, needs=whole)

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:  # noqa: ARG002 - growing costs the engine nothing
        """Copied under another name, and renamed."""
        if base.generated:
            prepare_template(self.unfinished)
        else:
            info = prepare_template(base)
            with files.new_file(self.unfinished) as target:
                self._fill(base, info, target)
        with files.open_fd(self.unfinished, os.O_RDWR) as target:
            self.backend.host.finish(target, mode=SECRET_MODE if base.secret else DISK_MODE)
        files.publish(self.unfinished, self.path, durable=self.backend.host.settings.durable)
        return "copy"

    def _fill(self, base: Base, info: ImageInfo, target: int) -> None:
        """A base need not be raw: it may be another driver's too, or ``force_raw_images`` be off."""
        if info.format == "raw":
            files.copy(base.open(), target, base.progress)
        else:
            layers, size = [(base.open(), info.format)], info.virtual_size
            qemu_img.convert(self.backend.host, layers, target, "raw", size=size, progress=base.progress)

    def discard(self) -> None:
        """Unlinked, not truncated."""
        self.unfinished.unlink(missing_ok=True)

    def resize_image(self, size: int) -> None:
        """What is new is a hole, and reads as zeroes."""
        with files.open_fd(self.path, os.O_RDWR) as fd:
            os.ftruncate(fd, size)
            files.flush(fd)

    def remove_image(self) -> None:
        """Unlink it."""
        self.backend.expect_folder()
        self.path.unlink(missing_ok=True)
        self.backend.host.flush_folders([self.backend.folder])

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        """By qemu-img."""
        size = self.found().size
        with files.open_fd(self.path, os.O_RDONLY) as source, files.open_fd(target, os.O_RDWR) as out:
            layers = [(source, "raw")]
            qemu_img.convert(
                self.backend.host, layers, out, format, size=size, compress=compress, progress=progress, phase="extract"
            )

    def source(self) -> FileSource:
        """The file."""
        return FileSource(path=self.path, format="raw")


class MemoryBackend(Backend):
    """Disks that are gone after the next start of the host."""

    disk_type = MemoryDisk
    opts: ClassVar[Sequence[cfg.Opt]] = (
        cfg.StrOpt("folder", default="/dev/shm/imgbackend", help="A folder of a tmpfs; it is made."),  # noqa: S108 - it is for memory
    )

    @property
    def folder(self) -> Path:
        """The store."""
        return Path(self.conf.folder)

    def open(self) -> None:
        """Make the folder."""
        files.make_folders(self.folder)

    def expect_folder(self) -> None:
        """It was made when this was opened: without it nothing is known of any disk.

        :raises StorageUnavailable: if it is not there.
        """
        if not self.folder.is_dir():
            raise errors.StorageUnavailable(f"{self.folder} is not there any more; mount it")

    def list_disks(self) -> Iterator[DiskId]:
        """By their records."""
        return self.host.records.kept_by(self.name)

    def capacity(self) -> Capacity:
        """Of the file system."""
        status = shutil.disk_usage(self.folder)
        return Capacity(total=status.total, free=status.free)
