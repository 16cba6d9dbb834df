"""Stores that go away under those who use them, and come back."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from labs import mounts


@contextlib.contextmanager
def renamed(folder: Path) -> Iterator[None]:
    """The folder has another name for a while; what is made in its place meanwhile goes."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)


@contextlib.contextmanager
def bound(source: Path, place: Path) -> Iterator[Path]:
    """What is below ``source`` is mounted at ``place``, a new folder, too.

    :raises MountError: if the process may not.
    """
    mounts.own_namespace()
    place.mkdir()
    mounts.bind(source, place)
    try:
        yield place
    finally:
        mounts.unmount(place)


@contextlib.contextmanager
def unmounted(source: Path, place: Path) -> Iterator[None]:
    """What :func:`bound` mounted is not, for a while: the empty folder below it is seen."""
    mounts.unmount(place)
    try:
        yield
    finally:
        mounts.bind(source, place)
