"""A driver that can do what few can: its store keeps the bases, clones what a source keeps, imports files."""

import contextlib
import dataclasses
import fcntl
import json
import os
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from imgbackend import errors
from imgbackend.driver.abilities import (
    CarriesHandover,
    Checkable,
    ChecksBases,
    Cloneable,
    HoldsBases,
    IdentifiesStore,
    Importable,
    Marked,
    SharedStore,
    TellsLeftovers,
)
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.testing.memory import MemoryBackend, MemoryDisk
from imgbackend.types import (
    Declared,
    DiskId,
    Finding,
    ImageInfo,
    Mark,
    Mi,
    Owner,
    Plan,
    Progress,
    StoreBase,
    StoreLeftover,
    Way,
    ignore,
    is_base_name,
)

SCHEME = "able://"


class AbleDisk(MemoryDisk, Cloneable, Importable, Marked, CarriesHandover):
    """A copy of a base of the store, or of what a source keeps in it; its mark is a file of the store."""

    backend: "HoldingBackend"

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        """A clone, as far as it goes without snapshots."""
        return Plan(way="clone", writes=base.virtual_size if base else 0)

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """From the store's base."""
        prepare_template(base)
        found = self.backend.bases / base.name
        try:
            self._copied(found, base.progress)
        except FileNotFoundError as exc:
            raise errors.BaseMissing(f"the base {base.name} has gone from the store") from exc
        return "clone"

    def parent(self, location: str) -> ImageInfo | str:
        """Of its own scheme only."""
        path = Path(location.removeprefix(SCHEME))
        if not location.startswith(SCHEME) or not path.is_file():
            return f"{location} is in another storage"
        return ImageInfo(format="raw", virtual_size=path.stat().st_size)

    def clone_image(self, location: str) -> Way:
        """A copy, published as any other."""
        self._copied(Path(location.removeprefix(SCHEME)), ignore)
        return "clone"

    def import_image(self, path: Path) -> None:
        """The same."""
        self._copied(path, ignore)

    def _copied(self, source: Path, progress: Progress) -> None:
        with files.open_fd(source, os.O_RDONLY) as read, files.new_file(self.unfinished) as target:
            files.copy(read, target, progress)
            self.backend.host.finish(target)
        with self._mark_locked():
            if self.path.exists():
                raise errors.DiskBusy(f"{self.id} was made meanwhile by another host")
            if self.recorded is not None:
                self._write_mark(Mark(owner=self.recorded.owner, identity=self.recorded.identity or ""))
            files.publish(self.unfinished, self.path)

    @contextlib.contextmanager
    def _mark_locked(self) -> Iterator[None]:
        """Of all hosts, which do not share the disk's lock."""
        with files.open_fd(self._mark.with_suffix(".lock"), os.O_RDWR | os.O_CREAT) as fd:
            lock_file(fd, ignore)
            yield

    @property
    def _mark(self) -> Path:
        return self.backend.marks / f"{self.path.name}.json"

    def _write_mark(self, mark: Mark) -> None:
        files.write_whole(self._mark, json.dumps(dataclasses.asdict(mark)).encode())
        files.flush_folder(self.backend.marks)

    def mark(self) -> Mark | None:
        """Of a disk without one nobody noted anything."""
        if not self.path.exists():
            return None
        try:
            content = json.loads(self._mark.read_text())
        except FileNotFoundError:
            return Mark(owner=None, identity=str(self.path.stat().st_ino))
        owner = content["owner"]
        return Mark(owner=owner and Owner(**owner), identity=content["identity"])

    def set_mark(self, before: Mark, owner: Owner) -> None:
        """Under a lock of all hosts."""
        with self._mark_locked():
            if self.mark() != before:
                raise errors.DiskElsewhere(f"{self.id} is another's meanwhile")
            self._write_mark(Mark(owner=owner, identity=before.identity))

    @property
    def _handover(self) -> Path:
        return self._mark.with_suffix(".handover")

    def handover(self) -> str | None:
        """From a file of the store."""
        return self._handover.read_text() if self._handover.exists() else None

    def set_handover(self, text: str | None) -> None:
        """To a file of the store."""
        if text is None:
            self._handover.unlink(missing_ok=True)
        else:
            files.write_whole(self._handover, text.encode())
        files.flush_folder(self.backend.marks)

    def remove_image(self) -> None:
        """The disk, then its mark."""
        super().remove_image()
        for path in (self._mark, self._mark.with_suffix(".lock"), self._handover):
            path.unlink(missing_ok=True)
        files.flush_folder(self.backend.marks)


def lock_file(fd: int, progress: Progress) -> None:
    """Wait for a lock on a file, until ``progress`` raises."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait", 0, None)
            time.sleep(0.01)
        else:
            return


def disk_named(name: str) -> DiskId | None:
    """The disk whose file has that name; None: it is no disk's."""
    instance, _, disk = name.partition("_")
    try:
        return DiskId(instance=instance, name=disk)
    except ValueError:
        return None


