"""An image that its source may no longer have: then it is another host's base of it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from imgbackend.errors import ImageNotFound, SourceError
from imgbackend.sources.contract import Image
from imgbackend.types import Declared, Delivered, Progress

LOG = logging.getLogger(__name__)

T = TypeVar("T")


class FallbackImage(Image):
    """An image of its source, as long as that has it.

    What only its source knows of an image (its properties, the kernel beside it) is not
    known where that has it no more.
    """

    def __init__(self, image: Image | ImageNotFound, image_id: str, host: str, other: Callable[[], Image]) -> None:
        """``image`` is the source's answer; ``other`` asks ``host`` for its base."""
        self._image, self._id, self._host, self._find = image, image_id, host, other
        self._other: Image | None = None

    @property
    def id(self) -> str:
        """The same, wherever it is had from."""
        return self._id

    @property
    def name(self) -> str:
        """The source's, else the other host's."""
        return self._asked(lambda image: image.name)

    @property
    def declared(self) -> Declared:
        """What the source says, else the other host."""
        return self._asked(lambda image: image.declared)

    @property
    def kernel_id(self) -> str | None:
        """None where the source has the image no more."""
        return self._asked(lambda image: image.kernel_id)

    @property
    def ramdisk_id(self) -> str | None:
        """None where the source has the image no more."""
        return self._asked(lambda image: image.ramdisk_id)

    @property
    def properties(self) -> dict[str, str]:
        """Empty where the source has the image no more."""
        return self._asked(lambda image: image.properties)

    @property
    def resumable(self) -> bool:
        """As the source's; a base of another host is fetched whole."""
        return self._asked(lambda image: image.resumable)

    def __call__(self, target: Path, progress: Progress, /) -> Delivered:
        """As :meth:`Image.__call__`; also where the source says only now that it is gone, from the other host."""
        return self._asked(lambda image: image(target, progress))

    def _asked(self, ask: Callable[[Image], T]) -> T:
        found = self._image
        if isinstance(found, Image):
            try:
                return ask(self._in_role(found))
            except ImageNotFound as exc:
                LOG.warning("%s; %s is asked for its base of it", exc, self._host)
                self._image = exc
        try:
            if self._other is None:
                self._other = self._find()
            return ask(self._in_role(self._other))
        except SourceError as exc:
            raise type(exc)(f"{self._image}; and {exc}") from exc

    def _in_role(self, image: Image) -> Image:
        return image.as_boot_file() if self.role == "boot-file" else image
