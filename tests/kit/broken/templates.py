"""Drivers that mistake the bytes of an image, or what the engine says of it."""

import os
import zlib

from imgbackend import errors
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import DiskInfo, FileSource, ImageInfo, Mi, Way
from kit.faults import caught
from kit.sound import CommandDisk


@caught(
    {
        "test_image_larger_than_the_disk_is_refused": "made no disk",
        "test_image_that_is_cached_and_too_large_is_refused": "made no disk",
        "test_image_with_a_backing_file_is_refused": "made no disk",
        "test_short_fetch_leaves_nothing": "made no disk",
    }
)
class SwallowsRefusals(MemoryDisk):
    """An image that is refused is logged, and the next one may be better."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        try:
            return super().create_image(prepare_template, base, size)
        except errors.TemplateError:
            return "copy"


@caught({"test_callers_own_error_passes_unchanged": "the pool failed"})
class TakesAFetchForTheStore(MemoryDisk):
    """Whatever goes wrong while a disk is made is the store's failure."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        try:
            return super().create_image(prepare_template, base, size)
        except Exception as exc:
            raise errors.StorageError(f"the pool failed: {exc}") from exc


@caught({"test_error_of_the_system_is_translated": "isinstance(caught.value, errors.StorageFull)"})
class CallsEveryErrorTheSame(MemoryDisk):
    """There is one class for what the system says, and it is used."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        try:
            return super().create_image(prepare_template, base, size)
        except (OSError, errors.StorageFull) as exc:
            raise errors.StorageError(f"the pool failed: {exc}") from exc


@caught({"test_errors_have_one_line": '"\\n" not in str(caught.value)'})
class TellsAStory(MemoryDisk):
    """A good message takes some room."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        try:
            return super().create_image(prepare_template, base, size)
        except errors.TemplateTooLarge as exc:
            raise errors.StorageError(f"The disk could not be made.\n\nReason:\n  {exc}") from exc


@caught({"test_cache_tells_what_it_did": 'first.way != "exists"'})
class SaysThatItExists(MemoryDisk):
    """It does, when it is made."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        super().create_image(prepare_template, base, size)
        return "exists"  # type: ignore[return-value]  # that it is no way is the point


@caught({"test_cancelling_a_further_disk_leaves_the_others": "trial.entries() == before"})
class ClearsTheStoreOnFailure(MemoryDisk):
    """The folder is cleared of what may be left, and all that is in it may be."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        try:
            return super().create_image(prepare_template, base, size)
        except BaseException:
            for path in self.backend.folder.iterdir():
                path.unlink()
            raise


@caught({"test_base_that_stays_qcow2_gives_the_same_bytes": "instead of"})
class TakesEveryBaseForRaw(MemoryDisk):
    """Bases are raw, as the option's default has it."""

    def _fill(self, base: Base, info: ImageInfo, target: int) -> None:
        super()._fill(base, ImageInfo(format="raw", virtual_size=info.virtual_size), target)


@caught({"test_creation_alone_makes_a_whole_disk": "found.size <= size"})
class FillsWhenItGrows(MemoryDisk):
    """A disk that is to be grown is copied then: ``cache`` does both, so that once is enough."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        if size is not None:
            os.truncate(self.path, 512)
        return way

    def resize_image(self, size: int) -> None:
        assert self.recorded is not None
        assert self.recorded.base is not None
        if os.stat(self.path).st_size == 512:
            path = self.backend.attached.bases.path(self.recorded.base)
            with files.open_fd(path, os.O_RDONLY) as source, files.open_fd(self.path, os.O_RDWR) as target:
                files.copy(source, target)
        super().resize_image(size)


@caught({"test_compressible_bytes": "other ones from sector"})
class SkipsWhatCompressesWell(MemoryDisk):
    """What compresses to nearly nothing is nearly nothing."""

    def _fill(self, base: Base, info: ImageInfo, target: int) -> None:
        os.ftruncate(target, info.virtual_size)
        for at in range(0, info.virtual_size, Mi):
            data = os.pread(base.open(), Mi, at)
            if len(zlib.compress(data, 1)) > len(data) // 100:
                os.pwrite(target, data, at)


@caught({"test_sparse_bytes": "other ones from sector"})
class PacksTheData(MemoryDisk):
    """Data is written one piece after the other; that there was room between them is lost."""

    def _fill(self, base: Base, info: ImageInfo, target: int) -> None:
        for at, end in files.data_ranges(base.open(), info.virtual_size):
            os.write(target, os.pread(base.open(), end - at, at))
        os.ftruncate(target, info.virtual_size)


@caught({"test_last_sector_belongs_to_the_disk": "qemu-io"})
class KeepsALabelAtTheEnd(MemoryDisk):
    """The array has a label in the last sector of each volume, and tells the size with it."""

    def find(self) -> DiskInfo | None:
        found = super().find()
        return DiskInfo(format="raw", size=found.size + 512, allocated=found.allocated) if found else None

    def resize_image(self, size: int) -> None:
        super().resize_image(size - 512)


@caught({"test_growth_reads_as_zeroes_where_a_guest_wrote_to_the_end": "other ones from sector"})
class GrowsByTheLastPage(MemoryDisk):
    """A fill pattern is taken from the end of the disk, where there were zeroes."""

    def resize_image(self, size: int) -> None:
        with files.open_fd(self.path, os.O_RDWR) as fd:
            page = os.pread(fd, 4096, os.fstat(fd).st_size - 4096)
            os.pwrite(fd, page, size - 4096)
            files.flush(fd)


@caught({"test_shrink_is_refused": "DID NOT RAISE"})
class TellsTheSizeOfTheImage(MemoryDisk):
    """The size is on record with the image, and need not be looked up."""

    def find(self) -> DiskInfo | None:
        found = super().find()
        if found is None or self.recorded is None or self.recorded.base is None:
            return found
        size = os.stat(self.backend.attached.bases.path(self.recorded.base)).st_size
        return DiskInfo(format="raw", size=size, allocated=found.allocated)


@caught({"test_allocated_bytes_stay_bounded": "<= size + slack(trial.backend)"})
class CountsTheBaseToo(MemoryDisk):
    """The base is needed for the disk, and so it is counted."""

    def find(self) -> DiskInfo | None:
        found = super().find()
        if found is None or self.recorded is None or self.recorded.base is None:
            return found
        base = files.allocated(self.backend.attached.bases.path(self.recorded.base))
        return DiskInfo(format="raw", size=found.size, allocated=found.allocated + base)


@caught({"test_source_is_known_before_the_disk_exists": "has no place yet"})
class NamesWhatIsOnRecord(MemoryDisk):
    """Where a disk is, is decided when it is made."""

    def source(self) -> FileSource:
        if self.recorded is None:
            raise errors.DiskNotFound(f"{self.id} has no place yet")
        return super().source()


@caught({"test_failing_commands_of_creation": "other ones from sector"})
class BelievesInItsCommands(CommandDisk):
    """A command's complaints are for the log; the file is there."""

    def copied(self, source: str, target: str) -> None:
        try:
            super().copied(source, target)
        except errors.CommandFailed:
            return
