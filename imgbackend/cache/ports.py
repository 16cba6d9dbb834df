"""What the cache reaches through its engine: backends and images, opened and found when they are wanted."""

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imgbackend.driver.abilities import HoldsBases
from imgbackend.driver.contract import Backend
from imgbackend.system.locks import Held
from imgbackend.types import Delivered, Owner, Progress


class Wanted(Protocol):
    """An image, as the engine hands it out."""

    @property
    def id(self) -> str: ...
    @property
    def filename(self) -> str: ...
    def __call__(self, target: Path, progress: Progress, /) -> Delivered | None: ...


class Bootable(Wanted, Protocol):
    """An image that may name what it boots with."""

    @property
    def kernel_id(self) -> str | None: ...
    @property
    def ramdisk_id(self) -> str | None: ...


class SnapshotFolder(Protocol):
    """A folder in which a snapshot is worked on, or was."""

    @property
    def path(self) -> Path: ...
    @property
    def host(self) -> str:
        """Where it was made."""

    def is_of(self, host: str, /) -> bool:
        """Whether it was made on this machine, as the host of that name."""

    def held(self, progress: Progress, /) -> AbstractContextManager[Held]:
        """The lock that its maker has while it is at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The backends whose stores keep bases."""

    opened: dict[str, HoldsBases]
    """By the backend's name."""
    faults: list[str]
    """Why others could not be opened, a line each."""


class Ports(Protocol):
    """The ways from the cache to what lies beyond it; an engine offers them."""

    def stores(self, recorded: Collection[str], /) -> Stores:
        """The configured backends that hold bases, opened, and of those named in ``recorded`` what can be."""

    def backend(self, name: str | None, /) -> Backend:
        """A backend by its name; None: that of new disks."""

    def configured(self) -> Collection[str]:
        """The names of the backends that somebody wants."""

    def is_mine(self, instance: str, owner: Owner | None, /) -> bool:
        """Whether this host may change an instance that is noted as that owner's; None: nobody noted it."""

    def expect_mounted(self) -> None:
        """See that ``instances_path`` is there, where anything was ever made in it.

        :raises StorageUnavailable: if it seems not to be mounted.
        """

    def finish_destroying(self, instance: str, /) -> None:
        """Go on with the destruction of an instance that was broken off; the caller holds the instance's lock."""

    def image(self, ref: str, /) -> Bootable:
        """An image by a reference, as for a disk: where its source is down, its base will do."""

    def image_now(self, ref: str, /) -> Wanted:
        """The same, of a source that has to answer now."""

    def boot_file(self, ref: str, image_id: str, /) -> Wanted:
        """A kernel or a ramdisk by its id, in the source of the image that ``ref`` names."""

    def snapshot_folders(self) -> Iterable[SnapshotFolder]:
        """The folders in which snapshots are worked on, of all hosts."""
