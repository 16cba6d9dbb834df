"""The time of a file system, whatever a host's clock says."""

import os
import time
from pathlib import Path

import pytest

from imgbackend.system import clock
from imgbackend.system.clock import FileSystemClock, file_system_now


def test_now_is_what_a_new_file_gets(tmp_path: Path) -> None:
    before = file_system_now(tmp_path)
    (tmp_path / "new").touch()
    after = file_system_now(tmp_path)
    assert before <= (tmp_path / "new").stat().st_mtime <= after


def test_clock_goes_on_between_two_measurements_and_touches_no_folder_meanwhile(tmp_path: Path) -> None:
    tell = FileSystemClock(tmp_path)
    first = tell()
    os.utime(tmp_path, (1, 1))
    time.sleep(0.05)
    assert 0.04 < tell() - first < 5
    assert tmp_path.stat().st_mtime == 1


def test_clock_of_a_folder_that_is_not_there_is_that_of_the_next_and_at_last_of_this_host(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir()
    os.utime(tmp_path / "locks", (1, 1))
    FileSystemClock(tmp_path / "none", tmp_path / "locks")()
    assert (tmp_path / "locks").stat().st_mtime > 1
    assert abs(FileSystemClock(tmp_path / "none")() - time.time()) < 60


def test_where_the_time_cannot_be_had_all_is_taken_to_be_young(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that is too full even for that tells a time that was, and removes nothing too early."""

    def refused(_folder: Path) -> float:
        raise OSError(28, "No space left on device")

    os.utime(tmp_path, (1000, 1000))
    monkeypatch.setattr(clock, "file_system_now", refused)
    assert abs(FileSystemClock(tmp_path)() - 1000) < 60
