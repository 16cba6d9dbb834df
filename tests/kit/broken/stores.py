"""Drivers that clone wrongly, or lose or share the bases that their store keeps."""

import itertools
import json
import os
import shutil
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

from imgbackend import errors
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.types import Finding, ImageInfo, Mi, Progress, StoreBase, StoreLeftover, Way
from kit.faults import caught
from labs.able import SCHEME, AbleBackend, AbleDisk


@caught({"test_clones_share_no_writes": "other ones from sector"})
class ClonesByLink(AbleDisk):
    """The image is in the same file system, and a link is the fastest of clones."""

    def clone_image(self, location: str) -> Way:
        os.link(location.removeprefix(SCHEME), self.unfinished)
        files.publish(self.unfinished, self.path)
        return "clone"


@caught({"test_disks_of_one_base_never_see_each_others_writes": "other ones from sector"})
class LinksTheStoresBase(AbleDisk):
    """The base is in the same store as the disk: nothing has to be copied, one would think."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        prepare_template(base)
        os.link(self.backend.bases / base.name, self.unfinished)
        files.publish(self.unfinished, self.path)
        return "clone"


@caught({"test_location_elsewhere_is_not_cloned": "No such file"})
class ClonesFromAnywhere(AbleDisk):
    """Every location the author saw was one of his own."""

    def parent(self, location: str) -> ImageInfo | str:
        return ImageInfo(format="raw", virtual_size=512)


@caught({"test_clone_that_is_too_large_is_refused": "DID NOT RAISE"})
class TellsNoSizeOfAParent(AbleDisk):
    """The size is looked up when the clone is there."""

    def parent(self, location: str) -> ImageInfo | str:
        told = super().parent(location)
        return told if isinstance(told, str) else ImageInfo(format="raw", virtual_size=512)


@caught({"test_clone_has_the_bytes_and_fetches_nothing": "(done.fetched, image.fetches) == (False, 0)"})
class NeverClones(AbleDisk):
    """Declared, since the storage clones; where an image is was not found out yet."""

    def parent(self, location: str) -> ImageInfo | str:
        return f"{location} is not looked at"


@caught({"test_finished_file_becomes_a_disk": "bytes instead of"})
class ImportsTheFirstPart(AbleDisk):
    """Config drives are small: 64 KiB were enough for the one at hand."""

    def import_image(self, path: Path) -> None:
        with path.open("rb") as source, files.new_file(self.unfinished, 0o600) as target:
            os.write(target, source.read(65536))
            self.backend.host.finish(target)
        files.publish(self.unfinished, self.path)


@caught({"test_second_disk_fetches_nothing": "(done.fetched, image.fetches) == (False, 1)"})
class ForgetsItsBases(AbleBackend):
    """A base is looked for under its image's name, and kept under its own."""

    importing = False

    def find_base(self, name: str) -> StoreBase | None:
        return super().find_base(name) if self.importing else None

    def import_base(
        self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress
    ) -> StoreBase:
        self.importing = True
        try:
            return super().import_base(name, path, info, tags, progress)
        finally:
            self.importing = False


@caught({"test_killed_creation_of_the_first_disk": "killed before"})
class ImportsInPlace(AbleBackend):
    """The volume has its last name from the start, and is found before it is whole."""

    def import_base(
        self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress
    ) -> StoreBase:
        files.write_whole(self.bases / f"{name}.tags", json.dumps(dict(tags)).encode())
        with files.open_fd(path, os.O_RDONLY) as read, files.new_file(self.bases / name) as target:
            files.copy(read, target, progress, phase="import")
            files.flush(target)
        files.flush_folder(self.bases)
        return StoreBase(name=name, size=0, allocated=0, children=None, touched=0.0, tags=tags)


@caught({"test_store_keeps_one_base_for_all": "None == "})
class LosesTheTags(AbleBackend):
    """They are for people to read, and nobody does."""

    def import_base(
        self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress
    ) -> StoreBase:
        return super().import_base(name, path, info, {}, progress)


@caught({"test_store_keeps_one_base_for_all": "if base.name == image.name] == [image.name]"})
class ListsNoBases(AbleBackend):
    """They are found by name, and that was all the author needed."""

    def list_bases(self) -> Iterator[StoreBase]:
        yield from ()


