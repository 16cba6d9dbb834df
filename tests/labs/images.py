"""Makers of images for tests: sparse raw files, and qcow2 files by the real qemu-img."""

import random
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path


def sparse_raw(path: Path, size: int, *, data: Mapping[int, bytes] | None = None) -> Path:
    """A raw image of ``size`` bytes with ``data`` at its offsets and holes elsewhere."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in (data or {}).items():
            file.seek(offset)
            file.write(content)
    return path


def scattered(size: int, share: float, *, extent: int = 1 << 20, seed: int = 0) -> dict[int, bytes]:
    """Random bytes for ``share`` of ``size``, in aligned extents at random places; the same for the same seed."""
    return dict(scattering(size, share, extent=extent, seed=seed))


def scattering(size: int, share: float, *, extent: int = 1 << 20, seed: int = 0) -> Iterator[tuple[int, bytes]]:
    """:func:`scattered`, one extent after the other: all of them together may be more than there is memory."""
    chance = random.Random(seed)
    places = range(0, size - extent + 1, extent)
    chosen = chance.sample(places, round(len(places) * share))
    yield from ((offset, chance.randbytes(extent)) for offset in sorted(chosen))


def qcow2(path: Path, size: int, *, content: Path | None = None, **options: str | int) -> Path:
    """A qcow2 image of ``size`` bytes, empty or with the raw image ``content`` in it.

    ``options`` are qemu-img's own for the format, such as ``cluster_size=512``.
    """
    settings = [f"-o{key}={value}" for key, value in options.items()]
    if content is None:
        qemu_img("create", "-q", "-f", "qcow2", *settings, str(path), str(size))
    else:
        qemu_img("convert", "-f", "raw", "-O", "qcow2", *settings, str(content), str(path))
        if size != content.stat().st_size:
            qemu_img("resize", "-q", "-f", "qcow2", str(path), str(size))
    return path


def qemu_img(*arguments: str) -> str:
    """What ``qemu-img`` prints.

    :raises subprocess.CalledProcessError: if it does not end with 0.
    """
    done = subprocess.run(["qemu-img", *arguments], check=True, capture_output=True, text=True, timeout=120)
    return done.stdout


def same_for_guest(one: Path, one_format: str, other: Path, other_format: str) -> bool:
    """Whether a guest would read the same from both; what one has more must be zeroes."""
    command = ["qemu-img", "compare", "-q", "-f", one_format, "-F", other_format, str(one), str(other)]
    status = subprocess.run(command, check=False, timeout=120).returncode
    if status not in (0, 1):
        raise AssertionError(f"qemu-img compare could not read {one} and {other}")
    return status == 0
