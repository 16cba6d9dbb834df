"""Snapshots that are worked on: in a folder of their own, which a kill does not fill, and which is no instance."""

import functools
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.guest import snapshots
from imgbackend.guest.hypervisor import DomainState
from imgbackend.testing import children
from imgbackend.types import Mi
from labs.images import same_for_guest
from labs.libvirt import Guests


def test_snapshot_of_an_instance_is_whole_and_goes_at_the_end(guests: Guests) -> None:
    instances = guests.instances()
    instances.spawn(guests.spec(swap=Mi))
    with pytest.raises(errors.InstanceError, match="runs; stop it first"), instances.snapshot(guests.name()):
        pass
    instances.stop(guests.name(), seconds=0)
    folder = guests.instances_path / "snapshots"
    with instances.snapshot(guests.name(), "raw") as path:
        assert path.is_relative_to(folder)
        assert [stat.S_IMODE(each.stat().st_mode) for each in (folder, path.parent)] == [0o700, 0o700]
        assert same_for_guest(path, "raw", guests.instances_path / guests.name() / "disk", "qcow2")
        with Engine.from_config([], guests.options()) as other:
            assert guests.name() in {each.id for each in other.instances.list()}
            assert "snapshots" not in {each.id for each in other.instances.list()}
            assert {disk.id.instance for disk in other.disks()} == {guests.name()}
            with pytest.raises(errors.ConfigError, match="not a name for an instance"):
                other.instances.destroy("snapshots")
        assert path.exists()
    assert list(folder.iterdir()) == []
    with pytest.raises(errors.DiskError), instances.snapshot(guests.name(), "vmdk"):
        pass
    with pytest.raises(errors.DiskNotFound), instances.snapshot(guests.name(), disk="disk.local"):
        pass
    assert list(folder.iterdir()) == []
    instances.destroy(guests.name())
    assert guests.left() == {"snapshots"}


def _work(folder: Path) -> None:
    with snapshots.room(folder, "web1", "here") as path:
        (path / "disk.raw").write_bytes(b"half")
        (path / "disk.raw").rename(path / "whole.raw")


def test_what_a_killed_process_left_goes_with_the_next_snapshot(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    folder.mkdir()
    work = functools.partial(_work, folder)
    count = len(children.seen(work))
    assert count == 6
    for point in range(count):
        assert children.run(work, point).killed
        with snapshots.room(folder, "web2", "here") as path:
            assert list(folder.iterdir()) == [path], f"killed before step {point}"
        assert list(folder.iterdir()) == []


def test_work_of_others_is_left_alone(tmp_path: Path) -> None:
    novas = tmp_path / "tmpx1y2"
    novas.mkdir()
    (novas / "delta").touch()
    target = tmp_path / "elsewhere"
    target.mkdir()
    link = f"imgbackend-web1@here@{'0' * 16}"
    (tmp_path / link).symlink_to(target)
    with snapshots.room(tmp_path, "web1", "here") as one:
        (one / "disk").touch()
        with snapshots.room(tmp_path, "web1", "here") as other:
            assert other != one
        child = children.Child(functools.partial(snapshots.sweep, tmp_path, "here"), watched=False)
        assert child.outcome().error is None
        assert (one / "disk").exists()
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", link, "tmpx1y2"]
    assert (novas / "delta").exists()


def test_work_of_another_host_is_left_alone_though_its_lock_does_not_reach_here(tmp_path: Path) -> None:
    """NFS locks no folders: each host sees its own locks only."""
    theirs = tmp_path / f"imgbackend-web1@there@{'0' * 16}"
    namesakes = tmp_path / f"imgbackend-web1@here@{'0' * 16}"
    for each in (theirs, namesakes):
        each.mkdir()
    with snapshots.room(tmp_path, "web1", "here") as path:
        assert path.name.startswith("imgbackend-web1@here@")
        assert {each.host for each in snapshots.rooms(tmp_path)} == {"here", "there"}
    snapshots.sweep(tmp_path, "here")
    assert sorted(tmp_path.iterdir()) == [namesakes, theirs]


@pytest.mark.parametrize("host", ["node-1.example.org", "a@b", "a/b", "é"])
def test_host_of_any_name_knows_its_own(tmp_path: Path, host: str) -> None:
    with snapshots.room(tmp_path, "web-1.2", host):
        assert [each.host for each in snapshots.rooms(tmp_path)] == [host]


@pytest.mark.parametrize("folder", ["$instances_path", "$instances_path/web1", "$instances_path/_base"])
def test_folder_that_could_be_an_instances_is_refused(tmp_path: Path, folder: str) -> None:
    options = {"instances_path": str(tmp_path), "libvirt.snapshots_directory": folder}
    with Engine.from_config([], options) as engine, pytest.raises(errors.ConfigError, match="among the instances"):
        _ = engine.instances


def test_instance_is_not_started_while_a_snapshot_of_it_is_taken(guests: Guests) -> None:
    """Also where its storage has no lock of its own that keeps a guest off."""
    instances = guests.instances()
    instances.spawn(guests.spec())
    instances.stop(guests.name(), seconds=0)

    class Waiting(Exception):
        pass

    def give_up(phase: str, _done: int, _total: int | None) -> None:
        if phase == "wait":
            raise Waiting

    raised: list[BaseException | None] = []

    def start_meanwhile(_phase: str, _done: int, _total: int | None) -> None:
        with Engine.from_config([], guests.options()) as other, ThreadPoolExecutor(1) as pool:
            raised.append(pool.submit(other.instances.start, guests.name(), progress=give_up).exception())

    with instances.snapshot(guests.name(), "raw", progress=start_meanwhile):
        pass
    assert raised
    assert {type(failure) for failure in raised} == {Waiting}
    assert instances.show(guests.name()).state is DomainState.OFF
    instances.destroy(guests.name())
