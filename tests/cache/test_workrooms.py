"""Folders in which snapshots were worked on are leftovers where their maker was killed, and only there."""

import functools
import os
import time
from pathlib import Path

import pytest

from cache.conftest import HOUR
from cache.test_leftovers import looked
from imgbackend import Engine
from imgbackend.guest import snapshots
from imgbackend.testing.children import Child
from imgbackend.types import Mi
from labs.engines import MakeEngine

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """Of the host ``here``."""
    made = make_engine({"images_type": "qcow2", "host": "here"})
    (made.host.instances / "snapshots").mkdir()
    return made


def _die_at_work(folder: Path, host: str) -> None:
    with snapshots.room(folder, "web1", host) as path:
        (path / "disk.raw").write_bytes(b"x" * Mi)
        os.kill(os.getpid(), 9)


def killed(folder: Path, host: str = "here") -> Path:
    """What a process left that was killed just now."""
    assert Child(functools.partial(_die_at_work, folder, host), watched=False).outcome().killed
    [left] = [each.path for each in snapshots.rooms(folder) if each.host == host]
    return left


def test_folder_of_a_killed_snapshot_is_listed_with_its_size_and_goes(engine: Engine) -> None:
    path = killed(engine.host.instances / "snapshots")
    name = f"snapshots/{path.name}"
    left = looked(engine)[name]
    assert (left.kind, left.store, left.dead, left.removed) == ("snapshot", None, True, False)
    assert Mi <= left.size < 2 * Mi
    assert abs(time.time() - left.time) < 600
    assert path.exists()
    done = engine.cache.prune()
    assert [(each.name, each.removed) for each in done.leftovers] == [(name, True)]
    assert not path.exists()


def test_folder_in_which_somebody_works_stays_however_old_it_looks(engine: Engine) -> None:
    with snapshots.room(engine.host.instances / "snapshots", "web1", "here") as path:
        os.utime(path, (0, 0))
        left = looked(engine, remove=True)[f"snapshots/{path.name}"]
        assert not left.dead
        assert "lock is held" in left.reason
        assert path.exists()


def test_folder_of_another_host_stays_until_nothing_in_it_has_changed_for_its_lease(engine: Engine) -> None:
    path = killed(engine.host.instances / "snapshots", "there")
    then = time.time() - 2 * HOUR
    os.utime(path, (then, then))
    left = looked(engine, remove=True)[f"snapshots/{path.name}"]
    assert not left.dead, "what is in it was written just now"
    assert "there" in left.reason
    os.utime(path / "disk.raw", (then, then))
    assert looked(engine, remove=True)[f"snapshots/{path.name}"].removed
    assert not path.exists()


def test_folders_that_are_not_ours_stay(engine: Engine, tmp_path: Path) -> None:
    folder = engine.host.instances / "snapshots"
    for name in ("tmpx1y2", "imgbackend-web1", "imgbackend-web1@here", f"imgbackend-web1@here@{'0' * 15}"):
        (folder / name).mkdir()
        os.utime(folder / name, (0, 0))
    (tmp_path / "theirs").mkdir()
    (folder / f"imgbackend-web1@here@{'0' * 16}").symlink_to(tmp_path / "theirs")
    (folder / f"imgbackend-web1@here@{'1' * 16}").write_text("no folder")
    before = sorted(os.listdir(folder))
    assert looked(engine, remove=True) == {}
    assert sorted(os.listdir(folder)) == before
    assert (tmp_path / "theirs").exists()


def test_folder_of_snapshots_elsewhere_is_looked_into(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine({"host": "here", "libvirt.snapshots_directory": str(tmp_path / "big")})
    assert looked(engine) == {}
    path = killed(tmp_path / "big")
    assert looked(engine, remove=True)[str(path)].removed
    assert not path.exists()


def test_folder_of_snapshots_that_cannot_be_so_is_told_and_the_rest_goes(make_engine: MakeEngine) -> None:
    engine = make_engine({"libvirt.snapshots_directory": "$instances_path/web1"})
    part = engine.host.bases / f"{'a' * 40}.part"
    part.parent.mkdir(parents=True)
    part.write_text("left")
    os.utime(part, (0, 0))
    found = engine.cache.leftovers(remove=True)
    assert any("snapshots_directory" in line for line in found.unknown)
    assert not part.exists()
