"""Drivers that take away too little, too much, or not twice."""

import contextlib

from imgbackend.testing.memory import MemoryDisk
from kit.faults import caught


@caught(
    {
        "test_remove_of_an_absent_disk_is_no_error": "No such file",
        "test_hooks_of_an_absent_disk_do_nothing": "No such file",
    }
)
class RaisesTheSecondTime(MemoryDisk):
    """What is not there cannot be removed: so say ``rm`` and ``unlink``."""

    def remove_image(self) -> None:
        self.path.unlink()


@caught(
    {
        "test_disk_of_a_running_guest_is_not_removed": "DID NOT RAISE",
        "test_disk_of_a_running_guest_is_not_grown_behind_its_back": "DID NOT RAISE",
    }
)
class AsksNobody(MemoryDisk):
    """A file can always be unlinked, and always be made longer."""

    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


@caught({"test_removed_disk_is_gone": "exists"})
class RemovesNothing(MemoryDisk):
    """Disks are kept for an operator to look at."""

    def remove_image(self) -> None:
        pass


@caught({"test_remove_takes_no_other_disk": "a guest cannot read"})
class RemovesByPrefix(MemoryDisk):
    """A pattern takes all that belongs to a disk, and to those whose names begin alike."""

    def remove_image(self) -> None:
        for path in self.backend.folder.glob(f"{self.path.name}*"):
            path.unlink()


@caught({"test_remove_takes_no_other_disk": "a guest cannot read"})
class RemovesTheInstance(MemoryDisk):
    """When its disk goes, the instance goes."""

    def remove_image(self) -> None:
        for path in self.backend.folder.glob(f"{self.id.instance}_*"):
            path.unlink()


@caught({"test_base_outlives_its_first_disk": "image.fetches == 1"})
class RemovesItsBase(MemoryDisk):
    """The last disk takes its base along, and the last is what this one seems to be."""

    def remove_image(self) -> None:
        super().remove_image()
        if self.recorded and self.recorded.base:
            self.backend.attached.bases.path(self.recorded.base).unlink(missing_ok=True)


@caught({"test_discard_keeps_a_whole_disk": "trial.entries() == before"})
class DiscardsWhatIsWhole(MemoryDisk):
    """Clearing up is clearing up: nothing of the disk is to be left."""

    def discard(self) -> None:
        super().discard()
        self.path.unlink(missing_ok=True)


@caught({"test_killed_removal_can_be_repeated": "killed before"})
class EmptiesBeforeItRemoves(MemoryDisk):
    """So that nobody reads it afterwards; killed in between, it is an empty disk."""

    def remove_image(self) -> None:
        if self.path.exists():
            with self.path.open("r+b") as file:
                file.truncate(0)
        super().remove_image()
