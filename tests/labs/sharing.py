"""A lab that all workers of a pytest session share: the first starts it, the last stops it."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labs.require import require


def owner() -> int:
    """The process that ends with the session: pytest itself, or that which controls its workers."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def shared(
    factory: pytest.TempPathFactory,
    name: str,
    start: Callable[[Path], None],
    stop: Callable[[Path], None],
    failure: type[Exception],
) -> Iterator[Path]:
    """The lab's folder, while it runs.

    ``start`` is called by each worker, with the lock held, and does nothing where the lab runs.
    Where it raises ``failure`` once, all who come later skip for the same reason at once.
    """
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"{name}-shared"
    place.mkdir(exist_ok=True)
    folder, failed, users = place / name, place / "failed", place / "users"
    with locked(place / "lock"):
        if failed.exists():
            require(name.partition("-")[0], failed.read_text())
        folder.mkdir(exist_ok=True)
        try:
            start(folder)
        except failure as exc:
            failed.write_text(str(exc))
            require(name.partition("-")[0], str(exc))
        users.write_text(str(_count(users) + 1))
    try:
        yield folder
    finally:
        with locked(place / "lock"):
            users.write_text(str(_count(users) - 1))
            if _count(users) == 0:
                stop(folder)


def _count(file: Path) -> int:
    return int(file.read_text()) if file.exists() else 0
