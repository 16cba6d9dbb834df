"""A local file written into a block device, and a device read: past the page cache, holes skipped or zeroed.

The bytes are written by a thread, so that the caller is told of progress, and can cancel,
also while the device takes none: a thin pool that is full holds writes back for a minute.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import files
from imgbackend.types import Ki, Mi, Progress

BLOCK: Final = 4 * Ki
"""What O_DIRECT wants offsets and lengths to be multiples of, on any device."""
_STEP: Final = Mi
_PIECE: Final = 4 * Mi
"""Bytes of one reading: a pool's chunks may be on several devices."""
_ZEROES: Final = bytes(64 * Ki)
_ZEROED: Final = 64 * Mi
"""Bytes that the kernel is asked to zero at once: nobody can cancel meanwhile."""
_BLKZEROOUT: Final = 0x127F
"""``_IO(0x12, 127)`` of linux/fs.h: two 64-bit numbers, offset and length."""
_LOOK: Final = 0.2


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A context manager: a descriptor of a device.

    :raises ConfigError: if this user may not open it.
    """
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except PermissionError as exc:
        raise errors.ConfigError(f"{path} cannot be opened: put this user into the group of the device, disk") from exc
    try:
        yield fd
    finally:
        os.close(fd)


def fill(
    source: int,
    device: int,
    size: int,
    progress: Progress,
    *,
    phase: str,
    zero: bool,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Write the whole file ``source`` to the start of ``device``, and flush it.

    ``device`` is open with O_DIRECT, and at least ``size`` bytes large, a multiple of
    :data:`BLOCK`.  ``zero``: holes, and what is left of ``size`` after the file, are zeroed;
    else they are left as they are.  ``look`` is called a few times a second; what it or
    ``progress`` raises ends the writing.

    :raises OSError: as reading, writing and flushing do.
    """
    done, stop, failed = [0], threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            for at in _written(source, device, size, zero=zero):
                done[0] = at
                if stop.is_set():
                    return
            os.fsync(device)
        except BaseException as exc:
            failed.append(exc)

    progress(phase, 0, size)
    writer = threading.Thread(target=write, name="imgbackend-lvm-writer")
    writer.start()
    try:
        while writer.is_alive():
            writer.join(_LOOK)
            progress(phase, done[0], size)
            look()
    finally:
        stop.set()
        writer.join()
    if failed:
        raise failed[0]
    progress(phase, size, size)


def _written(source: int, device: int, size: int, *, zero: bool) -> Iterator[int]:
    """Write, and tell after each step how far it is."""
    at, length = 0, os.fstat(source).st_size
    view = memoryview(mmap.mmap(-1, _STEP))  # unmapped with the last that refers to it, a traceback too
    for start, end in files.data_ranges(source, length):
        first = max(at, start // BLOCK * BLOCK)
        if zero:
            yield from _zeroed(device, at, first)
        at = first
        while at < end:
            count = _read(source, view, at, min(_STEP, -(-(end - at) // BLOCK) * BLOCK))
            _put(device, view[:count], at, zero=zero)
            at += count
            yield min(at, size)
    if zero:
        yield from _zeroed(device, at, size)


def pieces(device: int, size: int) -> Generator[tuple[int, memoryview], None, None]:
    """The first ``size`` bytes of a device that is open with O_DIRECT, as ``(offset, bytes)``.

    The bytes are the caller's until the next are asked for.

    :raises OSError: as reading does, and if the device ends before.
    """
    view = memoryview(mmap.mmap(-1, _PIECE))
    for at in range(0, size, _PIECE):
        wanted, done = min(_PIECE, size - at), 0
        while done < wanted:
            got = os.preadv(device, [view[done : -(-wanted // BLOCK) * BLOCK]], at + done)
            if not got:
                raise OSError(errno.EIO, "the device ends before the base does")
            done += got
        yield at, view[:wanted]


def write_counts(device: Path) -> tuple[int, ...]:
    """What the kernel has counted of writes and discards of a device, with the number of the device.

    That is Documentation/block/stat.rst: requests, sectors.  device-mapper counts each as it is handed in.
    """
    number = os.stat(device).st_rdev
    counts = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text().split()
    return (number, *(int(counts[at]) for at in (4, 6, 11, 13)))


def _read(source: int, view: memoryview, at: int, count: int) -> int:
    """Fill ``count`` bytes, with zeroes after the file's end."""
    done = 0
    while done < count:
        got = os.preadv(source, [view[done:count]], at + done)
        if not got:
            view[done:count] = bytes(count - done)
            break
        done += got
    return count


def _put(device: int, data: memoryview, at: int, *, zero: bool) -> None:
    """Write what is not zero, and zeroes too where the device may hold something else."""
    for start, end in [(0, len(data))] if zero else list(_runs(data)):
        while start < end:
            start += os.pwrite(device, data[start:end], at + start)


def _runs(data: memoryview) -> Iterator[tuple[int, int]]:
    """The ranges of ``data`` that are not zero, in steps of 64 KiB."""
    begun: int | None = None
    for at in range(0, len(data), len(_ZEROES)):
        piece = data[at : at + len(_ZEROES)].tobytes()
        if piece == _ZEROES[: len(piece)]:
            if begun is not None:
                yield begun, at
            begun = None
        elif begun is None:
            begun = at
    if begun is not None:
        yield begun, len(data)


def zero(device: int, start: int, end: int) -> None:
    """Make a range of an open device read as zeroes; both ends are multiples of :data:`BLOCK`."""
    for _ in _zeroed(device, start, end):
        pass


def _zeroed(device: int, start: int, end: int) -> Iterator[int]:
    while start < end:
        count = min(_ZEROED, end - start)
        fcntl.ioctl(device, _BLKZEROOUT, struct.pack("QQ", start, count))
        start += count
        yield start
