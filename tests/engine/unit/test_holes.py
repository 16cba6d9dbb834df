"""Holes of files: told by the file system, or found by reading where it cannot tell."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine
from imgbackend.system import files, holes
from imgbackend.types import Ki, Mi
from labs.images import sparse_raw
from labs.templates import Template

LAYOUTS = {
    "empty": (0, {}, []),
    "one byte": (1, {0: b"x"}, [(0, 1)]),
    "zeroes": (3 * Mi, {}, []),
    "data": (3 * Mi, {0: b"x" * 3 * Mi}, [(0, 3 * Mi)]),
    "long data": (20 * Mi, {0: b"x" * 20 * Mi}, [(0, 8 * Mi), (8 * Mi, 16 * Mi), (16 * Mi, 20 * Mi)]),
    "both ends": (3 * Mi, {0: b"a", 3 * Mi - 1: b"z"}, [(0, 64 * Ki), (3 * Mi - 64 * Ki, 3 * Mi)]),
    "across steps": (3 * Mi, {Mi - 1: b"ab"}, [(Mi - 64 * Ki, Mi + 64 * Ki)]),
    "odd length": (Mi + 777, {Mi: b"y" * 777}, [(Mi, Mi + 777)]),
}


@pytest.fixture
def no_holes_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """lseek(2) as file systems answer that know of no holes: the kernel's generic_file_llseek."""
    real = os.lseek

    def lseek(fd: int, at: int, whence: int) -> int:
        if whence == os.SEEK_DATA:
            return real(fd, at, os.SEEK_SET)
        return os.fstat(fd).st_size if whence == os.SEEK_HOLE else real(fd, at, whence)

    monkeypatch.setattr(os, "lseek", lseek)
    monkeypatch.setattr(holes, "_tellers", {})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_is_found_by_reading_where_no_hole_is_told(layout: str, tmp_path: Path, no_holes_told: None) -> None:
    size, data, expected = LAYOUTS[layout]
    path = sparse_raw(tmp_path / "file", size, data=data)
    with files.open_fd(path, os.O_RDONLY) as fd:
        assert list(files.data_ranges(fd, size)) == expected


def test_copy_has_the_bytes_and_takes_no_room_for_zeroes_where_no_hole_is_told(
    tmp_path: Path, no_holes_told: None
) -> None:
    source = sparse_raw(tmp_path / "source", 8 * Mi, data={Mi: b"data", 6 * Mi: b"more"})
    with files.open_fd(source, os.O_RDONLY) as one, files.new_file(tmp_path / "target") as other:
        files.copy(one, other)
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert files.allocated(tmp_path / "target") <= 128 * Ki


def test_raw_disk_is_sparse_where_no_hole_is_told(
    make_engine: Callable[..., Engine], raw_image: Template, no_holes_told: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "can_reflink", lambda *_, **__: False)
    engine = make_engine({"images_type": "raw"})
    engine.disk("web1").cache(raw_image, raw_image.name, None)
    path = engine.host.instances / "web1/disk"
    assert path.read_bytes() == raw_image.content.read_bytes()
    assert files.allocated(path) < path.stat().st_size // 2


def test_copy_of_a_file_that_becomes_shorter_is_an_error_where_no_hole_is_told(
    tmp_path: Path, no_holes_told: None
) -> None:
    source = sparse_raw(tmp_path / "source", 8 * Mi, data={0: b"x", 6 * Mi: b"x"})

    def shorten(*_: object) -> None:
        os.truncate(source, 2 * Mi)

    with (
        files.open_fd(source, os.O_RDONLY) as one,
        files.new_file(tmp_path / "target") as other,
        pytest.raises(OSError, match="shorter"),
    ):
        files.copy(one, other, shorten)


def test_file_system_is_tried_once_and_a_sparse_file_needs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes, "_tellers", {})
    tried: list[Any] = []
    real = tempfile.TemporaryFile

    def temporary_file(**options: Any) -> object:
        tried.append(options)
        return real(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    sparse = sparse_raw(tmp_path / "sparse", Mi, data={0: b"x"})
    full = sparse_raw(tmp_path / "full", Mi, data={0: b"x" * Mi})
    for path, trials in ((sparse, 0), (full, 1), (full, 1)):
        with files.open_fd(path, os.O_RDONLY) as fd:
            list(files.data_ranges(fd, Mi))
        assert len(tried) == trials
    assert list(holes._tellers.values()) == [True]


def test_what_is_told_is_believed_where_no_file_can_be_made(
    tmp_path: Path, no_holes_told: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    path = sparse_raw(tmp_path / "file", Mi, data={0: b"x"})
    with files.open_fd(path, os.O_RDONLY) as fd:
        assert list(files.data_ranges(fd, Mi)) == [(0, Mi)]
