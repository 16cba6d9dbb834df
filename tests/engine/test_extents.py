"""What files take together: on file systems with reflinks each extent once, elsewhere what each takes."""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from imgbackend.system import extents, files
from imgbackend.types import Ki, Mi


def written(path: Path, size: int) -> Path:
    with files.new_file(path) as fd:
        os.write(fd, os.urandom(size))
        os.fsync(fd)
    return path


def cloned(source: Path, target: Path) -> Path:
    with files.open_fd(source, os.O_RDONLY) as one, files.new_file(target) as other:
        assert files.reflink(one, other)
        os.fsync(other)
    return target


def near(size: int, wanted: int) -> bool:
    """But for what a file system rounds up."""
    return wanted <= size <= wanted + 64 * Ki


def check(folder: Path) -> None:
    one = written(folder / "one", 4 * Mi)
    assert near(extents.exclusive(one), 4 * Mi)
    two, other = cloned(one, folder / "two"), written(folder / "other", Mi)
    assert extents.exclusive(one) <= 64 * Ki
    assert near(extents.together([one, two]), 4 * Mi)
    assert near(extents.together([one, two, other, folder / "gone"]), 5 * Mi)
    with files.open_fd(two, os.O_RDWR) as fd:
        os.pwrite(fd, os.urandom(2 * Mi), 0)
        os.fsync(fd)
    assert near(extents.exclusive(two), 2 * Mi)
    assert near(extents.together([one, two]), 6 * Mi)
    two.unlink()
    os.sync()
    assert near(extents.exclusive(one), 4 * Mi)


def test_reflinks_count_once_on_xfs(xfs: Path) -> None:
    check(xfs)


def test_reflinks_count_once_on_btrfs(btrfs: Path) -> None:
    check(btrfs)


def test_many_extents_are_all_seen(xfs: Path) -> None:
    with files.new_file(xfs / "one") as fd:
        for number in range(1200):
            os.pwrite(fd, b"x" * 4096, number * 8192)
        os.fsync(fd)
    two, three = (cloned(xfs / "one", xfs / name) for name in ("two", "three"))  # XFS gave the first more than it wrote
    assert near(extents.together([two, three]), 1200 * 4096)
    assert extents.exclusive(two) <= 64 * Ki


def test_file_system_without_extents_counts_blocks(tmp_path: Path) -> None:
    one = written(tmp_path / "one", Mi)
    os.truncate(one, 64 * Mi)
    assert near(extents.exclusive(one), Mi)
    assert near(extents.together([one, one.with_name("none")]), Mi)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12))
def test_overlapping_extents_cover_what_they_cover(found: list[tuple[int, int]]) -> None:
    covered = {at for start, length in found for at in range(start, start + length)}
    assert extents._covered([extents.SharedExtents(*each) for each in found]) == len(covered)


def test_file_that_may_not_be_read_counts_whole(tmp_path: Path) -> None:
    one = written(tmp_path / "one", Mi)
    one.chmod(0)
    tmp_path.chmod(0o711)
    program = (
        "import os; from pathlib import Path; from imgbackend.system import extents\n"
        "os.geteuid() or os.setuid(65534)\n"
        "print(extents.exclusive(Path('one')), extents.together([Path('one')]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(near(int(told), Mi) for told in done.stdout.split())
