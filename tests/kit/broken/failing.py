"""Drivers that do not tell what failed, or tell it in words of their own."""

import contextlib
import os
import secrets
from pathlib import Path

from imgbackend import errors
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.testing import MemoryBackend
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import DiskInfo, Way
from kit.faults import caught


@caught(
    {
        "test_full_store_at_each_step_of_creation": "after errno 28",
        "test_input_output_error_at_each_step_of_creation": "after errno 5",
    }
)
class SwallowsWriteErrors(MemoryDisk):
    """A copy is tried again by hand where the quick way failed; that the slow one can fail too is forgotten."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        with files.new_file(self.unfinished) as target:
            with contextlib.suppress(OSError, errors.StorageFull):
                files.copy(base.open(), target, base.progress)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_input_output_error_at_each_step_of_growth": "nothing was told"})
class SwallowsGrowth(MemoryDisk):
    """A disk that could not be grown still works, so why stop anybody?"""

    def resize_image(self, size: int) -> None:
        with contextlib.suppress(OSError):
            super().resize_image(size)


@caught({"test_input_output_error_at_each_step_of_removal": "nothing was told"})
class SwallowsRemoval(MemoryDisk):
    """What cannot be removed now will be some time."""

    def remove_image(self) -> None:
        with contextlib.suppress(OSError):
            super().remove_image()


@caught({"test_absence_is_told_only_where_it_is_sure": "find said None"})
class FindsNoneWhereItCannotLook(MemoryDisk):
    """Every ``OSError`` of ``stat`` is taken for a file that is not there."""

    def find(self) -> DiskInfo | None:
        try:
            with files.open_fd(self.path, os.O_RDONLY) as fd:
                status = os.fstat(fd)
        except OSError:
            return None
        return DiskInfo(format="raw", size=status.st_size, allocated=status.st_blocks * 512)


class PoolError(Exception):
    """Of a library that the driver uses."""


@caught({"test_input_output_error_at_each_step_of_growth": "left the library"})
class LeaksItsLibrarysErrors(MemoryDisk):
    """The library has errors of its own, with good messages."""

    def resize_image(self, size: int) -> None:
        try:
            super().resize_image(size)
        except OSError as exc:
            raise PoolError(f"cannot grow: {exc}") from exc


@caught({"test_input_output_error_at_each_step_of_growth": "names no cause"})
class HidesTheCause(MemoryDisk):
    """The error has the right class, and what the storage said is gone."""

    def resize_image(self, size: int) -> None:
        failed = False
        try:
            super().resize_image(size)
        except OSError:
            failed = True
        if failed:
            raise errors.StorageError("the disk was not grown")


@caught({"test_cancelling_leaves_nothing": "cancelled at"})
class ForgetsASecondFile(MemoryDisk):
    """It keeps a note beside the disk while it works, which ``discard`` does not know of."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        note = self.path.with_name(f".{self.path.name}.note")
        note.write_text("being made")
        way = super().create_image(prepare_template, base, size)
        note.unlink()
        return way


class _UnderAnyName(MemoryDisk):
    @property
    def unfinished(self) -> Path:
        """Another one each time."""
        return self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        work = self.unfinished
        try:
            with files.new_file(work) as target:
                files.copy(base.open(), target, base.progress)
                self.backend.host.finish(target)
            files.publish(work, self.path)
        finally:
            work.unlink(missing_ok=True)
        return "copy"


@caught({"test_killed_creation_of_a_further_disk": "something else is there, done again killed before"})
class MakesUpTemporaryNames(_UnderAnyName):
    """As ``mkstemp`` does; it clears up in ``finally``, which no killed process comes to."""


@caught(
    {
        "test_error_of_a_callback_is_not_taken_for_the_stores": "the copy failed",
        "test_call_from_inside_a_call_is_refused": "the copy failed",
    }
)
class TakesACancelForAFailure(MemoryDisk):
    """Whatever stops a copy is an error of the store."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        try:
            return super().create_image(prepare_template, base, size)
        except BaseException as exc:
            raise errors.StorageError(f"the copy failed: {exc}") from exc


@caught({"test_cancelling_leaves_nothing": "trial.entries(bases=False) == before"})
class LeavesWhatWasCancelled(MemoryDisk):
    """Only errors of the store are thought of where it clears up; the callback is not one."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        work = self.path.with_name(f".{self.path.name}.work")
        prepare_template(base)
        try:
            with files.new_file(work) as target:
                files.copy(base.open(), target, base.progress)
                self.backend.host.finish(target)
        except (OSError, errors.Error):
            work.unlink()
            raise
        files.publish(work, self.path)
        return "copy"


@caught({"test_backend_can_be_closed_twice": "the pool is not open"})
class ClosesOnce(MemoryBackend):
    """The library objects to being closed twice, and so does the driver."""

    def open(self) -> None:
        super().open()
        self.is_open = True

    def close(self) -> None:
        if not getattr(self, "is_open", False):
            raise errors.StorageError("the pool is not open")
        self.is_open = False