@caught({"test_base_in_use_is_not_removed": "there is no base"})
class RemovesABaseOnce(AbleBackend):
    """What is not there cannot be removed."""

    def remove_base(self, name: str) -> None:
        if self.find_base(name) is None:
            raise errors.StorageError(f"there is no base {name}")
        super().remove_base(name)


@caught({"test_base_in_use_is_not_removed": "cannot read"})
class RemovesDisksWithTheirBase(AbleBackend):
    """The tool's option ``--force`` takes the clones along."""

    def remove_base(self, name: str) -> None:
        if self.find_base(name) is not None:
            for path in self.folder.glob("*_disk*"):
                path.unlink()
        super().remove_base(name)


@caught({"test_base_stays_as_it_was_made": "the base was changed"})
class GrowsTheStoresBase(AbleDisk):
    """All disks so far were of one size, and the base was given it too."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        if size is not None:
            os.truncate(self.backend.bases / base.name, size)
        return way


@caught({"test_base_outlives_its_first_disk": "image.fetches == 1"})
class MovesTheBase(AbleDisk):
    """The first disk becomes the base: the bytes are there once, and it is as quick."""

    def remove_image(self) -> None:
        super().remove_image()
        shutil.rmtree(self.backend.bases)
        files.make_folders(self.backend.bases)


@caught({"test_findings_are_lines_with_advice": "does not say what to do"})
class ComplainsOfItsBases(AbleBackend):
    """Something is wrong, and the operator may find out what to do about it."""

    def findings(self) -> Iterator[Finding]:
        yield Finding("bases", "error", "some are broken")


@caught({"test_findings_are_lines_with_advice": "trial.entries() == before"})
class TidiesUpWhileItLooks(AbleBackend):
    """Whoever looks finds things to clear away: here, what nobody is using just now."""

    def findings(self) -> Iterator[Finding]:
        for disk in self.list_disks():
            self.disk(disk).remove()
        yield from super().findings()


@caught({"test_leftovers_are_nothing_that_is_whole": "of a disk that is whole"})
class EverythingIsLeft(AbleBackend):
    """It tells all that it has, and lets the engine find out."""

    def leftovers(self) -> Iterator[StoreLeftover]:
        """The disks too."""
        yield from super().leftovers()
        for disk in self.list_disks():
            yield StoreLeftover(name=str(disk), disk=disk, base=None, allocated=0, time=0.0)


@caught({"test_base_is_read_as_it_was_imported": "other ones from sector"})
class ReadsWholeBlocks(AbleBackend):
    """The image that was at hand had a size that is a multiple of the block, and no hole."""

    def read_base(self, name: str) -> Generator[tuple[int, bytes | memoryview], None, None]:
        """What is no whole block is left out."""
        for at, data in super().read_base(name):
            yield at, data[: len(data) // Mi * Mi]


@caught({"test_base_takes_tags_and_keeps_the_others": "a tag was lost"})
class WritesTagsAnew(AbleBackend):
    """Tags are set, as it says."""

    def tag_base(self, name: str, tags: Mapping[str, str]) -> None:
        """And no others are there."""
        self._write_tags(name, {**self._tags(name), "image_id": "", **tags})


@caught({"test_base_that_is_put_aside_serves_its_disks_and_no_others": "found by its old name"})
class CopiesWhatItPutsAside(AbleBackend):
    """A copy has the new name; the old one may go when nobody needs it."""

    def rename_base(self, name: str, new: str, tags: Mapping[str, str]) -> None:
        """By a copy."""
        shutil.copyfile(self.bases / name, self.bases / new)
        self._write_tags(new, self._tags(name) | dict(tags))


@caught({"test_store_says_the_same_of_itself_to_every_backend": "_identity(other) == told"})
class NamesItsConnection(AbleBackend):
    """Whoever opens the store is told a number of his session, and that is taken for the store's."""

    def open(self) -> None:
        super().open()
        self._identity = f"session {id(self)}"


@caught({"test_record_keeps_the_store": "_record(trial).store == told"})
class CountsItsRequests(AbleBackend):
    """The store numbers its answers, and the number was not cut off."""

    _answers = itertools.count(1)

    def store_identity(self) -> str:
        return f"{super().store_identity()}, answer {next(self._answers)}"


@caught(
    {"test_disk_of_another_store_is_neither_looked_for_nor_made_nor_forgotten": "_identity(other) != _identity(trial)"}
)
class NamesItsSection(AbleBackend):
    """The section of the configuration says which store it is: it always did."""

    def store_identity(self) -> str:
        return f"the store of [{self.name}]"
