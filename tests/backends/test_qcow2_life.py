"""Snapshots, flattening and growth of overlays, with and without a guest on them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Mi
from imgbackend_qcow2.driver import Qcow2Disk
from labs.contents import bytes_of, write_as_guest
from labs.engines import MakeEngine
from labs.holders import guest_on
from labs.images import qemu_img, same_for_guest
from labs.templates import Template


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine({"images_type": "qcow2"})


@pytest.fixture
def disk(engine: Engine, raw_image: Template) -> Qcow2Disk:
    """An overlay of 9 MiB on 8."""
    found = engine.disk("web1")
    found.cache(raw_image, raw_image.name, 9 * Mi)
    assert isinstance(found, Qcow2Disk)
    return found


def checked(disk: Qcow2Disk) -> None:
    qemu_img("check", "-q", "-f", "qcow2", str(disk.path))


def test_rollback_brings_back_bytes_and_size_and_the_snapshot_stays(disk: Qcow2Disk) -> None:
    write_as_guest(disk.path, "qcow2", 0, b"1" * 4096)
    before = bytes_of(disk)
    disk.create_snap("first")
    write_as_guest(disk.path, "qcow2", 0, b"2" * 4096)
    disk.resize(10 * Mi)
    disk.rollback_to_snap("first")
    assert bytes_of(disk) == before
    assert disk.info().size == 9 * Mi
    assert [(snap.name, snap.size) for snap in disk.snaps()] == [("first", 9 * Mi)]
    checked(disk)


def test_snapshots_are_listed_oldest_first_and_go_one_by_one(disk: Qcow2Disk) -> None:
    for name in ("b", "a", "c"):
        disk.create_snap(name)
    write_as_guest(disk.path, "qcow2", Mi, b"3" * 4096)
    before = bytes_of(disk)
    assert [snap.name for snap in disk.snaps()] == ["b", "a", "c"]
    disk.remove_snap("a")
    assert [snap.name for snap in disk.snaps()] == ["b", "c"]
    assert bytes_of(disk) == before
    checked(disk)


@pytest.mark.parametrize("name", ["", "1", "-c", "a b", "a/b", "a\n", "x" * 64, "ä"])
def test_what_is_no_name_of_a_snapshot_is_refused(disk: Qcow2Disk, name: str) -> None:
    with pytest.raises(errors.DiskError, match="not a name for a snapshot"):
        disk.create_snap(name)
    assert disk.snaps() == []


def test_snapshot_names_are_taken_once_and_unknown_ones_are_refused(disk: Qcow2Disk) -> None:
    disk.create_snap("first")
    with pytest.raises(errors.DiskError, match="there is a snapshot first already"):
        disk.create_snap("first")
    for call in (disk.rollback_to_snap, disk.remove_snap):
        with pytest.raises(errors.DiskError, match="no snapshot other; there are: first"):
            call("other")


def test_snapshots_of_an_absent_disk_are_not_found(engine: Engine) -> None:
    absent = engine.disk("web2")
    assert isinstance(absent, Qcow2Disk)
    with pytest.raises(errors.DiskNotFound):
        absent.create_snap("first")
    with pytest.raises(errors.DiskNotFound):
        absent.snaps()
    with pytest.raises(errors.DiskNotFound):
        absent.flatten()


@pytest.mark.parametrize("verb", ["create", "rollback", "remove", "flatten", "resize"])
def test_change_under_a_running_guest_is_refused_and_changes_nothing(disk: Qcow2Disk, verb: str) -> None:
    if verb != "flatten":
        disk.create_snap("first")
    calls: dict[str, Callable[[], None]] = {
        "create": lambda: disk.create_snap("second"),
        "rollback": lambda: disk.rollback_to_snap("first"),
        "remove": lambda: disk.remove_snap("first"),
        "flatten": disk.flatten,
        "resize": lambda: disk.resize(20 * Mi),
    }
    status = disk.path.stat()
    with guest_on(disk.path, "qcow2"):
        with pytest.raises(errors.DiskBusy, match="stop its guest"):
            calls[verb]()
        assert [snap.name for snap in disk.snaps()] == ([] if verb == "flatten" else ["first"])
        assert disk.info().size == 9 * Mi
    assert (disk.path.stat().st_uid, disk.path.stat().st_mode) == (status.st_uid, status.st_mode)
    calls[verb]()
    checked(disk)


def test_flatten_keeps_the_bytes_and_lets_the_base_go(
    engine: Engine, instances: Path, disk: Qcow2Disk, raw_image: Template
) -> None:
    write_as_guest(disk.path, "qcow2", Mi, b"f" * 65536)
    before = bytes_of(disk)
    told: list[str] = []
    disk.flatten(progress=lambda phase, *_: told.append(phase))
    disk.flatten()
    assert disk.backing() is None
    assert set(told) == {"convert"}
    assert engine.users() == {}
    for path in (instances / "_base").iterdir():
        path.unlink()
    assert bytes_of(disk) == before
    record = engine.disk("web1").recorded
    assert record is not None
    assert (record.base, record.digest, record.image_id) == (None, None, "raw-image")
    again = disk.cache(raw_image, raw_image.name, 9 * Mi)
    assert (again.way, again.fetched) == ("exists", False)
    checked(disk)


def test_flatten_is_refused_where_snapshots_would_lose_what_they_take_from_the_base(disk: Qcow2Disk) -> None:
    """qemu-img rebase copies for the disk's present state alone: the snapshots would read zeroes."""
    before = bytes_of(disk)
    disk.create_snap("first")
    write_as_guest(disk.path, "qcow2", 0, b"n" * 65536)
    with pytest.raises(errors.DiskError, match="has snapshots"):
        disk.flatten()
    disk.rollback_to_snap("first")
    assert bytes_of(disk) == before
    disk.remove_snap("first")
    disk.flatten()
    assert bytes_of(disk) == before


def test_base_in_use_is_told(engine: Engine, disk: Qcow2Disk, raw_image: Template) -> None:
    assert engine.users() == {raw_image.name: ["web1/disk"]}


def test_growth_goes_beyond_what_the_first_header_had_room_for(disk: Qcow2Disk, raw_content: Path) -> None:
    disk.resize(1 << 40)
    assert disk.info().size == 1 << 40
    checked(disk)
    disk.create_snap("large")
    assert disk.snaps()[0].size == 1 << 40
    disk.rollback_to_snap("large")
    assert same_for_guest(disk.path, "qcow2", raw_content, "raw")
