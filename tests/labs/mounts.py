"""File systems of their own for tests: XFS and btrfs in files, small tmpfs, and ramfs.

They are mounted in a mount namespace of this process alone, and the loop devices are
set to let go with the last mount: however the process ends, the kernel takes away the
one and the other.
"""

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

_CLONE_NEWNS: Final = 0x20000
_MAKE: Final = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
}


class MountError(Exception):
    """This machine does not let us; the message says why."""


@functools.cache
def own_namespace() -> None:
    """From now on what this process and its children mount is seen by them alone.

    To be called from the main thread: other threads that run already stay outside.

    :raises MountError: if the process may not.
    """
    if os.geteuid() != 0:
        raise MountError("root is needed to mount file systems")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise MountError(f"no mount namespace of our own: {os.strerror(ctypes.get_errno())}")
    _run("mount", "--make-rprivate", "/")


@contextlib.contextmanager
def loop(kind: Literal["xfs", "btrfs"], folder: Path, size: int) -> Iterator[Path]:
    """A new file system of ``size`` bytes, kept in a sparse file in ``folder``.

    :raises MountError: if the tools, the kernel or the permissions are not there.
    """
    if shutil.which(_MAKE[kind][0]) is None:
        raise MountError(f"{_MAKE[kind][0]} is not installed")
    own_namespace()
    image = folder / f"{kind}.img"
    with image.open("xb") as file:
        file.truncate(size)
    try:
        _run(*_MAKE[kind], str(image))
        with _mounted(folder / kind, "-t", kind, "-o", "loop", str(image)) as place:
            image.unlink()  # the loop device keeps it until it lets go
            yield place
    finally:
        image.unlink(missing_ok=True)


@contextlib.contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """A file system in memory that is full after ``size`` bytes (whole pages).

    :raises MountError: if the process may not.
    """
    own_namespace()
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs") as place:
        yield place


@contextlib.contextmanager
def ramfs(folder: Path) -> Iterator[Path]:
    """A file system in memory that knows no O_DIRECT.

    :raises MountError: if the process may not.
    """
    own_namespace()
    with _mounted(folder, "-t", "ramfs", "-o", "mode=0755", "ramfs") as place:
        yield place


@contextlib.contextmanager
def _mounted(place: Path, *arguments: str) -> Iterator[Path]:
    place.mkdir()
    _run("mount", *arguments, str(place))
    try:
        yield place
    finally:
        try:
            _run("umount", str(place))
        except MountError:
            _run("umount", "--lazy", str(place))
            raise  # a test left something open in it: to be seen, not hidden


def bind(source: Path, place: Path) -> None:
    """Mount a folder in another place too; :func:`own_namespace` was called."""
    _run("mount", "--bind", str(source), str(place))


def unmount(place: Path) -> None:
    """Though somebody may have something open in it."""
    _run("umount", "--lazy", str(place))


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise MountError(f"{' '.join(command)}: {done.stderr.strip()}")
