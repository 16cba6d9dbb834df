"""What another host did to a file of a shared file system, and what that looks like here: ESTALE, an old size.

Of a local file system an open file stays whole when its name goes.  NFS' server forgets it, and answers
ESTALE ("Stale file handle") to whoever uses it further: as ENOENT, that means that the file is gone.  Python
has no exception of its own for it, and ``except FileNotFoundError`` does not catch it.

The same number is the answer where the file system itself went away under its mount; then every look by name has it,
too.  So a look that meets it is made again, by name: it finds what is there now, or nothing, or fails for good.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

_LOOKS: Final = 5
"""How often something is looked at that is replaced again and again meanwhile."""

Found = TypeVar("Found")


def is_stale(exc: BaseException) -> bool:
    """Whether a file that was open is no more, its name having been looked up before that."""
    return isinstance(exc, OSError) and exc.errno == errno.ESTALE


def is_gone(exc: BaseException) -> bool:
    """Whether a file is no more; for who would not look again."""
    return is_stale(exc) or isinstance(exc, FileNotFoundError)


def past_the_cache(path: Path | str, count: int) -> bytes:
    """The first bytes of a file that seems to be empty; none, if it is.

    A client of NFS may know the size that a file had before another host filled it, and until that is asked for
    anew the file reads as empty, however often it is opened; read with O_DIRECT, it is as the server has it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return b""  # a file system without such reads
    try:
        return os.read(fd, count)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return b""  # a local one, which wants a buffer of its own; it has no other host
    finally:
        os.close(fd)


def look_again(path: Path | str, look: Callable[[], Found]) -> Found:
    """What ``look`` returns, which opens ``path``; called again where that went stale meanwhile.

    :raises FileNotFoundError: if it is gone.
    :raises OSError: as ``look`` does, with ``path``; ESTALE, if it has that every time: the file system is away.
    """
    for again in reversed(range(_LOOKS)):
        try:
            return look()
        except OSError as exc:
            exc.filename = exc.filename or os.fspath(path)  # read(2) knows no name
            if not (again and is_stale(exc)):
                raise
        os.stat(path)  # open(2) alone asks no server while this process has the stale file open; stat(2) does
    raise AssertionError("the last look returned or raised")
