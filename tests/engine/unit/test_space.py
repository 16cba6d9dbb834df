"""Promises of room: what is free, less what others have still to write."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.system import files
from imgbackend.system.locks import Locks
from imgbackend.system.space import Quota, Space
from imgbackend.types import Mi

MakeTmpfs = Callable[[int], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the promises; made by whoever makes the locks."""
    path = tmp_path / "locks"
    path.mkdir()
    return path


@pytest.fixture
def space(folder: Path) -> Space:
    return Space(folder, Locks(folder))


def test_a_promise_lasts_as_long_as_its_block(space: Space, folder: Path, small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(4 * Mi)
    with space.reserved(place / "a", 3 * Mi):
        assert len(list(folder.glob("*.reserved"))) == 1
    assert list(folder.glob("*.reserved")) == []
    with space.reserved(place / "b", 3 * Mi):
        pass


def test_two_promises_that_do_not_fit_together_are_not_both_given(space: Space, small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(4 * Mi)
    with space.reserved(place / "a", 3 * Mi):
        with pytest.raises(errors.StorageFull) as caught, space.reserved(place / "b", 2 * Mi):
            pytest.fail("it was promised")
        assert (caught.value.need, caught.value.have) == (2 * Mi, Mi)
        with space.reserved(place / "c", Mi):
            pass


def test_a_promise_counts_for_what_is_not_yet_written(space: Space, small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(4 * Mi)
    with space.reserved(place / "a", 3 * Mi):
        (place / "a").write_bytes(bytes(2 * Mi))  # 2 MiB are free, of which 1 is still promised
        with space.reserved(place / "b", Mi):
            pass
        with pytest.raises(errors.StorageFull), space.reserved(place / "b", Mi + 1):
            pytest.fail("it was promised")


def test_what_a_resumed_file_has_already_is_not_needed_again(space: Space, small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(4 * Mi)
    (place / "a").write_bytes(bytes(3 * Mi))
    with space.reserved(place / "a", 4 * Mi):
        pass


def test_promises_on_another_file_system_do_not_count(space: Space, small_tmpfs: MakeTmpfs) -> None:
    one, other = small_tmpfs(4 * Mi), small_tmpfs(4 * Mi)
    with space.reserved(one / "a", 3 * Mi), space.reserved(other / "a", 3 * Mi):
        pass


def test_a_size_that_is_not_known_promises_nothing(space: Space, folder: Path) -> None:
    with space.reserved(folder / "a", None):
        assert list(folder.iterdir()) == []


def test_the_promise_of_a_killed_process_is_forgotten(
    space: Space, folder: Path, small_tmpfs: MakeTmpfs, tmp_path: Path
) -> None:
    place = small_tmpfs(4 * Mi)
    program = f"""
import sys
from pathlib import Path
from imgbackend.system.locks import Locks
from imgbackend.system.space import Quota, Space
folder = Path({str(folder)!r})
with Space(folder, Locks(folder)).reserved(Path({str(place / "a")!r}), {3 * Mi}):
    print("promised", flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"promised\n"
    with pytest.raises(errors.StorageFull), space.reserved(place / "b", 3 * Mi):
        pytest.fail("it was promised")
    child.kill()
    child.communicate()
    with space.reserved(place / "b", 3 * Mi):
        assert len(list(folder.glob("*.reserved"))) == 1  # the dead one's is gone


@pytest.mark.parametrize("changed", [{"boot": "another"}, {"started": "1"}])
def test_a_number_that_another_process_has_now_promises_nothing(
    space: Space, folder: Path, small_tmpfs: MakeTmpfs, changed: dict[str, str]
) -> None:
    """After a reboot, or when process numbers came round, an old note names a stranger."""
    place = small_tmpfs(4 * Mi)
    with space.reserved(place / "a", 3 * Mi):
        [note] = folder.glob("*.reserved")
        told = json.loads(note.read_text())
    (folder / "old.reserved").write_text(json.dumps({**told, **changed}))
    with space.reserved(place / "b", 3 * Mi):
        pass
    assert not (folder / "old.reserved").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"pid": 1}'])
def test_a_broken_note_hurts_nobody(space: Space, folder: Path, tmp_path: Path, content: str) -> None:
    (folder / "broken.reserved").write_text(content)
    with space.reserved(tmp_path / "a", 1):
        pass


def test_free_is_what_an_ordinary_user_may_fill(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert files.free_bytes(tmp_path) <= status.f_bfree * status.f_frsize


def test_a_quota_counts_the_files_of_its_folder_and_what_is_promised_there(space: Space, tmp_path: Path) -> None:
    bases = tmp_path / "_base"
    bases.mkdir()
    (bases / "a").write_bytes(bytes(Mi))
    (bases / "below").mkdir()
    (bases / "below" / "b").write_bytes(bytes(Mi))
    quota = Quota(folder=bases, max_size=4 * Mi)
    with space.reserved(bases / "c", 2 * Mi, quota), space.reserved(tmp_path / "disk", 9 * Mi):
        with pytest.raises(errors.StorageFull, match="max_size") as caught, space.reserved(bases / "d", 3 * Mi, quota):
            pytest.fail("it was promised")
        assert (caught.value.need, caught.value.have, caught.value.short) == (3 * Mi, Mi, 2 * Mi)
        (bases / "c").write_bytes(bytes(2 * Mi))
        with space.reserved(bases / "d", Mi, quota):
            pass
    with space.reserved(bases / "d", 3 * Mi, Quota(folder=bases, max_size=4 * Mi, without=frozenset({"a", "c"}))):
        pass


def test_what_exceeds_a_quota_already_is_told_as_short(space: Space, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3 * Mi))
    quota = Quota(folder=tmp_path, max_size=Mi)
    with pytest.raises(errors.StorageFull) as caught, space.reserved(tmp_path / "b", Mi, quota):
        pytest.fail("it was promised")
    assert (caught.value.need, caught.value.have, caught.value.short) == (Mi, 0, 3 * Mi)


def test_min_free_is_left_to_others(space: Space, small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(4 * Mi)
    with (
        pytest.raises(errors.StorageFull, match="min_free"),
        space.reserved(place / "a", 3 * Mi, Quota(folder=place, min_free=2 * Mi)),
    ):
        pytest.fail("it was promised")
    with space.reserved(place / "a", 2 * Mi, Quota(folder=place, min_free=2 * Mi)):
        pass


def noted(folder: Path) -> int:
    """Bytes that are promised."""
    [note] = folder.glob("*.reserved")
    return int(json.loads(note.read_text())["bytes"])


def test_promise_for_what_nobody_knows_the_size_of_grows_with_it(
    space: Space, folder: Path, small_tmpfs: MakeTmpfs
) -> None:
    place = small_tmpfs(64 * Mi)
    with space.growing(place / "a") as grow:
        grow()
        assert list(folder.glob("*.reserved")) == []
        with (place / "a").open("wb") as file:
            for megabytes in range(1, 33):
                file.write(bytes(Mi))
                file.flush()
                grow()
                assert megabytes * Mi <= noted(folder) <= max(megabytes * Mi * 9 // 8, (megabytes + 1) * Mi)
        with pytest.raises(errors.StorageFull), space.reserved(place / "b", 32 * Mi):
            pytest.fail("what is promised to the other was promised again")
    assert list(folder.glob("*.reserved")) == []


def test_promise_that_grows_takes_all_the_room_there_is_and_no_more(space: Space, small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(8 * Mi)
    with space.growing(place / "a", Quota(folder=place, min_free=4 * Mi)) as grow:
        (place / "a").write_bytes(bytes(4 * Mi - 4096))
        grow()
        (place / "a").write_bytes(bytes(4 * Mi + 8192))
        with pytest.raises(errors.StorageFull, match="min_free") as caught:
            grow()
        assert caught.value.short == 8192
        (place / "ballast").write_bytes(bytes(Mi))
        (place / "a").write_bytes(bytes(Mi))
        grow()


def test_promise_that_grows_reaches_no_bytes_that_others_were_promised(space: Space, small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(8 * Mi)
    with space.reserved(place / "other", 6 * Mi), space.growing(place / "a") as grow:
        (place / "a").write_bytes(bytes(Mi))
        grow()
        (place / "a").write_bytes(bytes(2 * Mi + 4096))
        with pytest.raises(errors.StorageFull):
            grow()
