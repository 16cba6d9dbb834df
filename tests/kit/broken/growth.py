"""Drivers that are wrong about sizes, and lose or invent bytes where disks grow."""

import contextlib
import os

from imgbackend import errors
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.testing import MemoryBackend
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import Mi, Traits, Way
from imgbackend_qcow2.driver import Qcow2Disk
from kit.faults import caught


@caught(
    {
        "test_resize_image_alone_grows": "oracle.size(disk.source()) == size",
        "test_resize_grows_with_zeroes": "== oracle.size(disk.source()) == size",
    }
)
class IgnoresTheSize(MemoryDisk):
    """Disks are as large as their image: nobody asked for more, where the author tried it."""

    def resize_image(self, size: int) -> None:
        pass


@caught({"test_resize_image_alone_grows": "oracle.size(disk.source()) == size"})
class GrowsAtCreationOnly(MemoryDisk):
    """``cache`` gives the right size, so that growing a disk that is there was never seen to fail."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        if size is not None:
            os.truncate(self.path, size)
        return way

    def resize_image(self, size: int) -> None:
        pass


@caught(
    {
        "test_sizes_are_rounded_up": "disk.info().size == trial.rounded(size)",
        "test_resize_rounds_up": "== trial.rounded(trial.large + 1)",
    }
)
class RoundsDown(MemoryDisk):
    """The store counts in MiB, and ``//`` is what divides whole numbers."""

    def resize_image(self, size: int) -> None:
        super().resize_image(max(size // Mi * Mi, os.stat(self.path).st_size))


@caught(
    {
        "test_sizes_are_rounded_up": "disk.info().size == trial.rounded(size)",
        "test_resize_rounds_up": "== trial.rounded(trial.large + 1)",
    }
)
class RoundsInSecret(MemoryDisk):
    """The store counts in MiB; that the engine wants to know it was not read."""

    def resize_image(self, size: int) -> None:
        super().resize_image(-(-size // Mi) * Mi)


@caught({"test_image_of_an_odd_size_is_rounded_up": "disk.info().size == trial.rounded(len(whole))"})
class StatesWhatItDoesNotKeep(MemoryBackend):
    """The granularity is that of the store, but disks have the sizes of their images."""

    traits = Traits(granularity=Mi)


@caught({"test_resize_grows_with_zeroes": "== oracle.size(disk.source()) == size"})
class ShrinksByUnits(MemoryDisk):
    """The tool takes sectors, and is given them; the call that was put in its place takes bytes."""

    def resize_image(self, size: int) -> None:
        super().resize_image(size // 512)


@caught(
    {
        "test_resize_keeps_what_the_guest_wrote": "other ones from sector",
        "test_cache_grows_a_disk_that_exists": "other ones from sector",
    }
)
class StartsAnew(MemoryDisk):
    """A new file of the right size: that it is to have the old bytes is clear to whoever uses it."""

    def resize_image(self, size: int) -> None:
        with files.new_file(self.path) as target:
            os.ftruncate(target, size)


@caught({"test_resize_keeps_what_the_guest_wrote": "other ones from sector"})
class GoesBackToTheImage(MemoryDisk):
    """Growing is making the disk again, larger; the author's test disks were never written to."""

    def resize_image(self, size: int) -> None:
        record = self.recorded
        assert record is not None
        assert record.base is not None
        path = self.backend.attached.bases.path(record.base)
        with files.open_fd(path, os.O_RDONLY) as source, files.new_file(self.unfinished) as target:
            files.copy(source, target)
            os.ftruncate(target, size)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)


@caught({"test_resize_grows_with_zeroes": "other ones from sector", "test_new_disk_is_the_image_then_zeroes": "other"})
class GrowsOntoOldBytes(MemoryDisk):
    """Blocks of a thick volume are whatever their last owner left in them."""

    def resize_image(self, size: int) -> None:
        with files.open_fd(self.path, os.O_RDWR) as fd:
            at = os.fstat(fd).st_size
            os.ftruncate(fd, size)
            os.pwrite(fd, b"\xdb" * (size - at), at)


@caught({"test_killed_growth_keeps_the_bytes": "there is no disk killed before"})
class GrowsByAFreshFile(MemoryDisk):
    """The disk is moved aside and copied back, larger: between the two there is none."""

    def resize_image(self, size: int) -> None:
        aside = self.path.with_name(f".{self.path.name}.old")
        os.rename(self.path, aside)
        with files.open_fd(aside, os.O_RDONLY) as source, files.new_file(self.path, 0o640) as target:
            files.copy(source, target)
            os.ftruncate(target, size)
            files.flush(target)
        aside.unlink()


@caught({"test_growth_is_flushed": "is not flushed"})
class GrowsWithoutFlushing(MemoryDisk):
    """A length is no data, and looks as if it were kept at once."""

    def resize_image(self, size: int) -> None:
        os.truncate(self.path, size)


@caught({"test_failing_commands_of_growth": "told == size"})
class GrowsIfTheCommandLikes(Qcow2Disk):
    """A disk that could not be grown still works, so why stop anybody?"""

    def resize_image(self, size: int) -> None:
        with contextlib.suppress(errors.CommandFailed):
            super().resize_image(size)


@caught({"test_growth_alone_can_be_repeated": "disk.info().size == size"})
class GrowsByTheDifference(MemoryDisk):
    """The tool takes how much is to be added; the size of the record is what is added to."""

    def resize_image(self, size: int) -> None:
        now = os.stat(self.path).st_size
        super().resize_image(now + max(size - Mi * 8, Mi))


@caught({"test_killed_growth_keeps_the_bytes": "killed before"})
class GrowsFromAnEmptyFile(MemoryDisk):
    """Emptied, filled again from a copy, and longer: whole before, and whole after."""

    def resize_image(self, size: int) -> None:
        whole = self.path.read_bytes()
        with files.open_fd(self.path, os.O_RDWR | os.O_TRUNC) as fd:
            os.pwrite(fd, whole, 0)
            os.ftruncate(fd, size)
            files.flush(fd)
