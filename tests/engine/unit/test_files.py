"""Copies that keep holes, shared blocks where the file system has them, and files that appear whole."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.system import files
from imgbackend.types import Ki, Mi, Progress, ignore
from labs.images import sparse_raw

MakeTmpfs = Callable[[int], Path]
LAYOUTS = {
    "empty": (0, {}),
    "one byte": (1, {0: b"x"}),
    "all data": (3 * Mi, {0: os.urandom(3 * Mi)}),
    "all hole": (3 * Mi, {}),
    "hole, data, hole": (3 * Mi, {Mi: b"data" * 1024}),
    "data at both ends": (3 * Mi, {0: b"a" * 4096, 3 * Mi - 4096: b"z" * 4096}),
    "odd length": (Mi + 777, {Mi: b"y" * 777}),
}


@pytest.fixture(params=list(LAYOUTS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    size, data = LAYOUTS[request.param]
    return sparse_raw(tmp_path / "source", size, data=data)


def copied(source: Path, target: Path, progress: Progress = ignore) -> list[tuple[str, int, int | None]]:
    """Copies, and what progress was told."""
    told: list[tuple[str, int, int | None]] = []

    def tell(phase: str, done: int, total: int | None) -> None:
        told.append((phase, done, total))
        progress(phase, done, total)

    with files.open_fd(source, os.O_RDONLY) as one, files.new_file(target) as other:
        files.copy(one, other, tell)
    return told


def assert_same(source: Path, target: Path) -> None:
    assert target.read_bytes() == source.read_bytes()
    assert files.allocated(target) <= files.allocated(source) + 64 * Ki


def test_copy_has_the_bytes_and_the_holes(source: Path, tmp_path: Path) -> None:
    told = copied(source, tmp_path / "target")
    assert_same(source, tmp_path / "target")
    size = source.stat().st_size
    assert told[-1] == ("copy", size, size)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_copy_goes_on_by_hand_where_the_kernel_cannot(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object) -> int:
        raise OSError(code, "not here")

    monkeypatch.setattr(os, "copy_file_range", refused)
    copied(source, tmp_path / "target")
    assert_same(source, tmp_path / "target")


def test_copy_crosses_file_systems(source: Path, small_tmpfs: MakeTmpfs) -> None:
    target = small_tmpfs(8 * Mi) / "target"
    copied(source, target)
    assert_same(source, target)


def test_copy_takes_short_steps_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.copy_file_range
    monkeypatch.setattr(os, "copy_file_range", lambda a, b, count, *at: real(a, b, min(count, 1000), *at))
    source = sparse_raw(tmp_path / "source", 64 * Ki, data={0: os.urandom(10_000)})
    copied(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_copy_of_a_file_that_becomes_shorter_is_an_error_not_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sparse_raw(tmp_path / "source", 64 * Ki, data={0: os.urandom(64 * Ki)})
    monkeypatch.setattr(files, "STEP", 4 * Ki)
    with pytest.raises(OSError, match="shorter"):
        copied(source, tmp_path / "target", lambda *_: os.truncate(source, 4 * Ki))


@pytest.mark.parametrize("by_hand", [False, True])
def test_copy_that_finds_no_room_says_need_and_have(
    tmp_path: Path, small_tmpfs: MakeTmpfs, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    if by_hand:
        monkeypatch.setattr(files, "_copy_in_kernel", lambda *_: None)
    source = sparse_raw(tmp_path / "source", 8 * Mi, data={0: os.urandom(2 * Mi)})
    place = small_tmpfs(Mi)
    with pytest.raises(errors.StorageFull) as caught:
        copied(source, place / "target")
    assert caught.value.where == str(place)
    assert caught.value.need == files.allocated(source)
    assert caught.value.have is not None


def test_progress_that_raises_ends_a_copy(tmp_path: Path) -> None:
    source = sparse_raw(tmp_path / "source", Mi, data={0: b"x"})

    def cancel(*_: object) -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        copied(source, tmp_path / "target", cancel)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_reflink_shares_all_blocks_and_writes_are_apart(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    source = sparse_raw(folder / "source", 4 * Mi, data={0: os.urandom(2 * Mi)})
    with files.open_fd(source, os.O_RDONLY) as one, files.new_file(folder / "target") as other:
        assert files.reflink(one, other) is True
        os.pwrite(other, b"written", 0)
    assert (folder / "target").read_bytes()[:7] == b"written"
    assert source.read_bytes()[7:] == (folder / "target").read_bytes()[7:]
    assert source.read_bytes()[:7] != b"written"


def test_reflink_across_file_systems_is_no_error(tmp_path: Path, small_tmpfs: MakeTmpfs) -> None:
    source = sparse_raw(tmp_path / "source", Mi, data={0: b"x"})
    with files.open_fd(source, os.O_RDONLY) as one, files.new_file(small_tmpfs(Mi) / "target") as other:
        assert files.reflink(one, other) is False


def test_reflinks_are_told_beforehand(tmp_path: Path, btrfs: Path, small_tmpfs: MakeTmpfs) -> None:
    """Between the two folders that are asked about, or those above them that are there."""
    elsewhere = small_tmpfs(Mi)
    assert files.can_reflink(btrfs / "to be made")
    assert files.can_reflink(btrfs, into=btrfs / "to be made")
    assert not files.can_reflink(btrfs, into=elsewhere)
    assert not files.can_reflink(elsewhere)


def test_full_file_system_is_not_taken_for_one_that_cannot_reflink(small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(Mi)
    with pytest.raises(OSError, match="No space"):
        (place / "all").write_bytes(bytes(2 * Mi))
    with pytest.raises(OSError, match="No space"):
        files.can_reflink(place)


def test_exchange_lets_two_folders_trade_places(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    files.exchange(tmp_path / "one", tmp_path / "other")
    assert [(tmp_path / name / "file").read_text() for name in ("one", "other")] == ["other", "one"]


def test_exchange_with_nothing_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("one")
    with pytest.raises(FileNotFoundError, match="other"):
        files.exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one").read_text() == "one"


def test_new_file_is_another_one_than_what_had_its_name(tmp_path: Path) -> None:
    """A process of a killed run may still write to the old one."""
    path = tmp_path / "disk.part"
    path.write_bytes(b"old")
    with path.open("r+b") as orphan:
        with files.new_file(path) as fd:
            orphan.write(b"late")
            orphan.flush()
            assert os.fstat(fd).st_size == 0
        assert path.read_bytes() == b""


def test_new_file_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "disk.part").symlink_to(tmp_path / "secret")
    with files.new_file(tmp_path / "disk.part") as fd:
        os.write(fd, b"new")
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_new_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        with files.new_file(tmp_path / "file", 0o640) as fd:
            assert os.fstat(fd).st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_write_whole_writes_all_of_it_though_the_kernel_takes_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:10]))
    files.write_whole(tmp_path / "file", b"0123456789" * 10)
    assert (tmp_path / "file").read_bytes() == b"0123456789" * 10


def test_write_whole_on_a_full_file_system_keeps_the_old_file_and_leaves_no_other(small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(64 * Ki)
    files.write_whole(place / "file", b"old")
    while files.free_bytes(place):
        with (place / "filler").open("ab", buffering=0) as filler:
            filler.write(bytes(4096))
    with pytest.raises(OSError, match="No space"):
        files.write_whole(place / "file", b"new" * 4096)
    assert (place / "file").read_bytes() == b"old"
    assert sorted(path.name for path in place.iterdir()) == ["file", "filler"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, errors.StorageFull),
        (errno.EDQUOT, errors.StorageFull),
        (errno.EACCES, errors.ConfigError),
        (errno.EROFS, errors.ConfigError),
        (errno.EIO, errors.StorageUnavailable),
        (errno.ESTALE, errors.StorageUnavailable),
        (errno.ENOTCONN, errors.StorageUnavailable),
        (errno.ECONNABORTED, errors.StorageUnavailable),
        (errno.ESHUTDOWN, errors.StorageUnavailable),
        (errno.EHOSTDOWN, errors.StorageUnavailable),
        (errno.ELOOP, errors.StorageError),
    ],
)
def test_an_os_error_says_who_can_act(tmp_path: Path, code: int, kind: type[errors.Error]) -> None:
    found = files.as_error(OSError(code, os.strerror(code), str(tmp_path / "x")), tmp_path)
    assert type(found) is kind
    assert str(tmp_path) in str(found)
    assert "\n" not in str(found)


def test_error_names_a_file_as_people_write_it(tmp_path: Path) -> None:
    """Who opens files by bytes gets them back in the error."""
    for name in (str(tmp_path / "x"), os.fsencode(tmp_path / "x")):
        assert str(files.as_error(OSError(13, "Permission denied", name), tmp_path)).startswith(f"{tmp_path}/x: ")


@pytest.mark.parametrize("size", [0, 1, (64 << 10) - 1, 64 << 10, 200_001])
def test_content_is_all_that_is_in_a_file(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert files.content(tmp_path / "file") == data
