"""Images for trials: bytes of several shapes, and fetch functions that can be counted and broken."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from imgbackend.types import Declared, Delivered, Ki, Location, Mi, Progress, Role, base_name

Shape: TypeAlias = Literal["scattered", "random", "compressible", "sparse"]

FETCHES: Final = "fetches"
"""The folder, beside the images, where their fetches are counted."""
_EXTENT: Final = 64 * Ki


def write_raw(path: Path, size: int, shape: Shape, seed: int = 0) -> Path:
    """A raw image; the same bytes for the same arguments.

    ``scattered``: a quarter is random data, the first and the last sector with it;
    ``random``: all of it; ``compressible``: all of it, one text again and again;
    ``sparse``: the first and the last sector alone.
    """
    chance = random.Random(f"{shape}-{seed}-{size}")  # noqa: S311 - bytes that can be told again, no secret
    extents: dict[int, bytes] = {}
    if shape == "scattered":
        chosen = chance.sample(range(0, size, _EXTENT), max(size // _EXTENT // 4, 1))
        extents = {at: chance.randbytes(min(_EXTENT, size - at)) for at in chosen}
    elif shape == "random":
        extents = {at: chance.randbytes(min(Mi, size - at)) for at in range(0, size, Mi)}
    elif shape == "compressible":
        text = f"seed {seed}: all work and no play. ".encode()
        extents = {0: (text * (size // len(text) + 1))[:size]}
    if shape in ("scattered", "sparse"):
        extents |= {0: chance.randbytes(512), size - 512: chance.randbytes(512)}
    with path.open("wb") as file:
        file.truncate(size)
        for at, data in sorted(extents.items()):
            file.seek(at)
            file.write(data)
    return path


@dataclass(frozen=True, kw_only=True)
class SimpleImage:
    """A fetch function that copies a file; every fetch leaves a byte in a file beside it."""

    content: Path
    image_id: str
    role: Role = "image"
    format: str | None = "raw"
    size: int | None = None
    virtual_size: int | None = None
    digests: tuple[tuple[str, str], ...] = ()
    locations: tuple[Location, ...] = ()
    instead: Callable[[Path, Progress], None] | None = None
    """Called instead of the copy."""

    @property
    def declared(self) -> Declared:
        """What a source would declare."""
        return Declared(
            image_id=self.image_id,
            source=f"conformance:{self.image_id}",
            role=self.role,
            format=self.format,
            size=self.size,
            virtual_size=self.virtual_size,
            digests=self.digests,
            locations=self.locations,
        )

    @property
    def name(self) -> str:
        """Of its base."""
        return base_name(self.image_id)

    @property
    def fetches(self) -> int:
        """How often a fetch was begun, in whichever process."""
        return self._log.stat().st_size if self._log.exists() else 0

    @property
    def _log(self) -> Path:
        return self.content.parent / FETCHES / self.name

    def but(
        self,
        *,
        image_id: str | None = None,
        size: int | None = None,
        instead: Callable[[Path, Progress], None] | None = None,
    ) -> "SimpleImage":
        """The same but for what is given."""
        return replace(self, image_id=image_id or self.image_id, size=size or self.size, instead=instead)

    def __call__(self, target: Path, progress: Progress, /) -> Delivered | None:
        """Put the image at ``target``."""
        self._log.parent.mkdir(exist_ok=True)
        with self._log.open("ab", buffering=0) as log:
            log.write(b".")
        if self.instead is not None:
            self.instead(target, progress)
            return None
        whole = self.content.stat().st_size
        progress("fetch", 0, whole)
        copy_sparse(self.content, target)
        progress("fetch", whole, whole)
        return None


def copy_sparse(source: Path, target: Path, limit: int | None = None) -> None:
    """Copy a file, runs of zeroes as holes; only its first ``limit`` bytes."""
    left = source.stat().st_size if limit is None else limit
    with source.open("rb") as read, target.open("wb") as write:
        while left and (data := read.read(min(_EXTENT, left))):
            if data.count(0) == len(data):
                write.seek(len(data), os.SEEK_CUR)
            else:
                write.write(data)
            left -= len(data)
        write.truncate()
