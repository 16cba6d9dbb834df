"""Drivers that lose something in a power cut, and do not see a store that is away."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.testing import MemoryBackend
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import DiskId, DiskInfo, Way
from kit.faults import caught
from kit.sound import SnapDisk


@caught({"test_snapshots_are_flushed": "is not flushed before it is renamed"})
class NeverFlushesSnapshots(SnapDisk):
    """The flush belongs to ``publish``, which a snapshot is not."""

    def copied(self, source: Path, target: Path) -> None:
        shutil.copyfile(source, self.unfinished)
        shutil.copymode(source, self.unfinished)
        files.publish(self.unfinished, target)


@caught({"test_snapshots_are_flushed": "its folder is not"})
class ForgetsTheFolderOfSnapshots(SnapDisk):
    """The bytes are flushed, and the name is there to be seen."""

    def copied(self, source: Path, target: Path) -> None:
        with files.open_fd(source, os.O_RDONLY) as read, files.new_file(self.unfinished) as write:
            files.copy(read, write)
            self.backend.host.finish(write, mode=os.fstat(read).st_mode & 0o777)
        os.rename(self.unfinished, target)


@caught({"test_snapshots_are_flushed": "is not flushed"})
class RollsBackUnflushed(SnapDisk):
    """Only what is new is flushed: the disk was there before."""

    def rollback_image_snap(self, name: str) -> None:
        self.refuse_guest()
        self.path.write_bytes(self.snapshot(name).read_bytes())


@caught({"test_removal_is_flushed": "comes back after a power cut"})
class RemovesUntilThePowerCut(MemoryDisk):
    """What is gone is gone, one would think."""

    def remove_image(self) -> None:
        self.backend.expect_folder()
        self.path.unlink(missing_ok=True)


@caught({"test_removal_of_a_snapshot_is_flushed": "comes back after a power cut"})
class RemovesSnapshotsUntilThePowerCut(SnapDisk):
    """A snapshot is an extra, and nobody minds one too many."""

    def remove_image_snap(self, name: str) -> None:
        self.refuse_guest()
        self.snapshot(name).unlink()


class _InItsOwnFolder(MemoryDisk):
    @property
    def path(self) -> Path:
        return self.backend.folder / f"{self.id.instance}_{self.id.name}" / "raw"

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        self.path.parent.mkdir(exist_ok=True)
        return super().create_image(prepare_template, base, size)

    def remove_image(self) -> None:
        self.backend.expect_folder()
        shutil.rmtree(self.path.parent, ignore_errors=True)
        files.flush_folder(self.backend.folder)


@caught({"test_new_folders_are_flushed": "the new folder"})
class MakesItsFolderUnflushed(_InItsOwnFolder):
    """``mkdir`` makes a folder; that its name is kept in another one is easily forgotten."""


@caught({"test_remove_leaves_no_folder": "trial.folders() == before"})
class LeavesItsFolder(_InItsOwnFolder):
    """An empty folder takes no room, and the next disk of that name can use it."""

    def remove_image(self) -> None:
        if self.path.parent.exists():
            self.path.unlink(missing_ok=True)
            files.flush_folder(self.path.parent)


@caught(
    {
        "test_store_that_is_away_has_lost_no_disk": "DID NOT RAISE",
        "test_store_that_is_away_gets_no_other_disk": "No such file",
    }
)
class TakesAnUnmountedStoreForAnEmptyOne(MemoryDisk):
    """A file that is not there is a disk that is not there."""

    def find(self) -> DiskInfo | None:
        return super().find() if self.path.exists() else None


@caught({"test_store_that_is_away_is_not_told_as_empty": "trial.listed() == {disk.id}"})
class ListsWhatIsMounted(MemoryBackend):
    """Only disks that are there can be used, and so only they are listed."""

    def list_disks(self) -> Iterator[DiskId]:
        for disk_id in super().list_disks():
            if (self.folder / f"{disk_id.instance}_{disk_id.name}").exists():
                yield disk_id
