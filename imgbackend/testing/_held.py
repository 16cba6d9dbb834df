"""What a driver holds: no descriptor, process or thread stays when a backend is closed."""

import contextlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from imgbackend import errors
from imgbackend.abilities import Flattenable, Snapshottable
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial


class HeldTests(Topic):
    """Services run for months, and make a disk every minute."""

    def test_no_descriptor_is_left_open(self, trial: Trial) -> None:
        """What a process keeps for good it has after the first round; each further one leaves nothing."""
        self._round(trial, 0)
        before = _descriptors()
        self._round(trial, 1)
        assert _descriptors() - before == set(), "left open"

    def test_no_process_is_left(self, trial: Trial) -> None:
        """Neither running, nor waiting to be asked how it ended."""
        before = _children()
        self._round(trial, 0)
        assert _children() - before == set(), "left running, or not waited for"

    def test_no_thread_is_left(self, trial: Trial) -> None:
        """None that the driver started."""
        before = set(threading.enumerate())
        self._round(trial, 0)
        assert set(threading.enumerate()) - before == set(), "left running"

    @staticmethod
    def _round(trial: Trial, number: int) -> None:
        """A disk's life, and a call that fails."""

        def broken(_target: Path, _progress: object) -> None:
            raise errors.SourceUnavailable("the source is down")

        image, size = trial.image(size=trial.small), trial.rounded(2 * trial.small)
        with trial.again() as on:
            disk: Any = on.made(image, f"round{number}", size)
            disk.info()
            disk.resize(trial.rounded(3 * trial.small))
            disk.extract(on.scratch / f"round{number}", "qcow2")
            if isinstance(disk, Snapshottable):
                disk.create_snap("kept")
                disk.rollback_to_snap("kept")
                disk.remove_snap("kept")
            if isinstance(disk, Flattenable):
                disk.flatten()
            disk.remove()
            other = trial.image(size=trial.small, seed=1).but(image_id=f"{trial.instance('down')}{number}")
            with pytest.raises(errors.SourceUnavailable):
                on.made(other.but(instead=broken), f"failed{number}")
            list(on.backend.list_disks())
            on.backend.capacity()
            on.backend.close()


def _descriptors() -> set[tuple[str, str]]:
    """Numbers, and what they are of."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed the folder
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


def _children() -> set[str]:
    """Ids and names of this process's children, dead ones too."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            head, _, tail = path.read_text().rpartition(")")
            if int(tail.split()[1]) == os.getpid():
                found.add(head)
    return found
