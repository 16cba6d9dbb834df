"""A claim on a file: a lock that its maker holds while it is at work, so that anybody can ask whether it still is.

It is an open file description's lock of fcntl(2): it belongs to the open file, and the kernel lets it go
when that is closed, however its process ends.  To ask takes no lock, so that nobody's asking is in anybody's way.
File systems that hosts share carry it to the other hosts; where one does not, a claim is not seen there.
"""

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

_FLOCK: Final = "hhqqi4x"
"""``struct flock`` of 64 bits: type, whence, start, length (0: to the end), process."""


def claim(fd: int) -> bool:
    """Claim an open file until it is closed; False: the file system has no such locks, or somebody else has it."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return False
    return True


def is_claimed(path: Path) -> bool:
    """Whether somebody holds a claim on a file.

    :raises OSError: if that cannot be asked.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer: bytes = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked)
        return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)
