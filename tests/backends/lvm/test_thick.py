"""Thick disks: whole copies on room that was somebody else's, and cleared when they go."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Declared, ImageInfo, Mi
from imgbackend_lvm.lvm2_run import Lvm2Commands
from labs.engines import MakeEngine
from labs.images import sparse_raw
from labs.lvm import Group, MakeGroup, lvm
from labs.templates import Template
from labs.volumes import KilledError, emptied, options

SECRET = b"another tenant's bytes. "


def _image(folder: Path, size: int = 4 * Mi) -> Template:
    path = sparse_raw(folder / "hole.raw", size, data={0: b"begin" * 100, size - 512: b"end!" * 128})
    return Template(content=path, image_id="hole", format="raw")


def _bytes(disk: Any) -> bytes:
    return bytes(disk.source().path.read_bytes())


def _everything(group: Group) -> bytes:
    """What is on all free extents of a group."""
    lvm("lvcreate", "-q", "-y", "-l", "100%FREE", "-Wn", "-Zn", "-n", "all", group.name)
    try:
        return group.device("all").read_bytes()
    finally:
        lvm("lvremove", "-q", "-y", f"{group.name}/all")


@pytest.mark.parametrize("pool_size", [None, 24 * Mi])
def test_bytes_of_another_tenant_never_show(
    pool_size: int | None, lvm_make_group: MakeGroup, make_engine: MakeEngine, tmp_path: Path
) -> None:
    """Neither in the holes of an image, nor after its end, nor in growth, thick or thin."""
    group = lvm_make_group(40 * Mi, pool_size=pool_size, dirty=SECRET)
    engine, image = make_engine({"images_type": "lvm", **options(group)}), _image(tmp_path)
    disk: Any = engine.disk("vm")
    disk.cache(image, image.name, 8 * Mi)
    whole = image.content.read_bytes()
    assert _bytes(disk) == whole + bytes(4 * Mi)
    disk.resize(12 * Mi)
    assert _bytes(disk) == whole + bytes(8 * Mi)
    with disk.source().path.open("r+b", buffering=0) as guest:
        guest.seek(10 * Mi)
        guest.write(b"\x01" * 512)
        os.fsync(guest.fileno())
    assert _bytes(disk) == whole + bytes(6 * Mi) + b"\x01" * 512 + bytes(2 * Mi - 512)
    emptied(engine)


def test_qcow2_base_is_converted_over_dirty_room(
    lvm_make_group: MakeGroup, make_engine: MakeEngine, qcow2_image: Template, raw_image: Template
) -> None:
    group = lvm_make_group(40 * Mi, dirty=SECRET)
    engine = make_engine({"images_type": "lvm", "force_raw_images": False, **options(group)})
    disk: Any = engine.disk("vm")
    done = disk.cache(qcow2_image, qcow2_image.name, 12 * Mi)
    assert (done.way, "no thin pool" in done.reason) == ("convert", True)
    assert _bytes(disk) == raw_image.content.read_bytes() + bytes(4 * Mi)
    emptied(engine)


def test_plan_tells_that_a_pool_is_missing(thick: Engine) -> None:
    plan = thick.disk("vm").plan(Declared(image_id="i", source="i"), ImageInfo(format="raw", virtual_size=5 * Mi), None)
    assert (plan.way, plan.writes, plan.needs) == ("copy", 8 * Mi, 8 * Mi)
    assert plan.reason.startswith("no thin pool")


@pytest.mark.parametrize("how", ["none", "zero", "shred"])
def test_removed_disk_is_cleared_as_configured(
    how: str, lvm_make_group: MakeGroup, make_engine: MakeEngine, tmp_path: Path
) -> None:
    group = lvm_make_group(20 * Mi)
    engine, image = make_engine({"images_type": "lvm", **options(group, volume_clear=how)}), _image(tmp_path)
    engine.disk("vm").cache(image, image.name)
    engine.disk("vm").remove()
    left = _everything(group)
    assert (b"beginbegin" in left) == (how == "none")
    assert (left.count(0) == len(left)) == (how == "zero")


def test_no_more_is_cleared_than_configured(lvm_make_group: MakeGroup, make_engine: MakeEngine, tmp_path: Path) -> None:
    group = lvm_make_group(20 * Mi)
    engine, image = make_engine({"images_type": "lvm", **options(group, volume_clear_size=1)}), _image(tmp_path)
    engine.disk("vm").cache(image, image.name)
    engine.disk("vm").remove()
    left = _everything(group)
    assert b"beginbegin" not in left
    assert b"end!end!" in left


def test_killed_removal_is_completed_and_cleared(
    lvm_make_group: MakeGroup,
    make_engine: MakeEngine,
    tmp_path: Path,
    stop_at: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = lvm_make_group(20 * Mi)
    engine, image = make_engine({"images_type": "lvm", **options(group)}), _image(tmp_path)
    engine.disk("vm").cache(image, image.name)
    stop_at("blkdiscard")
    with pytest.raises(KilledError):
        engine.disk("vm").remove()
    monkeypatch.undo()
    assert group.volumes() == {".vm_disk+gone"}
    assert not engine.disk("vm").exists()
    assert [str(disk) for disk in engine.backend().list_disks()] == ["vm/disk"]
    lvm("lvchange", "-an", f"{group.name}/.vm_disk+gone")
    engine.disk("vm").remove()
    assert group.volumes() == set()
    left = _everything(group)
    assert left.count(0) == len(left)


@pytest.mark.parametrize(("tool", "number"), [("blkdiscard", 1), ("lvremove", 2), ("lvextend", 1)])
def test_killed_growth_shows_nobodys_bytes(
    tool: str,
    number: int,
    lvm_make_group: MakeGroup,
    make_engine: MakeEngine,
    tmp_path: Path,
    stop_at: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = lvm_make_group(40 * Mi, dirty=SECRET)
    engine, image = make_engine({"images_type": "lvm", **options(group)}), _image(tmp_path)
    disk: Any = engine.disk("vm")
    disk.cache(image, image.name)
    stop_at(tool, number)
    with pytest.raises(KilledError):
        disk.resize(12 * Mi)
    monkeypatch.undo()
    whole = image.content.read_bytes()
    assert _bytes(disk) == whole
    disk.resize(12 * Mi)
    assert _bytes(disk) == whole + bytes(8 * Mi)
    assert group.volumes() == {"vm_disk"}
    emptied(engine)


def test_extents_that_others_take_meanwhile_are_not_the_disks(
    lvm_make_group: MakeGroup, make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = lvm_make_group(40 * Mi, dirty=SECRET)
    engine, image = make_engine({"images_type": "lvm", **options(group)}), _image(tmp_path)
    disk: Any = engine.disk("vm")
    disk.cache(image, image.name)
    real, tried = Lvm2Commands.run, list[str]()

    def run(self: Lvm2Commands, tool: str, *args: str, fine: re.Pattern[str] | None = None) -> str:
        if tool == "lvextend" and not tried:
            lvm("lvcreate", "-q", "-y", "-l", "1", "-Wn", "-Zn", "-n", "others", group.name, args[-1])
        if tool == "lvextend":
            tried.append(args[-1])
        return real(self, tool, *args, fine=fine)

    monkeypatch.setattr(Lvm2Commands, "run", run)
    disk.resize(12 * Mi)
    monkeypatch.undo()
    assert len(tried) > 1
    assert _bytes(disk) == image.content.read_bytes() + bytes(8 * Mi)
    assert group.volumes() == {"others", "vm_disk"}
    lvm("lvremove", "-q", "-y", f"{group.name}/others")
    emptied(engine)


def test_guest_on_a_disk_keeps_it(thick: Engine, raw_image: Template) -> None:
    disk: Any = thick.disk("vm")
    disk.cache(raw_image, raw_image.name)
    with disk.source().path.open("rb"), pytest.raises(errors.DiskBusy):
        disk.remove()
    assert _bytes(disk) == raw_image.content.read_bytes()