class HoldingBackend(MemoryBackend, HoldsBases, SharedStore, IdentifiesStore, Checkable, TellsLeftovers):
    """Bases are files of the store, with their tags beside them."""

    disk_type = AbleDisk
    store_options: ClassVar[Sequence[str]] = ("folder",)
    _identity = ""

    @property
    def bases(self) -> Path:
        """Where the store keeps them."""
        return self.folder / "bases"

    @property
    def marks(self) -> Path:
        """Where the store keeps what it notes of disks."""
        return self.folder / "marks"

    def open(self) -> None:
        """Make the folders."""
        super().open()
        files.make_folders(self.bases)
        files.make_folders(self.marks)
        found = os.stat(self.folder)
        self._identity = f"folder {found.st_ino} of the file system {found.st_dev}"

    def store_identity(self) -> str:
        """By the folder's inode: another folder of that name has another, as long as both are there."""
        return self._identity

    @contextlib.contextmanager
    def store_lock(self, name: str, progress: Progress = ignore) -> Iterator[None]:
        """A file that is locked: it stands for what a cluster provides."""
        files.make_folders(self.host.instances / "locks")
        with files.open_fd(self.host.instances / "locks" / f"able-{name}", os.O_RDWR | os.O_CREAT) as fd:
            lock_file(fd, progress)
            yield

    def find_base(self, name: str) -> StoreBase | None:
        """It is whole if it has its name."""
        path = self.bases / name
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        tags = json.loads(path.with_suffix(".tags").read_text())
        identity = tags.pop("identity", "")
        return StoreBase(
            name=name,
            size=status.st_size,
            allocated=status.st_blocks * 512,
            children=None,
            touched=status.st_mtime,
            tags=tags,
            identity=identity,
        )

    def list_bases(self) -> Iterator[StoreBase]:
        """By their tags."""
        for path in sorted(self.bases.glob("*.tags")):
            found = self.find_base(path.stem)
            if found is not None:
                yield found

    def touch_base(self, name: str) -> None:
        """By the clock of its file."""
        now = time.time()
        os.utime(self.bases / name, (now, now))

    def list_disks(self) -> Iterator[DiskId]:
        """By the names of their files: nobody else writes there."""
        self.expect_folder()
        found = {disk_named(path.name.removeprefix(".").removesuffix(".part")) for path in self.folder.iterdir()}
        yield from (disk for disk in found if disk is not None)

    def leftovers(self) -> Iterator[StoreLeftover]:
        """What has not got its name yet, and tags without a base."""
        self.expect_folder()
        for path in sorted(self.folder.glob(".*.part")):
            disk = disk_named(path.name[1:].removesuffix(".part"))
            if disk is not None:
                yield _leftover(path, disk, None)
        bases = {path.name[1:].removesuffix(".part"): path for path in self.bases.glob(".*.part")}
        bases |= {path.stem: path for path in self.bases.glob("*.tags") if not path.with_suffix("").exists()}
        for name, path in sorted(bases.items()):
            if is_base_name(name):
                yield _leftover(path, None, name)

    def remove_base(self, name: str) -> None:
        """Copies do not need it."""
        (self.bases / f".{name}.part").unlink(missing_ok=True)
        (self.bases / name).unlink(missing_ok=True)
        (self.bases / name).with_suffix(".tags").unlink(missing_ok=True)

    def findings(self) -> Iterator[Finding]:
        """Whether each base has its tags."""
        bases = [path for path in self.bases.iterdir() if is_base_name(path.name)]
        lost = [path.name for path in bases if not path.with_suffix(".tags").exists()]
        if lost:
            yield Finding("bases", "error", f"without tags: {', '.join(lost)}", f"remove them from {self.bases}")
        else:
            yield Finding("bases", "ok", f"all in {self.bases} have their tags")

    def import_base(
        self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress
    ) -> StoreBase:
        """Copied under another name, its tags before it."""
        self._write_tags(name, {**tags, "identity": uuid.uuid4().hex})
        part = self.bases / f".{name}.part"
        with files.open_fd(path, os.O_RDONLY) as read, files.new_file(part) as target:
            files.copy(read, target, progress, phase="import")
            files.flush(target)
        files.publish(part, self.bases / name)
        found = self.find_base(name)
        assert found is not None
        return found

    def _write_tags(self, name: str, tags: Mapping[str, str]) -> None:
        files.write_whole(self.bases / f"{name}.tags", json.dumps(dict(tags)).encode())


class AbleBackend(HoldingBackend, ChecksBases):
    """Its bases can be compared with what was imported, too."""

    def read_base(self, name: str) -> Generator[tuple[int, bytes | memoryview], None, None]:
        """Without holes."""
        try:
            fd = os.open(self.bases / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise errors.BaseMissing(f"there is no base {name}") from exc
        try:
            for start, end in files.data_ranges(fd, os.fstat(fd).st_size):
                for at in range(start, end, Mi):
                    yield at, os.pread(fd, min(Mi, end - at), at)
        finally:
            os.close(fd)

    def tag_base(self, name: str, tags: Mapping[str, str]) -> None:
        """In the file beside it."""
        self._write_tags(name, self._tags(name) | dict(tags))

    def rename_base(self, name: str, new: str, tags: Mapping[str, str]) -> None:
        """Tags first, as when it is imported."""
        self._write_tags(new, self._tags(name) | dict(tags))
        files.publish(self.bases / name, self.bases / new)
        (self.bases / f"{name}.tags").unlink()

    def _tags(self, name: str) -> dict[str, str]:
        try:
            found: dict[str, str] = json.loads((self.bases / f"{name}.tags").read_text())
        except FileNotFoundError as exc:
            raise errors.BaseMissing(f"there is no base {name}") from exc
        return found


def _leftover(path: Path, disk: DiskId | None, base: str | None) -> StoreLeftover:
    status = os.stat(path)
    return StoreLeftover(name=path.name, disk=disk, base=base, allocated=status.st_blocks * 512, time=status.st_mtime)
