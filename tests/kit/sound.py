"""A driver with snapshots, as files of one folder: what broken ones are made of."""

import os
from collections.abc import Iterator
from pathlib import Path

from imgbackend.driver.abilities import Snapshottable
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files, image_lock
from imgbackend.system.runner import CommandLimits
from imgbackend.testing import MemoryBackend
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import SnapshotInfo, Way


class SnapDisk(MemoryDisk, Snapshottable):
    """Its snapshots are copies."""

    def create_image_snap(self, name: str) -> None:
        """Copied, and renamed when the copy is whole."""
        self.refuse_guest()
        self.copied(self.path, self.snapshot(name))

    def rollback_image_snap(self, name: str) -> None:
        """A copy of the snapshot takes the disk's place."""
        self.refuse_guest()
        self.copied(self.snapshot(name), self.path)

    def remove_image_snap(self, name: str) -> None:
        """Unlinked."""
        self.refuse_guest()
        self.snapshot(name).unlink()
        files.flush_folder(self.backend.folder)

    def refuse_guest(self) -> None:
        """Half of one state and half of another is no state."""
        with files.open_fd(self.path, os.O_RDONLY) as disk:
            image_lock.refuse_written(disk)

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        """In the order in which they were made."""
        found = [(os.stat(path).st_mtime_ns, path) for path in self.backend.folder.glob(f"{self.path.name}@*")]
        for made, path in sorted(found):
            name = path.name.partition("@")[2]
            yield SnapshotInfo(name=name, size=os.stat(path).st_size, time=made / 10**9)

    def remove_image(self) -> None:
        """With its snapshots."""
        for path in self.backend.folder.glob(f"{self.path.name}@*"):
            path.unlink()
        super().remove_image()

    def snapshot(self, name: str) -> Path:
        """Where a snapshot is kept; no name of a disk has ``@`` in it."""
        return self.path.with_name(f"{self.path.name}@{name}")

    def copied(self, source: Path, target: Path) -> None:
        """``target`` becomes a copy of ``source``, at once."""
        new = not target.exists()
        try:
            with files.open_fd(source, os.O_RDONLY) as read, files.new_file(self.unfinished) as write:
                files.copy(read, write)
                self.backend.host.finish(write, mode=os.fstat(read).st_mode & 0o777)
            files.publish(self.unfinished, target)
        except BaseException:
            self.unfinished.unlink(missing_ok=True)
            if new:
                target.unlink(missing_ok=True)
            raise


class CommandDisk(MemoryDisk):
    """As the reference, by a command of the system."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """The base's file is copied by ``cp``; only what the engine puts in place is not."""
        if base.generated:
            return super().create_image(prepare_template, base, size)
        prepare_template(base)
        self.copied(str(base.path), str(self.unfinished))
        with files.open_fd(self.unfinished, os.O_RDWR) as target:
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"

    def copied(self, source: str, target: str) -> None:
        """Run it."""
        argv = ["cp", "--sparse=always", "--no-preserve=all", source, target]
        self.backend.host.run(argv, limits=CommandLimits(cpu_seconds=60, address_space=1 << 30))


class CommandBackend(MemoryBackend):
    """The reference's store."""

    disk_type = CommandDisk


class SnapBackend(MemoryBackend):
    """The reference's store."""

    disk_type = SnapDisk
