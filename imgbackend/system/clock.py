"""The time of a file system: what it gives to a file that is changed now.

Hosts that share a folder may have clocks that differ, and one of them may be wrong by a day.  The times of
the files in the folder come from one clock, mostly that of the server.  Whoever asks how old a file is asks that
clock, so that all hosts find the same age, and a wrong clock removes nothing.
"""

import errno
import os
import time
from pathlib import Path
from typing import Final

_MEASURED_FOR: Final = 1.0
"""Seconds for which a measurement holds; the time since then is counted by this host."""
_NOT_ALLOWED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR})


def file_system_now(folder: Path) -> float:
    """Seconds since 1970, by the clock that gives the files in a folder their times.

    The folder itself is touched for it: that makes no file, so that it works where there is no room for one.

    :raises OSError: if this user may not change the folder, or it is not there.
    """
    os.utime(folder)
    return os.stat(folder).st_mtime


class FileSystemClock:
    """The time of the file system of one folder, for a pass that asks for it again and again."""

    def __init__(self, *folders: Path) -> None:
        """Keep the folders, all of one file system: the first is asked that this user may change.

        They need not be there yet.
        """
        self._folders = folders
        self._measured, self._difference = float("-inf"), 0.0

    def __call__(self) -> float:
        """Seconds since 1970; by the clock of this host where no folder can be changed, so that nothing can go."""
        here = time.monotonic()
        if here - self._measured >= _MEASURED_FOR:
            self._difference, self._measured = self._measure() - here, here
        return here + self._difference

    def _measure(self) -> float:
        for folder in self._folders:
            try:
                return file_system_now(folder)
            except OSError as exc:
                if exc.errno not in _NOT_ALLOWED:
                    return os.stat(folder).st_mtime  # earlier than now: all is taken to be younger than it is
        return time.time()
