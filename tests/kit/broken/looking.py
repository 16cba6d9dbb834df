"""Drivers that tell what is not so: whether a disk is there, what it is, and where."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.testing import MemoryBackend
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import Capacity, DiskId, DiskInfo, FileSource, Way
from imgbackend_raw.driver import RawDisk
from kit.faults import caught


@caught(
    {
        "test_disk_is_there_after_and_not_before": "not disk.exists()",
        "test_absent_disk_cannot_be_changed": "DID NOT RAISE",
    }
)
class FindsAlways(MemoryDisk):
    """What is not there is told as an empty disk, so that callers need no special case."""

    def find(self) -> DiskInfo | None:
        return super().find() or DiskInfo(format="raw", size=0, allocated=0)


@caught({"test_disk_is_there_after_and_not_before": "made no disk"})
class FindsNever(MemoryDisk):
    """It looks where the disk was made, not where it was published."""

    def find(self) -> DiskInfo | None:
        return super().find() if self.unfinished.exists() else None


@caught({"test_disk_outlives_the_backend": "exists"})
class RemembersInMemory(MemoryDisk):
    """A list of what was made is quicker than to look, as long as the process lives."""

    def find(self) -> DiskInfo | None:
        return super().find() if self.id in self._made else None

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        self._made.add(self.id)
        return way

    @property
    def _made(self) -> set[DiskId]:
        made: set[DiskId] = vars(self.backend).setdefault("made", set())
        return made


@caught({"test_format_is_one_that_the_driver_keeps": "disk.info().format == disk.source().format == record.format"})
class TellsAnotherFormat(MemoryDisk):
    """The format of the image is thought to be that of the disk."""

    def find(self) -> DiskInfo | None:
        found = super().find()
        return dataclasses.replace(found, format="qcow2") if found else None


@caught({"test_format_is_not_taken_from_what_a_guest_wrote": "== (before.format, before.size)"})
class LooksForTheFormat(RawDisk):
    """Whether a file is a qcow2 can be told by its first bytes, so that nothing has to be remembered."""

    @property
    def format(self) -> str:
        with self.path.open("rb") as file:
            return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"


@caught({"test_size_is_what_a_guest_sees": "disk.info().size == oracle.size(disk.source()) == trial.large"})
class TellsBlocksAsSize(MemoryDisk):
    """``du`` and ``ls`` differ in what they call a size."""

    def find(self) -> DiskInfo | None:
        found = super().find()
        return dataclasses.replace(found, size=found.allocated) if found else None


@caught({"test_allocated_is_what_the_storage_spends": "allocated == os.stat(source.path).st_blocks * 512"})
class TellsSizeAsBlocks(MemoryDisk):
    """The same, the other way round."""

    def find(self) -> DiskInfo | None:
        found = super().find()
        return dataclasses.replace(found, allocated=found.size) if found else None


@caught({"test_each_disk_has_a_source_of_its_own": "len({repr(disk.source()) for disk in disks}) == 3"})
class NamesTheInstance(MemoryDisk):
    """Every instance the author knew had one disk."""

    def source(self) -> FileSource:
        return FileSource(path=self.backend.folder / f"{self.id.instance}_disk", format="raw")


@caught({"test_source_is_where_the_driver_finds_the_disk": "No such file"})
class NamesTheUnfinished(MemoryDisk):
    """One name was kept from before the rename."""

    def source(self) -> FileSource:
        return FileSource(path=self.unfinished, format="raw")


@caught({"test_source_is_the_same_each_time": "disk.source() == disk.source()"})
class NamesAnotherPortal(MemoryDisk):
    """The array has two ways to a disk, and the driver takes turns."""

    def source(self) -> FileSource:
        turn = vars(self.backend)["turn"] = 1 - vars(self.backend).get("turn", 0)
        folder = self.backend.folder
        return FileSource(path=(folder, folder / ".." / folder.name)[turn] / self.path.name, format="raw")


@caught({"test_paths_are_absolute": "is_absolute"})
class NamesARelativePath(MemoryDisk):
    """It works from where the author starts it."""

    def source(self) -> FileSource:
        return FileSource(path=Path(os.path.relpath(self.path)), format="raw")


@caught({"test_source_does_no_io": "seen(lambda: disk.source(), "})
class LooksBeforeItNames(MemoryDisk):
    """Only a disk that exists has a source, one would think."""

    def source(self) -> FileSource:
        list(self.backend.folder.iterdir())
        return super().source()


@caught({"test_source_does_no_io": "seen(lambda: disk.source(), "})
class ResolvesBeforeItNames(MemoryDisk):
    """``resolve`` makes a path absolute, and reads every link on the way."""

    def source(self) -> FileSource:
        return FileSource(path=self.path.resolve(), format="raw")


@caught({"test_list_tells_every_disk_and_no_other": "trial.listed() == made"})
class ListsTheFirstDisk(MemoryBackend):
    """An instance is taken for its root disk."""

    def list_disks(self) -> Iterator[DiskId]:
        return (found for found in super().list_disks() if found.name == "disk")


def _in_folders(backend: MemoryBackend) -> Iterator[DiskId]:
    """Every file in an instance's folder whose name could be a disk's."""
    for path in sorted(backend.host.instances.glob("*/disk*")):
        if path.name not in ("disk.info", "disks.json"):
            yield DiskId(instance=path.parent.name, name=path.name)


@caught({"test_list_takes_nothing_else_for_a_disk": "trial.listed() == {disk.id}"})
class ListsEveryFile(MemoryBackend):
    """What looks like a disk's name is taken for a disk."""

    def list_disks(self) -> Iterator[DiskId]:
        yield from {*super().list_disks(), *_in_folders(self)}


@caught({"test_list_takes_nothing_else_for_a_disk": "trial.listed() == {disk.id}"})
class ListsByFolder(MemoryBackend):
    """A folder of an instance without a disk does not come to mind."""

    def list_disks(self) -> Iterator[DiskId]:
        known = {path.name for path in self.host.instances.iterdir() if path.is_dir()} - {"_base", "locks"}
        yield from {*super().list_disks(), *(DiskId(instance=name, name="disk") for name in known)}


@caught({"test_list_tells_every_disk_and_no_other": "trial.listed() == made"})
class ListsByPrefix(MemoryBackend):
    """The disks of an instance are those whose names begin with its name."""

    def list_disks(self) -> Iterator[DiskId]:
        names = {found.instance for found in super().list_disks()}
        for name in sorted(names):
            for path in self.folder.glob(f"{name}*"):
                yield DiskId(instance=name, name=path.name.rpartition("_")[2])


@caught({"test_list_does_not_repeat": "len(found) == len(set(found)) == 2"})
class ListsTwice(MemoryBackend):
    """Two places tell of disks, and both are read out."""

    def list_disks(self) -> Iterator[DiskId]:
        yield from super().list_disks()
        for path in self.folder.glob("[!.]*_*"):
            instance, _, name = path.name.partition("_")
            yield DiskId(instance=instance, name=name)


@caught({"test_capacity_is_plausible": "0 <= capacity.free <= capacity.total"})
class CountsWhatIsUsed(MemoryBackend):
    """The tool's columns are total and used; they were read as free and total."""

    def capacity(self) -> Capacity:
        told = super().capacity()
        return Capacity(total=told.total - told.free, free=told.total)
