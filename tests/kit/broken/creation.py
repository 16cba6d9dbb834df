"""Drivers that make disks wrongly."""

import os
import shutil

from imgbackend import errors
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.system.host import DISK_MODE
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import Mi, Way
from kit.faults import caught


@caught({"test_killed_creation_of_a_further_disk": "killed before"})
class MadeInPlace(MemoryDisk):
    """The file has its last name from the start: that is how one learns to copy a file."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        with files.new_file(self.path) as target:
            files.copy(base.open(), target, base.progress)
            self.backend.host.finish(target, mode=DISK_MODE)
        files.flush_folder(self.path.parent)
        return "copy"


@caught({"test_new_disk_has_the_bytes_of_its_image": "called prepare_template twice"})
class PreparesTwice(MemoryDisk):
    """Once for the facts, to check the size, and once more when the base is needed."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        return super().create_image(prepare_template, base, size)


@caught({"test_new_disk_has_the_bytes_of_its_image": "opened a base that it did not prepare"})
class PreparesNever(MemoryDisk):
    """A base is there to be opened, one would think."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        with files.new_file(self.unfinished) as target:
            files.copy(base.open(), target)
            self.backend.host.finish(target, mode=DISK_MODE)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_new_disk_is_on_record": "None is not None"})
class PreparesTheFirstOnly(MemoryDisk):
    """The base has a path, and where there is a file nothing seems to be left to prepare."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        assert base.path is not None
        if not base.path.exists():
            return super().create_image(prepare_template, base, size)
        with files.open_fd(base.path, os.O_RDONLY) as source, files.new_file(self.unfinished) as target:
            files.copy(source, target)
            self.backend.host.finish(target, mode=DISK_MODE)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_failed_fetch_leaves_nothing": "made no disk"})
class SwallowsTheSource(MemoryDisk):
    """A log line was thought to be what an operator needs."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        try:
            return super().create_image(prepare_template, base, size)
        except errors.SourceError:
            return "copy"


@caught({"test_base_stays_as_it_was_made": "the base was changed"})
class GrowsTheBase(MemoryDisk):
    """A base that is as large as the disk saves a step for each disk."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        info = prepare_template(base)
        if size is not None and size > info.virtual_size and base.path is not None:
            os.truncate(base.path, size)
        with files.new_file(self.unfinished) as target:
            files.copy(base.open(), target)
            self.backend.host.finish(target, mode=DISK_MODE)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_base_stays_as_it_was_made": "the base was changed"})
class OpensTheBaseToAll(MemoryDisk):
    """A helper that runs as another user has to read it."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        if base.path is not None:
            base.path.chmod(0o644)
        return way


class _Linked(MemoryDisk):
    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        assert base.path is not None
        self.link(base)
        files.publish(self.unfinished, self.path)
        return "copy"

    def link(self, base: Base) -> None:
        raise NotImplementedError


@caught(
    {
        "test_disk_is_no_link_to_its_base": "os.stat(source.path).st_nlink == 1",
        "test_base_is_never_written_to": "self._base(trial, image.name) == before",
    }
)
class HardLinksTheBase(_Linked):
    """It takes no time and no room."""

    def link(self, base: Base) -> None:
        assert base.path is not None
        os.link(base.path, self.unfinished)


@caught(
    {
        "test_disk_is_no_link_to_its_base": "is_symlink",
        "test_base_is_never_written_to": "self._base(trial, image.name) == before",
    }
)
class SymlinksTheBase(_Linked):
    """It takes no time and no room, and goes across file systems."""

    def link(self, base: Base) -> None:
        assert base.path is not None
        self.unfinished.symlink_to(base.path)


@caught({"test_disks_of_one_base_never_see_each_others_writes": "other ones from sector"})
class SharesOneCopy(MemoryDisk):
    """One copy for each image, linked to whoever asks: a cache of one's own."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        copy = self.path.with_name(f".copy-{base.name}")
        prepare_template(base)
        if not copy.exists():
            with files.new_file(self.unfinished) as target:
                files.copy(base.open(), target)
                self.backend.host.finish(target)
            files.publish(self.unfinished, copy)
        os.link(copy, self.unfinished)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_remove_leaves_nothing": "trial.entries(bases=False) == before"})
class LeavesItsWorkingFile(MemoryDisk):
    """The working file is linked to its last name, and nobody thinks of it again."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        work = self.path.with_name(f"{self.path.name}.work")
        prepare_template(base)
        with files.new_file(work) as target:
            files.copy(base.open(), target)
            self.backend.host.finish(target)
        shutil.copyfile(work, self.unfinished)
        with files.open_fd(self.unfinished, os.O_RDWR) as target:
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_failed_fetch_leaves_nothing": "trial.entries() == before"})
class LeavesWhatFailed(MemoryDisk):
    """Its file is there before the image is, and what is left over is somebody else's to clear."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        with files.new_file(self.unfinished) as target:
            prepare_template(base)
            files.copy(base.open(), target, base.progress)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"

    def discard(self) -> None:
        pass


