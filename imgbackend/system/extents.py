"""What files take together where they share extents: a reflink counts once.

The kernel tells by FIEMAP where a file's bytes are and which of them others have too; source:
Documentation/filesystems/fiemap.rst and linux/fiemap.h.  A file system that does not have it shares nothing.
"""

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from imgbackend.system import files, stale

_FIEMAP: Final = 0xC020660B
"""``_IOWR('f', 11, struct fiemap)`` of linux/fs.h."""
_HEAD: Final = struct.Struct("=QQLLLL")
"""start, length, flags, mapped, count, reserved"""
_EXTENT: Final = struct.Struct("=QQQ16xL12x")
"""logical, physical, length, flags"""
_LAST, _SHARED = 0x1, 0x2000
_AT_ONCE: Final = 512


class SharedExtents(NamedTuple):
    """An extent that other files have too."""

    physical: int
    length: int


def shared(fd: int) -> Iterator[SharedExtents]:
    """The extents of a file that it shares with others; what was not written out yet is shared with nobody."""
    at = 0
    while True:
        buffer = bytearray(_HEAD.size + _AT_ONCE * _EXTENT.size)
        _HEAD.pack_into(buffer, 0, at, (1 << 64) - 1 - at, 0, 0, _AT_ONCE, 0)
        try:
            fcntl.ioctl(fd, _FIEMAP, buffer, True)
        except OSError as exc:
            if exc.errno in files.NOT_HERE:
                return
            raise
        mapped = _HEAD.unpack_from(buffer)[3]
        flags = _LAST
        for number in range(mapped):
            logical, physical, length, flags = _EXTENT.unpack_from(buffer, _HEAD.size + number * _EXTENT.size)
            at = logical + length
            if flags & _SHARED:
                yield SharedExtents(physical, length)
        if flags & _LAST or not mapped:
            return


def exclusive(path: Path) -> int:
    """Bytes that the file system has more when this file is gone; none where it has another name too.

    Of one that this user may not read: all that it takes.

    :raises OSError: as looking at it does.
    """
    if os.lstat(path).st_nlink > 1:
        return 0
    taken, extents = _looked_at(path)
    return max(taken - sum(extent.length for extent in extents), 0)


def together(paths: Iterable[Path]) -> int:
    """Bytes that files take, each extent that several of them share counted once.

    One that is gone meanwhile counts for nothing, and one that this user may not read as sharing nothing.

    :raises OSError: as looking at them does.
    """
    own, found = 0, dict[int, list[SharedExtents]]()
    for path in paths:
        try:
            taken, extents = _looked_at(path)
            device = os.lstat(path).st_dev
        except OSError as exc:
            if not stale.is_gone(exc):
                raise
            continue
        own += max(taken - sum(extent.length for extent in extents), 0)
        found.setdefault(device, []).extend(extents)
    return own + sum(map(_covered, found.values()))


def _looked_at(path: Path) -> tuple[int, list[SharedExtents]]:
    """The bytes that a file takes, and what of it others have too."""
    taken = os.lstat(path).st_blocks * 512
    try:
        with files.open_fd(path, os.O_RDONLY | os.O_NOFOLLOW) as fd:
            return taken, list(shared(fd))
    except PermissionError:
        return taken, []


def _covered(extents: list[SharedExtents]) -> int:
    """The length of what the extents cover, however they overlap."""
    covered = end = 0
    for physical, length in sorted(extents):
        covered += max(physical + length - max(physical, end), 0)
        end = max(end, physical + length)
    return covered
