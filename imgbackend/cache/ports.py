"""What the cache reaches through its engine: backends and images, opened and found when they are wanted."""

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from imgbackend.driver.abilities import HoldsBases
from imgbackend.driver.contract import Backend
from imgbackend.system.locks import Held
from imgbackend.types import Delivered, Progress


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


class Workroom(Protocol):
    """A folder in which a snapshot is worked on, or was."""

    @property
    def path(self) -> Path: ...
    @property
    def host(self) -> str:
        """Where it was made."""

    def held(self, progress: Progress, /) -> AbstractContextManager[Held]:
        """The lock that its maker has while it is at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The backends whose stores keep bases."""

    opened: dict[str, HoldsBases]
    """By the backend's name."""
    faults: list[str]
    """Why others could not be opened, a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The ways through one engine."""

    stores: Callable[[Collection[str]], Stores]
    """The configured backends that hold bases, opened, and of those named what can be."""
    backend: Callable[[str | None], Backend]
    """A backend by its name; None: that of new disks."""
    configured: Callable[[], Collection[str]]
    """The names of the backends that somebody wants."""
    finish: Callable[[str], None]
    """Goes on with the destruction of an instance that was broken off; the caller holds the instance's lock."""
    image: Callable[[str], Bootable]
    """An image by a reference, as for a disk: where its source is down, its base will do."""
    beside: Callable[[str, str], Wanted]
    """Another image in the source of the one that a reference names, by its id, as a kernel or a ramdisk."""
    asked: Callable[[str], Wanted]
    """The same, of a source that has to answer."""
    workrooms: Callable[[], Iterable[Workroom]]
    """The folders in which snapshots are worked on, of all hosts."""
