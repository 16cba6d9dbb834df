"""What a driver gets to make a disk from: a base, and the call that makes it ready."""

from pathlib import Path
from typing import Final, Protocol

from imgbackend import errors
from imgbackend.types import ImageInfo, Progress, Role, ignore

IN_PLACE: Final = frozenset({"generated", "private"})


class Base:
    """The base that a disk is made from, as its driver sees it."""

    def __init__(self, name: str, path: Path | None, role: Role, progress: Progress = ignore) -> None:
        """``path`` None: the backend's own store keeps it, under ``name``."""
        self.name = name
        """The sha1 of the image's id; what a store that holds bases knows it by."""
        self.path = path
        """Where it is; None: the backend's own store keeps it.  For a name in a header; to read it, :meth:`open`."""
        self.progress = progress
        """The caller's, for a driver that copies: phase ``copy``; what it raises ends the call."""
        self.generated = role in IN_PLACE
        """It may be made in place: ``prepare_template`` takes a path of the disk's own."""
        self.secret = role == "private"
        """It is one instance's secret: the disk is readable by its owner alone."""
        self.opened: int | None = None

    def open(self) -> int:
        """A descriptor of the base, taken under its lock; valid, and the engine's, until
        ``create_image`` returns.

        :raises StorageError: if ``prepare_template`` was not called, or the store keeps the base.
        """
        if self.opened is None:
            raise errors.StorageError("a driver opened a base that it did not prepare")
        return self.opened


class PrepareTemplate(Protocol):
    """Makes a template ready, and says what it is."""

    def __call__(self, target: Base | Path, /) -> ImageInfo:
        """Called once by a driver, with its base, or with a path of the disk's own where ``base.generated``."""
