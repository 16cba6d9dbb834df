"""Folders of the configuration, and the room that they have, or will have."""

import os
import tempfile
import time
from pathlib import Path

from imgbackend.types import Capacity


def nearest(path: Path) -> Path:
    """``path``, or the closest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def room(path: Path) -> Capacity:
    """Of the file system that ``path`` is, or will be, on; free is what this process may use."""
    found = os.statvfs(nearest(path.absolute()))
    return Capacity(total=found.f_blocks * found.f_frsize, free=found.f_bavail * found.f_frsize)


def time_in(folder: Path) -> float:
    """Seconds since 1970 by the clock of a folder's file system; by this host's where no file can be made there.

    A new file has that time.  The folder itself is left as it is, but for that.
    """
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".doctor-") as file:
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        return time.time()
