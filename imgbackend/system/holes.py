"""Holes of files: where they are, and which file systems cannot tell.

CephFS, GlusterFS and NFS before 4.2 answer SEEK_HOLE as if each file were data throughout.  There the
file is read to know.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from typing import Final

_LENGTH: Final = 4 << 20
"""Of the file that is tried: no file system allocates so much because of one block at its end."""
_BLOCK: Final = 64 << 10
_ZEROES: Final = bytes(_BLOCK)
_STEP: Final = 1 << 20
_LONGEST: Final = 8 << 20
"""Of a range that was read to know: who reads it next has it from memory."""
_tellers: dict[int, bool] = {}
"""Whether a file system tells holes, by its device; that is tried once in the life of a process."""


def data_ranges(fd: int, size: int, device: int | None = None) -> Iterator[tuple[int, int]]:
    """``(start, end)`` of what is not a hole, up to ``size``; ``device``: the ``st_dev`` of the file, if it is known.

    Where the file system tells no holes, blocks of zeroes are some.
    """
    for start, end in told_ranges(fd, size):
        if end - start == size and not _are_told(fd, os.fstat(fd).st_dev if device is None else device):
            yield from _read_ranges(fd, size)
        else:
            yield start, end


def told_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The same as the file system tells them; for who knows zeroes when he reads them."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            return
        if start >= size:
            return
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, at


def _are_told(fd: int, device: int) -> bool:
    """Whether the file system of an open file tells holes; tried on a file beside it.

    Where none can be made, what is told is believed.
    """
    if device not in _tellers:
        try:
            _tellers[device] = _tells(os.path.dirname(os.readlink(f"/proc/self/fd/{fd}")))
        except OSError:
            return True
    return _tellers[device]


def _tells(folder: str) -> bool:
    with tempfile.TemporaryFile(dir=folder, prefix=".doctor-") as file:
        os.ftruncate(file.fileno(), _LENGTH)
        os.pwrite(file.fileno(), b"data", _LENGTH - _BLOCK)
        return os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 0


def _read_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """What is not zeroes, block by block; of a file that becomes shorter, the rest, where its reader meets the end."""
    begin: int | None = None
    for at in range(0, size, _STEP):
        data = memoryview(os.pread(fd, min(_STEP, size - at), at))
        if not data:
            begin = at if begin is None else begin
            break
        for start in range(0, len(data), _BLOCK):
            block, place = data[start : start + _BLOCK], at + start
            if begin is not None and (block == _ZEROES[: len(block)] or place - begin >= _LONGEST):
                yield begin, place
                begin = None
            if begin is None and block != _ZEROES[: len(block)]:
                begin = place
    if begin is not None:
        yield begin, size
