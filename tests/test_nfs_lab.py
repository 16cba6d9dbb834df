"""Tests that need NFS, run inside its lab; and the lab itself, from outside.

By hand, at the root: ``tests/labs/nfs-lab.sh .venv/bin/python -m pytest tests/nfs -k ...``
"""

from pathlib import Path
from typing import Final

import pytest

from labs.inside import Machine
from labs.require import FULL

_LAB: Final = Machine(name="nfs", seconds=2400 if FULL else 600)

pytestmark = pytest.mark.slow


def test_inside_the_lab(tmp_path: Path) -> None:
    _LAB.run_pytest(tmp_path, "-m", "nfs", "tests/nfs")


def test_every_test_for_the_lab_is_in_its_folder() -> None:
    assert sorted(_LAB.collected("tests/nfs")) == sorted(_LAB.collected("tests"))


def test_two_mounts_show_one_folder_and_have_caches_of_their_own(tmp_path: Path) -> None:
    command = "echo one >$NFS_A/file; cat $NFS_B/file; stat -fc %T $NFS_A; grep -c nosharecache /proc/mounts; exit 42"
    done = _LAB.run(tmp_path, "sh", "-c", command, seconds=60)
    assert (done.returncode, done.stdout, done.stderr) == (42, "one\nnfs\n2\n", "")


@pytest.mark.parametrize(("option", "owner"), [([], "0"), (["--root-squash"], "65534")], ids=["root", "squashed"])
def test_root_is_nobody_only_where_it_is_squashed(option: list[str], owner: str, tmp_path: Path) -> None:
    done = _LAB.run(tmp_path, *option, "sh", "-c", "touch $NFS_A/file; stat -c %u $NFS_B/file", seconds=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{owner}\n", "")
