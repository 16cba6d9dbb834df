"""Drivers whose snapshots are right while nothing fails, nobody looks, and no guest runs."""

import os
from collections.abc import Iterator

from imgbackend import errors
from imgbackend.system import files, qemu_img
from imgbackend.system.host import DISK_MODE
from imgbackend.types import DiskInfo, SnapshotInfo
from imgbackend_qcow2.driver import Qcow2Disk
from kit.faults import caught
from kit.sound import SnapDisk


@caught({"test_snapshots_of_a_running_guest_are_not_touched": "DID NOT RAISE"})
class SnapshotsUnderTheGuest(SnapDisk):
    """The file can be copied, so it is copied."""

    def refuse_guest(self) -> None:
        pass


@caught({"test_snapshots_of_a_running_guest_are_not_touched": "DID NOT RAISE"})
class RollsBackUnderTheGuest(SnapDisk):
    """Who rolls back has stopped the guest before: why else would one?"""

    def rollback_image_snap(self, name: str) -> None:
        self.copied(self.snapshot(name), self.path)


@caught({"test_snapshots_of_a_running_guest_are_not_touched": "DID NOT RAISE"})
class RemovesSnapshotsUnderTheGuest(SnapDisk):
    """The disk is not touched, one would think; that is for the storage to say."""

    def remove_image_snap(self, name: str) -> None:
        self.snapshot(name).unlink()
        files.flush_folder(self.backend.folder)


@caught({"test_failed_snapshot_leaves_nothing": "something of it is there"})
class LeavesAFailedCopy(SnapDisk):
    """An error ends the call, and ``discard`` clears: but that is not called for a snapshot."""

    def create_image_snap(self, name: str) -> None:
        self.refuse_guest()
        with files.open_fd(self.path, os.O_RDONLY) as read, files.new_file(self.unfinished) as write:
            files.copy(read, write)
            self.backend.host.finish(write, mode=DISK_MODE)
        files.publish(self.unfinished, self.snapshot(name))


@caught({"test_failed_snapshot_leaves_nothing": '(["kept"] if done else [])'})
class ListsAFailedSnapshot(SnapDisk):
    """It has its name, and then it is made sure of; that this can fail too is not thought of."""

    def create_image_snap(self, name: str) -> None:
        super().create_image_snap(name)
        files.flush_folder(self.backend.folder)


@caught({"test_order_of_snapshots_outlives_their_use": '["m", "z", "a"]'})
class RenewsWhatItRollsBackTo(SnapDisk):
    """The snapshot becomes the disk, and a new one takes its name."""

    def rollback_image_snap(self, name: str) -> None:
        super().rollback_image_snap(name)
        self.copied(self.path, self.snapshot(name))


@caught({"test_order_of_snapshots_outlives_their_use": '["m", "a", "z"]'})
class NumbersItsSnapshots(SnapDisk):
    """The place in the list is kept for a name: the second is the second, also when it is made again."""

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        found = {snap.name: snap for snap in super().image_snaps()}
        order = self.path.with_name(f".{self.path.name}.order")
        known = order.read_text().split() if order.exists() else []
        known += [name for name in found if name not in known]
        order.write_text(" ".join(known))
        yield from (found[name] for name in known if name in found)


@caught({"test_snapshots_are_readable_by_whom_the_disk_is": "of a disk of 0o600"})
class ShowsSecretsOfSnapshots(SnapDisk):
    """Every file that the driver makes has the mode of a disk: a secret one's snapshot too."""

    def create_image_snap(self, name: str) -> None:
        super().create_image_snap(name)
        self.snapshot(name).chmod(DISK_MODE)


@caught({"test_snapshots_are_readable_by_whom_the_disk_is": "of a disk of 0o640"})
class HidesItsSnapshots(SnapDisk):
    """A new file belongs to who makes it, and nobody else was ever asked to read it."""

    def create_image_snap(self, name: str) -> None:
        super().create_image_snap(name)
        self.snapshot(name).chmod(0o600)


@caught({"test_snapshots_are_readable_by_whom_the_disk_is": "the rollback changed the disk's mode"})
class OpensWhatItRollsBack(SnapDisk):
    """The mode was right where the disk was made."""

    def rollback_image_snap(self, name: str) -> None:
        super().rollback_image_snap(name)
        self.path.chmod(0o644)


@caught({"test_absent_disk_has_no_snapshots": "DID NOT RAISE"})
class SnapshotsWhatIsAbsent(SnapDisk):
    """What is not there is told as an empty disk, so that callers need no special case."""

    def find(self) -> DiskInfo | None:
        return super().find() or DiskInfo(format="raw", size=0, allocated=0)

    def create_image_snap(self, name: str) -> None:
        self.snapshot(name).touch()


@caught({"test_snapshot_changes_no_bytes": "other ones from sector"})
class FreezesByMoving(SnapDisk):
    """The file becomes the snapshot, and a new one lies on top of it, as soon as that is written."""

    def create_image_snap(self, name: str) -> None:
        size = os.stat(self.path).st_size
        os.rename(self.path, self.snapshot(name))
        with files.new_file(self.path, DISK_MODE) as target:
            os.ftruncate(target, size)


@caught({"test_wrong_names_of_snapshots_are_refused": "DID NOT RAISE"})
class ListsNamesOfItsOwn(SnapDisk):
    """A snapshot is listed as the array calls it, and the caller's name is a part of that."""

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        for snap in super().image_snaps():
            yield SnapshotInfo(name=f"{self.path.name}@{snap.name}", size=snap.size, time=snap.time)


@caught({"test_failing_commands_of_a_snapshot": "[snap.name for snap in disk.snaps()]"})
class SwallowsItsSnapshots(Qcow2Disk):
    """A snapshot is made on the way to something else, and that must go on."""

    def create_image_snap(self, name: str) -> None:
        try:
            super().create_image_snap(name)
        except errors.CommandFailed:
            return


@caught({"test_failed_snapshot_leaves_nothing": '(["kept"] if done else [])'})
class FlushesWithoutUndoing(Qcow2Disk):
    """qemu-img made it; that the flush after it fails is the caller's to see, and it stays."""

    def create_image_snap(self, name: str) -> None:
        with self._layers(os.O_RDWR) as layers:
            qemu_img.snapshot(self.backend.host, layers, "-c", name)
            files.flush(layers[0][0])
