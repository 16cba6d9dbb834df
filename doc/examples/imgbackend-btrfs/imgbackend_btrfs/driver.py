"""The driver ``btrfs``.

What it keeps, in the folder that the option ``folder`` names::

    vm1_disk/               all that belongs to one disk
        now/raw             the disk: a subvolume with a raw file in it, published by a rename
        new/raw             unfinished: of a creation, or of a rollback
        snap.monday/raw     a snapshot: a read-only subvolume

A name of an instance has no ``_`` in it, and a name of a disk neither.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

from oslo_config import cfg

from imgbackend import errors
from imgbackend.driver.abilities import Snapshottable
from imgbackend.driver.file_disk import FileBackend, FileDisk
from imgbackend.driver.template import Base
from imgbackend.system import files, image_lock
from imgbackend.system.host import DISK_MODE, SECRET_MODE
from imgbackend.system.runner import CommandLimits
from imgbackend.types import SnapshotInfo

_SNAP: Final = "snap."
_LIMITS: Final = CommandLimits(cpu_seconds=30, address_space=1 << 30)


class BtrfsDisk(FileDisk["BtrfsBackend"], Snapshottable):
    """A raw file in a subvolume."""

    @property
    def home(self) -> Path:
        """The folder of all that belongs to the disk."""
        return self.backend.folder / f"{self.id.instance}_{self.id.name}"

    @property
    def now(self) -> Path:
        """The subvolume of the disk."""
        return self.home / "now"

    @property
    def new(self) -> Path:
        """The subvolume that is going to be the disk, or was it until a moment ago."""
        return self.home / "new"

    @property
    def path(self) -> Path:
        """The file with the disk's bytes."""
        return self.now / "raw"

    @property
    def unfinished(self) -> Path:
        """The same of the next subvolume."""
        return self.new / "raw"

    def begin(self) -> None:
        """A new subvolume for the file."""
        self.backend.host.make_folder(self.home)
        self.backend.btrfs("subvolume", "create", self.new)
        self.new.chmod(files.FOLDER_MODE)

    def publish(self, fd: int, base: Base) -> None:
        """The file is flushed, and its subvolume gets its name."""
        self.backend.host.finish(fd, mode=SECRET_MODE if base.secret else DISK_MODE)
        files.publish(self.new, self.now, durable=self.backend.durable)

    def discard(self) -> None:
        """What is unfinished goes, and what a removal that was killed left."""
        self._delete(self.new)
        if self.home.exists() and not self.now.exists():
            self._delete(*self.home.glob(f"{_SNAP}*"))
            self.home.rmdir()
            self.backend.host.flush_folders([self.backend.folder])

    def remove_image(self) -> None:
        """First the disk, so that it is never there without its snapshots; then these."""
        self.backend.expect_folder()
        self._delete(self.now)
        self.discard()

    def create_image_snap(self, name: str) -> None:
        """It inherits the time at which its subvolume was last touched."""
        self._prepare()
        os.utime(self.now)
        self.backend.btrfs("subvolume", "snapshot", "-r", self.now, self.home / f"{_SNAP}{name}")

    def rollback_image_snap(self, name: str) -> None:
        """A writable snapshot of the snapshot trades places with the disk, in one step."""
        self._prepare()
        self.backend.btrfs("subvolume", "snapshot", self.home / f"{_SNAP}{name}", self.new)
        files.exchange(self.new, self.now, durable=self.backend.durable)
        self.discard()

    def remove_image_snap(self, name: str) -> None:
        """Its subvolume goes."""
        self._prepare()
        self._delete(self.home / f"{_SNAP}{name}")

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        """By the time that they inherited."""
        for path in sorted(self.home.glob(f"{_SNAP}*"), key=lambda snap: os.stat(snap).st_mtime_ns):
            name, size = path.name.removeprefix(_SNAP), os.stat(path / "raw").st_size
            yield SnapshotInfo(name=name, size=size, time=os.stat(path).st_mtime)

    def _prepare(self) -> None:
        """No guest may run on the disk; and what a killed rollback left goes."""
        with files.open_fd(self.path, os.O_RDONLY) as fd:
            image_lock.refuse_written(fd)
        self.discard()

    def _delete(self, *subvolumes: Path) -> None:
        there = [path for path in subvolumes if path.exists()]
        if there:
            self.backend.btrfs("subvolume", "delete", *there)
            if self.backend.durable:
                # not --commit-after: that waits for one commit by its number, and fails where the commit is over
                self.backend.btrfs("filesystem", "sync", there[0].parent)


class BtrfsBackend(FileBackend):
    """A folder on btrfs."""

    disk_type = BtrfsDisk
    opts: ClassVar[Sequence[cfg.Opt]] = (
        cfg.StrOpt(
            "folder", help="Keep disks here, on btrfs.  By default: _disks.<the section's name> in instances_path."
        ),
    )

    def open(self) -> None:
        """Look, and change nothing: whoever lists backends opens them all."""
        if shutil.which("btrfs") is None:
            raise errors.ConfigError("btrfs is not installed; install btrfs-progs, or use another images_type")
        place = files.nearest(self.folder)
        try:
            self.btrfs("filesystem", "df", place)
        except errors.CommandFailed as exc:
            raise errors.ConfigError(f"{place} is not on btrfs; let [{self.name}] folder be on one") from exc
        super().open()

    @property
    def folder(self) -> Path:
        """The store; no instance has a name that begins with ``_``, and the bases are in ``_base``."""
        return Path(os.path.abspath(self.conf.folder or self.host.instances / f"_disks.{self.name}"))

    @property
    def durable(self) -> bool:
        """Whether a power cut may take nothing."""
        return self.host.settings.durable

    def btrfs(self, *words: str | Path) -> None:
        """Run the command.

        :raises CommandFailed: with what it said.
        """
        self.host.run(["btrfs", *map(str, words)], limits=_LIMITS)
