"""What a hostile image is, and what makers of one need."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.types import Mi
from labs.images import qemu_img

SECRET: Final = b"root:secret-of-this-host:0:0\n" * 1024
"""What a file of this host holds that no image may reach."""

Make = Callable[[Path, Path], None]
"""``make(image, secret)``: makes the image, which may try to refer to the file ``secret``."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """One image that is to be refused."""

    name: str
    file: str
    """Its file's name: the suffixes are what is declared."""
    refused: type[errors.Error]
    make: Make
    servable: bool = True
    """A file whose bytes a server can send; else something that only a folder can hold."""
    refused_by_http: type[errors.Error] | None = None
    """Where the source sees by itself what it is."""


ALL: Final[list[Hostile]] = []


def hostile(
    file: str,
    refused: type[errors.Error] = errors.TemplateUnsafe,
    *,
    servable: bool = True,
    by_http: type[errors.Error] | None = None,
) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        ALL.append(Hostile(make.__name__.lstrip("_").replace("_", "-"), file, refused, make, servable, by_http))
        return make

    return keep


def patch(path: Path, at: int, data: bytes) -> None:
    """Overwrite bytes; ``at`` below 0 counts from the end."""
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        file.write(data)


def content(size: int = Mi) -> bytes:
    """Bytes of a guest, which no packing makes smaller; the same each time."""
    return random.Random(size).randbytes(size)


def filled(path: Path, format: str, size: int = Mi, *options: str) -> None:
    """An image whose disk is full of :func:`content`."""
    raw = path.with_name(f"{path.name}.content")
    raw.write_bytes(content(size))
    try:
        qemu_img("convert", "-f", "raw", "-O", format, *(f"-o{option}" for option in options), str(raw), str(path))
    finally:
        raw.unlink()


def make_qcow2(path: Path, *options: str, size: str = "1M") -> None:
    qemu_img("create", "-q", "-f", "qcow2", *options, str(path), size)
