"""Drivers with abilities that do not work, or that nobody is told of."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from imgbackend.driver.abilities import Snapshottable
from imgbackend.driver.contract import Disk
from imgbackend.system import files
from imgbackend.testing import MemoryBackend
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import Progress, SnapshotInfo
from imgbackend_qcow2.driver import Qcow2Disk
from kit.faults import caught
from kit.sound import SnapDisk


@caught({"test_rollback_gives_the_bytes_of_the_snapshot": "rolled back to second"})
class RollsBackToTheLast(Qcow2Disk):
    """There is one snapshot, and it is the last."""

    def rollback_image_snap(self, name: str) -> None:
        super().rollback_image_snap([snap.name for snap in self.image_snaps()][-1])


@caught({"test_rollback_gives_the_bytes_of_the_snapshot": "rolled back to"})
class RollsBackToTheImage(SnapDisk):
    """What is rolled back is as it was: as it was made, it was thought."""

    def rollback_image_snap(self, name: str) -> None:
        assert self.recorded is not None
        assert self.recorded.base is not None
        self.copied(self.backend.attached.bases.path(self.recorded.base), self.path)


@caught({"test_rollback_gives_the_size_of_the_snapshot": "disk.info().size == trial.large"})
class KeepsTheSize(SnapDisk):
    """A disk is never shrunk, and a rollback is no exception, one would think."""

    def rollback_image_snap(self, name: str) -> None:
        size = self.found().size
        super().rollback_image_snap(name)
        os.truncate(self.path, max(size, self.found().size))


@caught({"test_killed_rollback_can_be_repeated": "killed before"})
class RollsBackInPlace(SnapDisk):
    """The snapshot is written over the disk, which is emptied first."""

    def rollback_image_snap(self, name: str) -> None:
        shutil.copyfile(self.snapshot(name), self.path)


@caught({"test_killed_snapshot_keeps_the_bytes": "rolled back, "})
class CopiesItsSnapshotsInPlace(SnapDisk):
    """A snapshot that is half a copy has its name already, and is taken for a whole one."""

    def create_image_snap(self, name: str) -> None:
        with files.open_fd(self.path, os.O_RDONLY) as source, files.new_file(self.snapshot(name)) as target:
            files.copy(source, target)
            files.flush(target)


@caught({"test_rollback_gives_the_bytes_of_the_snapshot": "rolled back to"})
class LinksItsSnapshots(SnapDisk):
    """A second name for the file takes no room; what is written later is in both."""

    def create_image_snap(self, name: str) -> None:
        os.link(self.path, self.snapshot(name))


@caught({"test_snapshots_are_listed_oldest_first": "zebra"})
class ListsSnapshotsByName(Qcow2Disk):
    """As ``ls`` does."""

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        yield from sorted(super().image_snaps(), key=lambda snap: snap.name)


@caught({"test_removing_a_snapshot_keeps_the_others": '[snap.name for snap in disk.snaps()] == ["a"'})
class RemovesAllSnapshots(Qcow2Disk):
    """The tool's option for one was not found, that for all was."""

    def remove_image_snap(self, name: str) -> None:
        for snap in list(self.image_snaps()):
            super().remove_image_snap(snap.name)


@caught({"test_disk_with_snapshots_can_be_removed": "trial.entries(bases=False) == before"})
class LeavesItsSnapshots(SnapDisk):
    """The disk goes, and what belonged to it stays."""

    def remove_image(self) -> None:
        self.path.unlink(missing_ok=True)


@caught({"test_snapshots_of_one_disk_are_not_anothers": "two.snaps() == []"})
class SharesItsSnapshots(SnapDisk):
    """A snapshot has a name, and the name is thought to be enough."""

    def snapshot(self, name: str) -> Path:
        return self.backend.folder / f"all@{name}"

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        for path in sorted(self.backend.folder.glob("all@*")):
            yield SnapshotInfo(name=path.name.partition("@")[2], size=os.stat(path).st_size, time=0.0)


@caught({"test_rollback_gives_the_bytes_of_the_snapshot": "rolled back to"})
class DeclaresWhatItCannot(SnapDisk):
    """The product's data sheet has snapshots, and so has the driver: their names."""

    def create_image_snap(self, name: str) -> None:
        (self.backend.folder / f".{self.path.name}@{name}").touch()

    def rollback_image_snap(self, name: str) -> None:
        os.stat(self.backend.folder / f".{self.path.name}@{name}")

    def remove_image_snap(self, name: str) -> None:
        (self.backend.folder / f".{self.path.name}@{name}").unlink()

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        for path in sorted(self.backend.folder.glob(f".{self.path.name}@*")):
            yield SnapshotInfo(name=path.name.partition("@")[2], size=0, time=0.0)


@caught({"test_abilities_are_declared_by_their_classes": "without Snapshottable: mix it in"})
class HalfAnAbility(MemoryDisk):
    """The methods are there; that a class has to be mixed in is on another page."""

    def create_image_snap(self, name: str) -> None:
        shutil.copyfile(self.path, f"{self.path}@{name}")


@caught({"test_abilities_are_on_the_right_class": "not issubclass(wrong, ability)"})
class AnAbilityOfTheWrongClass(MemoryBackend, Snapshottable):
    """The backend knows the store, so it takes the snapshots."""

    found = locked = amend = note_loss = Disk.found  # type: ignore[assignment]  # that it cannot work is the point
    create_image_snap = rollback_image_snap = remove_image_snap = image_snaps = Disk.found  # type: ignore[assignment]  # as above


@caught({"test_flattened_disk_needs_no_base": "disk.backing() is None"})
class FlattensNothing(Qcow2Disk):
    """Declared, because the storage can; to be written later."""

    def flatten_image(self, progress: Progress) -> None:
        pass


@caught({"test_flattened_disk_has_the_same_bytes": "bytes instead of"})
class FlattensByForgetting(Qcow2Disk):
    """The name of the base is taken out of the header, and the disk refers to nothing any more."""

    def flatten_image(self, progress: Progress) -> None:
        with self.path.open("r+b") as file:
            file.seek(8)
            file.write(bytes(12))


@caught({"test_backing_names_the_base": "disk.backing() == (base"})
class NamesNoBase(Qcow2Disk):
    """What a disk depends on is known to QEMU; that somebody asks was not expected."""

    def backing(self) -> tuple[Path, str] | None:
        return None
