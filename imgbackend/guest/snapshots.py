"""Where snapshots of instances are while they are worked on: folders that nobody else looks into.

A folder is locked (flock(2)) as long as its maker lives, so that whoever comes next knows
what a killed process left, and takes it away.  Nova's own folders there are left alone.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imgbackend.errors import ConfigError
from imgbackend.host import Host

_PREFIX: Final = "imgbackend-"
_MODE: Final = 0o700
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def folder_of(host: Host, told: str) -> Path:
    """``[libvirt] snapshots_directory``.

    :raises ConfigError: if it could be taken for the folder of an instance, or of the bases.
    """
    folder = Path(os.path.abspath(told))
    if folder in (host.instances, host.bases) or (folder.parent == host.instances and folder.name != "snapshots"):
        raise ConfigError(
            f"[libvirt] snapshots_directory: {folder} is among the instances; use {host.instances}/snapshots, "
            "or a folder elsewhere"
        )
    return folder


@contextlib.contextmanager
def room(folder: Path, instance: str) -> Iterator[Path]:
    """A context manager: an empty folder in ``folder``, readable by this user alone; it goes with all that is in it.

    What killed processes left goes first.
    """
    folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
    sweep(folder)
    path, fd = _new(folder, instance)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def sweep(folder: Path) -> None:
    """Take away what killed processes left in ``folder``, which need not be there."""
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it has just gone, or is another user's
            fd = os.open(path, _FLAGS)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its maker holds it
                shutil.rmtree(path)
            finally:
                os.close(fd)


def _new(folder: Path, instance: str) -> tuple[Path, int]:
    """A new folder, and the descriptor that locks it."""
    while True:
        path = folder / f"{_PREFIX}{instance}-{os.urandom(8).hex()}"
        path.mkdir(mode=_MODE)
        try:
            fd = os.open(path, _FLAGS)
        except FileNotFoundError:
            continue  # who sweeps was faster
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return path, fd
        os.close(fd)
