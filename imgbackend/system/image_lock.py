"""QEMU's own lock of an image file: a guest and imgbackend keep out of each other's way.

Who has an image open in QEMU holds a lock for reading on byte 100 + p for each permission p that it uses, and on byte
200 + p for each that it lets nobody else use; and it opens none where another's lock stands against that
(QEMU's block/file-posix.c, ``raw_apply_lock_bytes``).  p is 0 for reading what is consistent, 1 for writing.
The locks are of open files, not of processes, and reach over NFS 4 and CephFS to other hosts.
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import files

_FIRST, _COUNT = 100, 104
"""All bytes that QEMU locks: 100 to 203."""
_USED_FOR_WRITING: Final = 101
_NOBODY_WRITES: Final = 201
_HELD_ELSEWHERE: Final = frozenset({errno.EAGAIN, errno.EACCES})

OPEN_ELSEWHERE: Final = "the disk is open in another process; stop its guest first"


def refuse_written(fd: int) -> None:
    """Refuse a disk that a guest may write to now, as qemu-img does where it opens one.

    :raises DiskOpen: if somebody has it open for writing.
    """
    _refuse(fd, _USED_FOR_WRITING, 1)


@contextlib.contextmanager
def kept_unwritten(fd: int) -> Iterator[None]:
    """Let nobody open the disk for writing meanwhile; any number of readers may.

    :raises DiskOpen: if somebody has it open for writing.
    """
    _set(fd, fcntl.F_RDLCK, _NOBODY_WRITES, 1)
    try:
        refuse_written(fd)  # a guest that opened it just before our lock
        yield
    finally:
        _set(fd, fcntl.F_UNLCK, _NOBODY_WRITES, 1)


@contextlib.contextmanager
def kept_closed(path: Path) -> Iterator[None]:
    """Let nobody open the disk meanwhile, not even to read; a file that is not there is nobody's.

    :raises DiskOpen: if somebody has it open.
    :raises StorageUnavailable: if it is a link to nothing: whoever has that mounted may have it open.
    """
    with contextlib.ExitStack() as stack:
        try:
            fd = stack.enter_context(files.open_fd(path, os.O_RDWR))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            if path.is_symlink() and not path.exists():
                raise errors.StorageUnavailable(
                    f"{path} is a link to {os.path.realpath(path)}, where nothing is now; mount its file system, "
                    "or remove the link if that is gone for good"
                ) from None
            yield
            return
        _set(fd, fcntl.F_WRLCK, _FIRST, _COUNT)
        yield


@contextlib.contextmanager
def naming(disk: str, instance: str) -> Iterator[None]:
    """Let a disk that is open be named, with the command that helps."""
    try:
        yield
    except errors.DiskOpen as exc:
        raise errors.DiskOpen(f"{disk}: {exc} (to stop its guest: imgbackend instance stop {instance})") from exc


def _refuse(fd: int, first: int, count: int) -> None:
    asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, first, count, 0)
    if struct.unpack_from("h", fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK:
        raise errors.DiskOpen(OPEN_ELSEWHERE)


def _set(fd: int, kind: int, first: int, count: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, first, count, 0))
    except OSError as exc:
        if exc.errno not in _HELD_ELSEWHERE:
            raise
        raise errors.DiskOpen(OPEN_ELSEWHERE) from exc
