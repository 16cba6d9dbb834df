"""The steps that the kit sees, each the way a driver would take it."""

import errno
import io
import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.system import files
from imgbackend.testing import children
from imgbackend.testing.children import Child, fail, run, stop
from labs import leaks


def _names(operation: Callable[[], object], *, reads: bool = False) -> list[str]:
    return [f"{step.name} {Path(step.path).name}".strip() for step in children.seen(operation, reads=reads)]


def test_system_call_by_way_of_c_is_seen(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    seen = _names(lambda: files.exchange(tmp_path / "one", tmp_path / "other"))
    assert seen == ["ctypes renameat2", f"os.fsync {tmp_path.name}"]


def test_name_in_an_open_folder_is_told_whole(tmp_path: Path) -> None:
    """``shutil.rmtree`` removes so, and what tells whose file a step is of is the path."""
    (tmp_path / "folder").mkdir()

    def work() -> None:
        with files.open_fd(tmp_path / "folder", os.O_RDONLY | os.O_DIRECTORY) as folder:
            os.mkdir("a", dir_fd=folder)
            os.rename("a", "b", src_dir_fd=folder, dst_dir_fd=folder)
            os.rmdir("b", dir_fd=folder)

    told = [(step.path, step.to) for step in children.seen(work)]
    a, b = str(tmp_path / "folder/a"), str(tmp_path / "folder/b")
    assert told == [(a, ""), (a, b), (b, "")]


def test_every_way_to_change_a_file_is_seen(tmp_path: Path) -> None:
    def work() -> None:
        path = tmp_path / "a"
        path.write_text("text")
        with path.open("r+b", buffering=0) as file:
            file.write(b"raw")
            file.truncate(2)
        with io.open(path, "ab") as file, open(path, "rb") as read:  # noqa: UP020 - both names are seen
            file.write(read.read())
        fd = os.open(path, os.O_RDWR)
        os.write(fd, b"x")
        os.pwrite(fd, b"x", 1)
        os.posix_fallocate(fd, 0, 10)
        os.ftruncate(fd, 5)
        os.fsync(fd)
        os.close(fd)
        os.chmod(path, 0o600)
        os.link(path, tmp_path / "b")
        path.rename(tmp_path / "c")
        (tmp_path / "c").unlink()
        (tmp_path / "d").mkdir()
        (tmp_path / "d").rmdir()
        subprocess.run(["true"], check=True)

    assert _names(work) == [
        "open a",
        "file.write a",
        "open a",
        "file.write a",
        "file.truncate a",
        "open a",
        "file.write a",
        "open a",
        "os.write a",
        "os.pwrite a",
        "os.posix_fallocate a",
        "os.truncate a",
        "os.fsync a",
        "os.chmod a",
        "os.link a",
        "os.rename a",
        "os.remove c",
        "os.mkdir d",
        "os.rmdir d",
        "subprocess.Popen true",
    ]
    assert sorted(os.listdir(tmp_path)) == ["b"]
    assert (tmp_path / "b").stat().st_size == 5


def test_looking_is_seen_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.touch()
    assert _names(path.exists) == []
    assert _names(path.exists, reads=True) == ["os.stat a"]
    assert _names(path.read_bytes, reads=True) == ["open a"]
    assert _names(lambda: os.listdir(tmp_path), reads=True) == [f"os.listdir {tmp_path.name}"]


def test_file_is_written_as_it_would_be_unwatched(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        with (folder / "text").open("w", encoding="utf-8", newline="\n") as text:
            print("één", "lines" * 5000, sep="\n", file=text)
        with (folder / "both").open("w+b") as both:
            both.write(b"0123456789" * 1000)
            both.seek(5)
            both.write(both.read(3))
            both.seek(0)
            (folder / "copy").write_bytes(both.read())

    for name in ("watched", "unwatched"):
        (tmp_path / name).mkdir()
    assert run(lambda: work(tmp_path / "watched")).error is None
    work(tmp_path / "unwatched")
    for name in ("text", "both", "copy"):
        assert (tmp_path / "watched" / name).read_bytes() == (tmp_path / "unwatched" / name).read_bytes()


def test_child_is_killed_before_the_step(tmp_path: Path) -> None:
    def work() -> None:
        for number in range(5):
            (tmp_path / str(number)).mkdir()

    outcome = run(work, 3)
    assert outcome.killed
    assert [step.name for step in outcome.steps] == ["os.mkdir"] * 4
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_step_fails_with_the_error_that_is_asked_for(tmp_path: Path, number: int) -> None:
    def work() -> None:
        try:
            (tmp_path / "a").write_bytes(b"x")
            (tmp_path / "a").rename(tmp_path / "b")
        except OSError as exc:
            raise errors.StorageError(errno.errorcode[exc.errno or 0]) from exc

    outcome = run(work, number, fail(errno.ENOSPC))
    assert (outcome.killed, outcome.ours, outcome.caused) == (False, True, True)
    assert "ENOSPC" in (outcome.error or "")
    assert not (tmp_path / "b").exists()


def test_error_that_is_not_ours_is_told_so() -> None:
    outcome = run(lambda: [][1])
    assert outcome.error is not None
    assert outcome.error.startswith("IndexError")
    assert not outcome.ours


def test_child_is_stopped_and_goes_on(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a").rename(tmp_path / "b")

    child = Child(work, 1, stop)
    try:
        assert child.stopped()
        assert os.listdir(tmp_path) == ["a"]
    finally:
        child.go_on()
        assert child.outcome().error is None
    assert os.listdir(tmp_path) == ["b"]


def test_calls_of_a_library_in_c_are_steps(tmp_path: Path) -> None:
    """And it works as before: sqlite3 stands for a storage's own library."""
    path = tmp_path / "store"

    def work() -> None:
        with sqlite3.connect(path) as store:
            store.execute("create table disks (name text)")
            store.execute("insert into disks values ('a')")
        try:
            store.execute("no statement")
        except sqlite3.OperationalError:
            store.close()

    seen = run(work, libraries=["sqlite3"])
    assert seen.error is None
    told = [step.name for step in seen.steps if step.name.startswith("sqlite3")]
    assert told == ["sqlite3.connect", *["sqlite3.connect.execute"] * 3, "sqlite3.connect.close"]
    with sqlite3.connect(path) as store:
        assert store.execute("select * from disks").fetchall() == [("a",)]
    store.close()
    path.unlink()
    assert run(work, 2, libraries=["sqlite3"]).killed


def test_children_leave_nothing() -> None:
    before = leaks.Held.now()
    for number in (None, 0):
        run(lambda: subprocess.run(["true"], check=True), number)
    assert leaks.left_since(before) == []
