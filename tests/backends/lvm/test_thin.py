"""Disks in a thin pool: made at once, from a base that is imported once."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.testing.children import Child
from imgbackend.types import DiskId, Mi, Record
from labs.engines import MakeEngine
from labs.lvm import Group, lvm
from labs.templates import Template
from labs.volumes import KilledError, emptied, options


def _bytes(disk: Any) -> bytes:
    return bytes(disk.source().path.read_bytes())


def _made(engine: Engine, image: Template, instance: str = "vm", size: int | None = None) -> Any:
    disk = engine.disk(instance)
    disk.cache(image, image.name, size)
    return disk


def _write(disk: Any, byte: int) -> None:
    with disk.source().path.open("r+b", buffering=0) as device:
        device.write(bytes([byte]) * Mi)
        os.fsync(device.fileno())


def test_further_disk_takes_two_commands_at_most(thin: Engine, raw_image: Template, changes: list[str]) -> None:
    first = _made(thin, raw_image)
    whole = raw_image.content.read_bytes()
    assert _bytes(first) == whole
    changes.clear()
    second = thin.disk("vm2").cache(raw_image, raw_image.name)
    assert (second.way, second.fetched, changes) == ("snapshot", False, ["lvcreate"])
    changes.clear()
    third = thin.disk("vm3").cache(raw_image, raw_image.name, 12 * Mi)
    assert (third.size, changes) == (12 * Mi, ["lvcreate", "lvextend"])
    assert _bytes(thin.disk("vm3")) == whole + bytes(4 * Mi)


def test_group_is_looked_at_no_oftener_than_it_changes(thin: Engine, raw_image: Template, looks: list[str]) -> None:
    first: Any = _made(thin, raw_image)
    looks.clear()
    for instance, size in (("vm2", None), ("vm3", 12 * Mi)):
        looks.clear()
        made = thin.disk(instance).cache(raw_image, raw_image.name, size)
        assert looks == ["lvs"]
        assert made.size == thin.disk(instance).info().size == (size or 8 * Mi)
    looks.clear()
    first.create_snap("a")
    assert looks == ["lvs"]
    for act in (lambda: first.rollback_to_snap("a"), thin.disk("vm2").remove):
        looks.clear()
        act()
        assert looks == ["lvs", "lvs"], "before, and whether what was renamed is that very volume"


def test_base_is_read_only_and_has_no_device(thin: Engine, lvm_group: Group, raw_image: Template) -> None:
    _made(thin, raw_image)
    [base] = [name for name in lvm_group.volumes() if name.startswith("base_")]
    assert raw_image.name in base
    assert lvm_group.field(base, "lv_attr").startswith("Vri---")
    assert lvm_group.field(base, "lv_attr").endswith("k")
    backend: Any = thin.backend("lvm")
    [found] = backend.list_bases()
    assert (found.name, found.size, found.children) == (raw_image.name, 8 * Mi, 1)
    assert 2 * Mi <= found.allocated < 8 * Mi
    assert found.tags["image_id"] == raw_image.image_id


def test_use_of_a_base_is_noted_without_a_command(thin: Engine, raw_image: Template, changes: list[str]) -> None:
    _made(thin, raw_image)
    backend: Any = thin.backend("lvm")
    [before] = backend.list_bases()
    [used] = (thin.host.bases / ".used").iterdir()
    os.utime(used, (1, 1))
    changes.clear()
    backend.touch_base(raw_image.name)
    assert changes == []
    assert backend.find_base(raw_image.name).touched >= before.touched
    used.unlink()
    assert backend.find_base(raw_image.name).touched > 1


def test_base_with_disks_is_busy_also_after_a_rollback(thin: Engine, raw_image: Template) -> None:
    disk = _made(thin, raw_image)
    disk.create_snap("one")
    disk.rollback_to_snap("one")
    backend: Any = thin.backend("lvm")
    with pytest.raises(errors.DiskBusy, match="1 disks"):
        backend.remove_base(raw_image.name)
    disk.remove()
    backend.remove_base(raw_image.name)
    assert backend.find_base(raw_image.name) is None


def test_processes_that_want_one_image_import_it_once(
    thin: Engine, lvm_group: Group, raw_image: Template, make_engine: MakeEngine
) -> None:
    own = {"images_type": "lvm", **options(lvm_group)}

    def make(label: str) -> None:
        _made(make_engine(own), raw_image, label)

    crowd = [Child(lambda label=label: make(label), watched=False) for label in ("a", "b")]  # type: ignore[misc]  # mypy: a default makes it an optional argument
    assert [child.outcome().error for child in crowd] == [None, None]
    assert raw_image.fetches == 1
    assert len([name for name in lvm_group.volumes() if name.startswith("base_")]) == 1
    assert _bytes(thin.disk("a")) == _bytes(thin.disk("b")) == raw_image.content.read_bytes()


def test_disk_that_is_not_active_is_activated_by_its_next_use(
    thin: Engine, lvm_group: Group, raw_image: Template
) -> None:
    disk = _made(thin, raw_image)
    lvm("lvchange", "-an", f"{lvm_group.name}/vm_disk")
    assert not disk.source().path.exists()
    assert thin.disk("vm").cache(raw_image, raw_image.name).way == "exists"
    assert _bytes(disk) == raw_image.content.read_bytes()


def test_volume_of_somebody_else_is_never_touched(thin: Engine, lvm_group: Group, raw_image: Template) -> None:
    lvm("lvcreate", "-q", "-y", "-L", "4m", "-n", "vm_disk", lvm_group.name)
    uuid = lvm_group.field("vm_disk", "lv_uuid")
    disk: Any = thin.disk("vm")
    calls: tuple[Callable[[], object], ...] = (
        disk.exists,
        disk.remove,
        lambda: disk.cache(raw_image, raw_image.name),
        lambda: disk.resize(8 * Mi),
    )
    for call in calls:
        with pytest.raises(errors.DiskError, match="not made by imgbackend"):
            call()
    assert lvm_group.field("vm_disk", "lv_uuid") == uuid
    assert list(thin.backend("lvm").list_disks()) == []
    assert raw_image.fetches == 0
    lvm("lvremove", "-q", "-y", f"{lvm_group.name}/vm_disk")


def test_novas_volume_on_record_is_a_disk(thick: Engine, lvm_group: Group) -> None:
    lvm("lvcreate", "-q", "-y", "-L", "4m", "-n", "vm_disk", lvm_group.name)
    vm = DiskId(instance="vm", name="disk")
    record = Record(backend="lvm", driver="lvm", format="raw", way="copy", time=1.0)
    thick.host.records.write(vm, record, as_file=False, durable=False)
    disk: Any = thick.disk("vm")
    assert disk.info().size == 4 * Mi
    assert list(thick.backend("lvm").list_disks()) == [vm]
    disk.resize(8 * Mi)
    assert disk.info().size == 8 * Mi
    disk.remove()
    assert lvm_group.volumes() == set()


def test_backends_on_two_pools_do_not_see_each_other(
    thin: Engine, lvm_make_group: Any, make_engine: MakeEngine, raw_image: Template, lvm_group: Group
) -> None:
    other_group = lvm_make_group(64 * Mi, pool_size=32 * Mi)
    both = make_engine(
        {
            "images_type": "lvm",
            "instances_path": f"{thin.host.instances}-2",
            **options(lvm_group, "lvm"),
            **options(other_group, "second"),
        }
    )
    one = _made(both, raw_image)
    two: Any = both.disk("vm2", images_type="second")
    two.cache(raw_image, raw_image.name)
    assert [str(disk) for disk in both.backend("lvm").list_disks()] == ["vm/disk"]
    assert [str(disk) for disk in both.backend("second").list_disks()] == ["vm2/disk"]
    same_group: Any = make_engine(
        {"images_type": "third", "instances_path": f"{thin.host.instances}-3", **options(lvm_group, "third")}
    )
    assert list(same_group.backend("third").list_disks()) == []
    assert list(same_group.backend("third").list_bases()) == []
    third = _made(same_group, raw_image, "vm3")
    assert _bytes(one) == _bytes(two) == _bytes(third)
    with pytest.raises(errors.DiskError, match="backend lvm's"):
        same_group.disk("vm").exists()
    for engine, section in ((both, "second"), (same_group, "third")):
        emptied(engine, section)


def test_guest_on_a_disk_is_told_as_busy(thin: Engine, raw_image: Template, tmp_path: Path) -> None:
    disk = _made(thin, raw_image)
    disk.create_snap("kept")
    with disk.source().path.open("rb"):
        for call in (
            lambda: disk.create_snap("two"),
            lambda: disk.rollback_to_snap("kept"),
            lambda: disk.extract(tmp_path / "out", "raw"),
            disk.remove,
        ):
            with pytest.raises(errors.DiskBusy):
                call()
    assert [snap.name for snap in disk.snaps()] == ["kept"]
    assert _bytes(disk) == raw_image.content.read_bytes()


@pytest.mark.parametrize(("tool", "number"), [("lvrename", 1), ("lvchange", 1), ("lvrename", 2), ("lvremove", 1)])
def test_killed_rollback_leaves_one_of_both_disks(
    thin: Engine,
    lvm_group: Group,
    raw_image: Template,
    tool: str,
    number: int,
    stop_at: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = _made(thin, raw_image)
    disk.create_snap("kept")
    _write(disk, 0x77)
    before = _bytes(disk)
    stop_at(tool, number)
    with pytest.raises(KilledError):
        disk.rollback_to_snap("kept")
    monkeypatch.undo()
    assert disk.exists()
    assert _bytes(disk) == (before if number == 1 and tool != "lvremove" else raw_image.content.read_bytes())
    disk.rollback_to_snap("kept")
    assert _bytes(disk) == raw_image.content.read_bytes()
    assert {name for name in lvm_group.volumes() if name.startswith(".")} == set()
    assert [snap.name for snap in disk.snaps()] == ["kept"]


def test_disk_goes_back_to_each_of_its_snapshots(thin: Engine, lvm_group: Group, raw_image: Template) -> None:
    disk = _made(thin, raw_image)
    states = {}
    for number, name in enumerate(("one", "two")):
        _write(disk, number)
        disk.create_snap(name)
        states[name] = _bytes(disk)
    for name in ("one", "two", "two"):
        disk.rollback_to_snap(name)
        assert _bytes(disk) == states[name]
    disk.remove()
    assert [name[:5] for name in lvm_group.volumes()] == ["base_"]


def test_killed_import_is_cleared_by_the_next(
    thin: Engine, lvm_group: Group, raw_image: Template, stop_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at("lvrename")
    with pytest.raises(KilledError):
        _made(thin, raw_image)
    monkeypatch.undo()
    assert [name[:6] for name in lvm_group.volumes()] == [".base_"]
    assert list(thin.backend("lvm").list_bases()) == []  # type: ignore[attr-defined]  # it is a ThinBackend
    assert _bytes(_made(thin, raw_image)) == raw_image.content.read_bytes()
    assert not any(name.startswith(".") for name in lvm_group.volumes())
