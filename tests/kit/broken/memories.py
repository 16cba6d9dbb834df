"""Drivers that know from memory what only the storage can tell."""

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.testing import MemoryBackend
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import DiskId, DiskInfo, ImageInfo, Progress, StoreBase, Way
from kit.faults import caught
from labs.able import AbleBackend


@caught(
    {
        "test_another_backend_of_the_store_fetches_nothing": "fetched",
        "test_processes_that_make_disks_fetch_once": "image.fetches == 1",
    }
)
class KnowsItsOwnBases(AbleBackend):
    """To ask the store takes a millisecond, and a set of names none."""

    def find_base(self, name: str) -> StoreBase | None:
        return super().find_base(name) if name in vars(self).setdefault("known", set()) else None

    def import_base(
        self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress
    ) -> StoreBase:
        vars(self).setdefault("known", set()).add(name)
        return super().import_base(name, path, info, tags, progress)


class _PublishesOnce(MemoryDisk):
    """It makes sure that no disk is ever overwritten, which is well meant."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        with files.new_file(self.unfinished) as target:
            files.copy(base.open(), target, base.progress)
            self.backend.host.finish(target)
        files.publish_new(self.unfinished, self.path)
        return "copy"


@caught({"test_processes_that_make_one_disk_make_it_once": "== [None]"})
class KnowsItsOwnDisks(_PublishesOnce):
    """What this process did not make is not there."""

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


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.made: set[DiskId] = set()


@caught({"test_threads_that_make_one_disk_make_it_once": "File exists"})
class KnowsWhatItsThreadMade(_PublishesOnce):
    """The library's connections are one thread's own, and what is known of disks is kept with them."""

    threads: ClassVar[_OfThread] = _OfThread()

    def find(self) -> DiskInfo | None:
        return super().find() if self.id in self.threads.made else None

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        self.threads.made.add(self.id)
        return way


class _NotesWhatItMakes(MemoryDisk):
    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        vars(self.backend).setdefault("listed", {})[self.id] = None
        return super().create_image(prepare_template, base, size)


@caught({"test_disks_are_made_and_removed_at_once": "trial.listed() == kept"})
class ListsWhatItMade(MemoryBackend):
    """A list of what was made is kept, and what is removed is not struck off it."""

    disk_type = _NotesWhatItMakes

    def list_disks(self) -> Iterator[DiskId]:
        yield from list(vars(self).get("listed", {}))


@caught({"test_disk_that_exists_is_not_made_again": "other ones from sector"})
class FindsWhatNobodyChanged(MemoryDisk):
    """A file that has another time than the driver gave it is not the driver's."""

    def find(self) -> DiskInfo | None:
        found = super().find()
        return found if found and os.stat(self.path).st_mtime_ns == 0 else None

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        os.utime(self.path, (0, 0))
        return way


@caught({"test_every_call_can_be_repeated": "disk.info() == on.disk().info()"})
class MeasuresAsItGoes(MemoryDisk):
    """What a disk takes is what was counted since the last look, by a counter of one's own."""

    def find(self) -> DiskInfo | None:
        found = super().find()
        looks = vars(self.backend)["looks"] = vars(self.backend).get("looks", 0) + 1
        return DiskInfo(format="raw", size=found.size, allocated=found.allocated + looks) if found else None
