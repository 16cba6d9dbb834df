"""One trial of a backend: its disks under names of their own, images, and what is in the store."""

import contextlib
import dataclasses
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from imgbackend import errors
from imgbackend.bases.inspect import rounded
from imgbackend.disks.prepare import Preparer
from imgbackend.driver.abilities import HoldsBases
from imgbackend.driver.contract import Backend, Disk
from imgbackend.driver.file_disk import FileBackend
from imgbackend.state import folder_marker
from imgbackend.system.host import Host
from imgbackend.testing import oracle
from imgbackend.testing.content import FETCHES, Shape, SimpleImage, write_raw
from imgbackend.testing.place import again
from imgbackend.types import DiskId, DiskSource, Ki, Location, Mi, Progress, base_name, ignore

_BASE: Final = re.compile(r"\b[0-9a-f]{40}\b")

PREFIX = "conformance-"
"""Every instance that the kit makes has a name that begins so."""


@dataclasses.dataclass(kw_only=True)
class Trial:
    """What a test does with a backend."""

    backend: Backend
    scratch: Path
    """A folder of the kit's own: images, and what is exported."""
    watched: Sequence[Path]
    """Folders that are searched for what a driver left."""
    smallest: int
    token: str = dataclasses.field(default_factory=lambda: secrets.token_hex(3))

    @contextlib.contextmanager
    def again(self, host: Host | None = None) -> Iterator["Trial"]:
        """The same trial on another backend of the same configuration; see :func:`place.again`."""
        with again(self.backend, host) as other:
            yield dataclasses.replace(self, backend=other)

    @contextlib.contextmanager
    def durable(self) -> Iterator["Trial"]:
        """The same trial on another backend, of an engine whose disks are durable, whatever the tried one's are."""
        with self.again(Host(dataclasses.replace(self.backend.host.settings, durable=True))) as on:
            yield on

    # Geometry

    def rounded(self, size: int) -> int:
        """As the engine rounds a size for this backend."""
        return rounded(size, self.backend.traits.granularity)

    @property
    def large(self) -> int:
        """The virtual size of a usual image."""
        return self.rounded(max(8 * Mi, self.smallest))

    @property
    def small(self) -> int:
        """The virtual size of an image where many disks are made."""
        return self.rounded(max(Mi, self.smallest))

    # Images and disks

    def image(self, shape: Shape = "scattered", *, size: int | None = None, seed: int = 0) -> SimpleImage:
        """A raw image, :attr:`large` unless a size is given."""
        size = size or self.large
        path = self.scratch / f"{shape}-{size}-{seed}.raw"
        if not path.exists():
            write_raw(path, size, shape, seed)
        return SimpleImage(content=path, image_id=f"{PREFIX}{self.token}-{path.name}")

    def as_qcow2(self, image: SimpleImage) -> SimpleImage:
        """The same image, delivered as a qcow2."""
        path = image.content.with_suffix(".qcow2")
        if not path.exists():
            oracle.make_qcow2(image.content, path)
        return dataclasses.replace(image, content=path, image_id=f"{image.image_id}-qcow2", format="qcow2")

    def zeroes(self) -> SimpleImage:
        """An image that is one hole."""
        path = self.scratch / "zeroes.raw"
        with path.open("wb") as file:
            file.truncate(self.large)
        return SimpleImage(content=path, image_id=f"{PREFIX}{self.token}-zeroes")

    def cloneable(self, location: Location) -> SimpleImage:
        """The usual image, which its source keeps at a location too."""
        return dataclasses.replace(self.image(), locations=(location,))

    def secret(self) -> SimpleImage:
        """What no other instance may see."""
        return dataclasses.replace(self.image(size=self.small, seed=5), role="private")

    def generated(self) -> SimpleImage:
        """What this host makes: it has no id."""
        image = self.image("sparse", size=self.small, seed=6)
        return dataclasses.replace(image, role="generated")

    def unsafe(self) -> SimpleImage:
        """A qcow2 that refers to a file of the host."""
        path = self.scratch / "unsafe.qcow2"
        if not path.exists():
            oracle.make_overlay(self.image().content, path)
        return SimpleImage(content=path, image_id=f"{PREFIX}{self.token}-unsafe", format="qcow2")

    def instance(self, label: str) -> str:
        """The name of an instance of this trial."""
        return f"{PREFIX}{self.token}-{label}"

    def disk(self, label: str = "a", name: str = "disk") -> Disk[Any]:
        """A disk of this trial, whether or not it exists."""
        return self.backend.disk(DiskId(instance=self.instance(label), name=name))

    def made(
        self,
        image: SimpleImage,
        label: str = "a",
        size: int | None = None,
        *,
        name: str = "disk",
        progress: Progress = ignore,
    ) -> Disk[Any]:
        """A disk that was made of an image."""
        disk = self.disk(label, name)
        disk.cache(image, image.name, size, progress=progress)
        return disk

    @contextlib.contextmanager
    def preparer(self, disk: Disk[Any], image: SimpleImage, size: int | None) -> Iterator[Preparer]:
        """What the engine hands to ``create_image``, to call that alone."""
        backend = disk.backend
        backend.host.make_folder(backend.host.folder(disk.id))
        store = backend if isinstance(backend, HoldsBases) else None
        made = Preparer(
            backend.host,
            backend.attached.bases,
            store,
            image,
            image.name,
            size,
            ignore,
            lambda _info, _manifest: None,
        )
        with contextlib.closing(made):
            yield made

    @property
    def ignored(self) -> tuple[Path, ...]:
        """The engine's locks, and where the kit counts fetches: no steps of a driver's."""
        return (self.backend.host.instances / "locks", self.scratch / FETCHES)

    # What is there

    def read(self, disk: Disk[Any]) -> bytes:
        """All bytes that a guest reads."""
        return oracle.read(self.source(disk), self.scratch)

    def expect(self, disk: Disk[Any], wanted: bytes, when: str = "") -> None:
        """Assert that a guest reads these bytes; the message tells the first that differs."""
        oracle.expect(self.read(disk), wanted, f"{disk.id}{when}")

    def write(self, disk: Disk[Any], at: int, count: int, byte: int) -> None:
        """Have a guest write."""
        oracle.write(self.source(disk), at, count, byte)

    @contextlib.contextmanager
    def guest(self, disk: Disk[Any]) -> Iterator[None]:
        """A guest runs on the disk meanwhile."""
        with oracle.guest_on(self.source(disk)):
            yield

    @staticmethod
    def source(disk: Disk[Any]) -> DiskSource:
        """How it is opened, in the format that is on record."""
        with disk.reading():
            return disk.source()

    def listed(self) -> set[DiskId]:
        """The disks of this trial that the store lists."""
        mine = self.instance("")
        return {disk for disk in self.backend.list_disks() if disk.instance.startswith(mine)}

    def entries(self, *, bases: bool = True) -> set[str]:
        """All files below the watched folders but locks, and what the store lists."""
        kept = {str(path) for path in self._there(bases=bases) if not path.is_dir() or path.is_symlink()}
        if not bases:  # a store of files keeps them under their names, wherever that is
            kept = {path for path in kept if not _BASE.search(path)}
        store = self.backend
        stored = {base.name for base in store.list_bases()} if bases and isinstance(store, HoldsBases) else set()
        return kept | {f"listed {disk}" for disk in self.listed()} | {f"stored {name}" for name in stored}

    def folders(self) -> set[str]:
        """All folders below the watched ones but those that the engine makes."""
        mine = {self.backend.host.bases, *self.backend.host.instances.glob(f"{PREFIX}*")}
        return {str(path) for path in self._there(bases=False) - mine if path.is_dir() and not path.is_symlink()}

    def _there(self, *, bases: bool) -> set[Path]:
        host, store = self.backend.host, self.backend
        skipped = [host.instances / "locks", host.instances / folder_marker.NAME, *([] if bases else [host.bases])]
        roots = {host.instances, *self.watched, *([store.folder] if isinstance(store, FileBackend) else [])}
        found = {path for root in roots for path in root.rglob("*")}
        return {path for path in found if not any(path.is_relative_to(folder) for folder in skipped)}

    @staticmethod
    def _clear(disk: Disk[Any]) -> None:
        try:
            disk.remove()
        except errors.DiskElsewhere:  # a test made it by a hook alone, without a record, or gave it another owner
            with disk.locked(changing=False):
                disk.remove_image()

    def clear(self) -> None:
        """Take away every disk and stored base of this trial, as far as the driver can."""
        for disk_id in self._known():
            with contextlib.suppress(errors.Error):
                self._clear(self.backend.disk(disk_id))
        store = self.backend
        if isinstance(store, HoldsBases):
            images = {base_name(f"{PREFIX}{self.token}-{path.name}") for path in self.scratch.glob("*.raw")}
            for base in list(store.list_bases()):
                if base.name in images or base.tags.get("image_id", "").startswith(f"{PREFIX}{self.token}"):
                    with contextlib.suppress(errors.Error):
                        store.remove_base(base.name)

    def _known(self) -> set[DiskId]:
        found: set[DiskId] = set()
        with contextlib.suppress(errors.Error, OSError):
            found |= self.listed()
        folders = self.backend.host.instances.glob(f"{self.instance('')}*")
        for folder in folders:
            with contextlib.suppress(errors.Error):
                found |= {
                    DiskId(instance=folder.name, name=name) for name in self.backend.host.records.all(folder.name)
                }
        return found


def slack(backend: Backend) -> int:
    """Bytes of metadata that a store may spend on a disk."""
    return max(512 * Ki, 2 * backend.traits.granularity)