@caught({"test_killed_creation_of_a_further_disk": "killed before"})
class AppendsToWhatIsLeft(MemoryDisk):
    """The file is opened as one opens a log, and ``discard`` was left for later."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        with files.open_fd(self.unfinished, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as target:
            left = os.fstat(base.open()).st_size
            while left:
                data = os.pread(base.open(), min(left, Mi // 4), os.fstat(base.open()).st_size - left)
                left -= os.write(target, data)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"

    def discard(self) -> None:
        pass


@caught(
    {
        "test_removed_disk_can_be_made_again": "other ones from sector",
        "test_zeroes_are_zero_on_a_store_that_was_used": "other ones from sector",
    }
)
class ReusesDirtyVolumes(MemoryDisk):
    """Volumes are taken back into a pool, and only what has data is written to them."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        free = self.path.with_name(".free")
        if free.exists():
            os.rename(free, self.unfinished)
        with files.open_fd(self.unfinished, os.O_RDWR | os.O_CREAT) as target:
            files.copy(base.open(), target, base.progress)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"

    def remove_image(self) -> None:
        if self.path.exists():
            os.rename(self.path, self.path.with_name(".free"))


@caught({"test_holes_are_kept": "os.stat(source.path).st_blocks * 512 <= slack(trial.backend)"})
class FillsHoles(MemoryDisk):
    """Every block is written, with the simplest of loops."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        with files.new_file(self.unfinished) as target:
            with open(base.open(), "rb", closefd=False) as source, open(target, "wb", closefd=False) as out:
                source.seek(0)
                shutil.copyfileobj(source, out)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_disk_is_nobody_elses_to_read": "os.stat(source.path).st_mode & 0o007 == 0"})
class ReadableByAll(MemoryDisk):
    """As ``open`` makes files where the umask is the usual one."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        self.path.chmod(0o644)
        return way


@caught({"test_flush_comes_before_each_rename": "is not flushed before it is renamed"})
class NeverFlushes(MemoryDisk):
    """It is whole in the page cache, and every test of one's own passes."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        with files.new_file(self.unfinished) as target:
            files.copy(base.open(), target)
            os.fchmod(target, DISK_MODE)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_flush_comes_before_each_rename": "is written to after it was flushed"})
class FlushesTooEarly(MemoryDisk):
    """The size is set as an afterthought."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        info = prepare_template(base)
        with files.new_file(self.unfinished) as target:
            files.copy(base.open(), target)
            self.backend.host.finish(target)
            os.ftruncate(target, size or info.virtual_size)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_flush_comes_before_each_rename": "its folder is not"})
class ForgetsTheFolder(MemoryDisk):
    """The file is flushed; that its name is kept elsewhere is easily forgotten."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        with files.new_file(self.unfinished) as target:
            files.copy(base.open(), target)
            self.backend.host.finish(target)
        os.rename(self.unfinished, self.path)
        return "copy"


@caught(
    {
        "test_qcow2_image_gives_the_same_bytes": "other ones from sector",
        "test_random_bytes": "other ones from sector 8192",
    }
)
class CopiesHalf(MemoryDisk):
    """A fixed number of bytes is read at once, which was enough for the image at hand."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        info = prepare_template(base)
        with files.new_file(self.unfinished) as target:
            os.ftruncate(target, info.virtual_size)
            os.pwrite(target, os.pread(base.open(), 4 * Mi, 0), 0)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_new_disk_has_the_bytes_of_its_image": "made no disk"})
class DoesNothing(MemoryDisk):
    """The hooks are there, so that the class can be made; the rest is to come."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        return "copy"


@caught({"test_image_of_zeroes": "bytes instead of"})
class WritesDataOnly(MemoryDisk):
    """What is zero need not be written, and at the end of the image there always was something."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        info = prepare_template(base)
        with files.new_file(self.unfinished) as target:
            for at, end in files.data_ranges(base.open(), info.virtual_size):
                os.pwrite(target, os.pread(base.open(), end - at, at), at)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"


@caught({"test_smallest_disk": "instead of"})
class CopiesWholePages(MemoryDisk):
    """Pages are what direct I/O moves, and every image had whole ones."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        info = prepare_template(base)
        with files.new_file(self.unfinished) as target:
            os.ftruncate(target, info.virtual_size)
            whole = info.virtual_size // 4096 * 4096
            os.pwrite(target, os.pread(base.open(), whole, 0), 0)
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)
        return "copy"
