"""Ranges of a volume overwritten, as root, in steps: between two of them it can be cancelled."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from imgbackend import errors
from imgbackend.types import Mi
from imgbackend_lvm.lvm2_names import check_name, device_name
from imgbackend_lvm.lvm2_run import Lvm2Commands

_SECTOR: Final = 512
STEP: Final = 256 * Mi
"""Bytes that one command writes: seconds on a slow disk, and not many commands for a large one."""
PASSES: Final = 3
"""How often :func:`shred` writes, as shred(1) does unless told otherwise."""

Done: TypeAlias = Callable[[int, int], None]
"""``done(written, total)``, in bytes, before each step and after the last; raising from it cancels."""


def unheard(_done: int, _total: int) -> None:
    """Nobody is told: neither growth nor removal tells of progress."""


def device(group: str, name: str) -> Path:
    """The device of an active volume.

    :raises DiskNotFound: if there is none; a volume that is not active has none.
    :raises StorageError: if what is there is not the block device of this volume.
    """
    check_name(group, name)
    path = Path("/dev", group, name)
    try:
        found = path.stat()
    except FileNotFoundError as exc:
        raise errors.DiskNotFound(f"there is no device {path}; activate the volume with lvchange") from exc
    except OSError as exc:
        raise errors.StorageError(f"cannot look at {path}: {exc.strerror}") from exc
    told = Path(f"/sys/dev/block/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}/dm/name")
    try:
        mapped = told.read_text().strip() if stat.S_ISBLK(found.st_mode) else ""
    except OSError:
        mapped = ""
    if mapped != device_name(group, name):
        raise errors.StorageError(f"{path} is not the device of this volume; remove what is in its place")
    return path


def zero(commands: Lvm2Commands, group: str, name: str, start: int, length: int, done: Done) -> None:
    """Make ``length`` bytes from ``start`` read as zeroes; both are multiples of 512.

    On return they are on stable storage.  Cancelled, or on an error, a part of them is.

    :raises DiskBusy: if the device is mounted, or otherwise held for one user alone.
    :raises DiskNotFound: if the volume is not active.
    """
    path = str(device(group, name))
    for at, size in _steps(start, length, done, length, 0):
        commands.run("blkdiscard", "--zeroout", "--offset", str(at), "--length", str(size), path)


def shred(commands: Lvm2Commands, group: str, name: str, start: int, length: int, done: Done) -> None:
    """Overwrite ``length`` bytes from ``start`` with random ones, :data:`PASSES` times; both are multiples of 512.

    Otherwise as :func:`zero`, but that it does not ask whether the device is held.
    """
    path = str(device(group, name))
    for number in range(PASSES):
        for at, size in _steps(start, length, done, length * PASSES, length * number):
            where = (f"seek={at}", f"count={size}", "iflag=count_bytes,fullblock", "oflag=seek_bytes,direct")
            commands.run(
                "dd", "if=/dev/urandom", f"of={path}", "bs=1M", *where, "conv=notrunc,nocreat,fsync", "status=none"
            )


def _steps(start: int, length: int, done: Done, total: int, before: int) -> Iterator[tuple[int, int]]:
    if start < 0 or length < 0 or start % _SECTOR or length % _SECTOR:
        raise ValueError(f"not a range of sectors: {length} bytes from {start}")
    for at in range(0, length, STEP):
        done(before + at, total)
        yield start + at, min(STEP, length - at)
    done(before + length, total)
