"""A group that was made anew under its name has none of the disks; and a disk goes as the very volume that it is."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.types import DiskId, Mi
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import Lvm2
from labs.engines import MakeEngine
from labs.lvm import Group, MakeGroup, lvm
from labs.templates import Template
from labs.verbs import CHANGES, LOOKS, SNAPSHOTS
from labs.volumes import emptied, options

DISK = DiskId(instance="web1", name="disk")

VERBS = CHANGES | LOOKS | SNAPSHOTS
"""What changes a disk, or tells of it."""


@pytest.fixture(params=["thin", "thick"])
def group(request: pytest.FixtureRequest, lvm_make_group: MakeGroup) -> Group:
    """A group of the test's own, with a thin pool and without."""
    return lvm_make_group(96 * Mi, pool_size=48 * Mi if request.param == "thin" else None)


def made_anew(group: Group) -> None:
    """The group goes with all that is in it, and another has its name, with nothing in it."""
    device = lvm("vgs", "--noheadings", "-o", "pv_name", group.name).strip()
    lvm("vgremove", "-q", "-f", "-y", group.name)
    lvm("vgcreate", "-q", "-y", "--dataalignment", "1m", group.name, device)
    if group.pool is not None:
        lvm("lvcreate", "-q", "-y", "--type", "thin-pool", "-L", "48m", "-n", group.pool, group.name)


def backend_of(engine: Engine) -> GroupBackend:
    found = engine.backend("lvm")
    assert isinstance(found, GroupBackend)
    return found


def records_of(engine: Engine) -> bytes:
    return (engine.host.instances / "web1" / "disks.json").read_bytes()


@pytest.fixture
def made(make_engine: MakeEngine, group: Group, raw_image: Template) -> Engine:
    """An engine with a disk of web1, whose record is old."""
    engine = make_engine({"images_type": "lvm", **options(group)})
    engine.disk("web1").cache(raw_image, raw_image.name)
    then = time.time() - 30 * 86400
    os.utime(engine.host.instances / "web1" / "disks.json", (then, then))
    return engine


def test_group_that_is_made_anew_under_its_name_is_another(
    made: Engine, make_engine: MakeEngine, group: Group, raw_image: Template
) -> None:
    before, told = records_of(made), backend_of(made).store_identity()
    made_anew(group)
    engine = make_engine({"images_type": "lvm", **options(group)})
    assert backend_of(engine).store_identity() != told
    disk: Any = engine.disk("web1")
    for verb in VERBS if group.pool is not None else CHANGES | LOOKS:  # a thick disk has no snapshots
        with pytest.raises(errors.WrongStore, match=r"see to volume_group in \[lvm\]") as caught:
            VERBS[verb](disk, raw_image)
        assert told in str(caught.value)
        assert backend_of(engine).store_identity() in str(caught.value)
    found = engine.cache.leftovers(remove=True)
    assert any("web1/disk" in line and "was made in another store" in line for line in found.unknown)
    assert records_of(engine) == before
    assert group.volumes() == set()
    assert backend_of(engine).disk(DISK).may_be_there() is False, "it is surely absent from this group"


def test_group_that_is_made_anew_while_it_is_open_has_lost_no_disk(
    made: Engine, group: Group, raw_image: Template
) -> None:
    """As a service has it, which is not started again for months."""
    before = records_of(made)
    made_anew(group)
    for verb in ("create", "exists", "remove"):
        with pytest.raises(errors.StorageUnavailable, match="is not the one that it was"):
            VERBS[verb](made.disk("web1"), raw_image)
    made.cache.leftovers(remove=True)
    assert records_of(made) == before
    assert group.volumes() == set()


def test_group_that_is_renamed_is_the_same(
    made: Engine, make_engine: MakeEngine, group: Group, raw_image: Template
) -> None:
    told, new = backend_of(made).store_identity(), f"{group.name}new"
    lvm("vgrename", "-q", group.name, new)
    try:
        engine = make_engine({"images_type": "lvm", **options(Group(name=new, pool=group.pool))})
        assert backend_of(engine).store_identity() == told
        assert engine.disk("web1").cache(raw_image, raw_image.name).way == "exists"
        emptied(engine)
    finally:
        lvm("vgrename", "-q", new, group.name)


def test_group_is_told_by_what_is_looked_at_anyway(
    made: Engine, group: Group, looks: list[str], raw_image: Template
) -> None:
    """But where the group has no volume that could tell."""
    made.disk("web2").cache(raw_image, raw_image.name)
    assert "vgs" not in looks
    emptied(made)
    looks.clear()
    made.disk("web1").cache(raw_image, raw_image.name)
    assert ("vgs" in looks) == (group.pool is None)
    emptied(made)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], None]]]:
    """What another program does just before the disk of web1 is given another name, once each."""
    acts: list[Callable[[], None]] = []
    real = Lvm2.lvrename

    def lvrename(self: Lvm2, group: str, name: str, new: str) -> None:
        if name == "web1_disk" and acts:
            acts.pop()()
        real(self, group, name, new)

    monkeypatch.setattr(Lvm2, "lvrename", lvrename)
    yield acts
    assert acts == []


def test_snapshot_that_another_made_under_the_name_just_now_is_not_removed_with_the_disk(
    thin: Engine, lvm_group: Group, meanwhile: list[Callable[[], None]], raw_image: Template
) -> None:
    """As a restore by another tool makes one anew; whoever looks next tells of it."""
    disk: Any = thin.disk("web1")
    disk.cache(raw_image, raw_image.name)
    disk.create_snap("kept")
    [snapshot] = [name for name in lvm_group.volumes() if name.startswith("web1_disk+")]
    tags = lvm("lvs", "--noheadings", "-o", "lv_tags", f"{lvm_group.name}/{snapshot}").strip().split(",")

    def replaced() -> None:
        own = [word for tag in tags for word in ("--addtag", tag)]
        lvm("lvremove", "-q", "-f", "-y", f"{lvm_group.name}/{snapshot}")
        lvm("lvcreate", "-q", "-y", "-V", "8m", "--thinpool", f"{lvm_group.pool}", "-n", snapshot, *own, lvm_group.name)

    meanwhile.append(replaced)
    disk.remove()
    assert snapshot in lvm_group.volumes()
    assert "web1_disk" not in lvm_group.volumes()
    lvm("lvremove", "-q", "-f", "-y", f"{lvm_group.name}/{snapshot}")


@pytest.mark.parametrize("tagged", [False, True])
def test_volume_that_another_made_under_the_name_just_now_is_not_removed(
    made: Engine, group: Group, meanwhile: list[Callable[[], None]], tagged: bool
) -> None:
    """The disk was looked at before; lvm2 knows volumes by their names alone."""
    tags = lvm("lvs", "--noheadings", "-o", "lv_tags", f"{group.name}/web1_disk").strip().split(",")

    def replaced() -> None:
        lvm("lvremove", "-q", "-f", "-y", f"{group.name}/web1_disk")
        size = ["-L", "8m"] if group.pool is None else ["-V", "8m", "--thinpool", group.pool]
        own = [word for tag in tags for word in ("--addtag", tag)] if tagged else []
        lvm("lvcreate", "-q", "-y", *size, "-n", "web1_disk", *own, group.name)
        with group.device("web1_disk").open("r+b") as device:
            device.write(b"another's")

    meanwhile.append(replaced)
    with pytest.raises(errors.DiskBusy, match="was made anew, or looked at, by another process just now"):
        made.disk("web1").remove()
    assert "web1_disk" in group.volumes()
    assert not any(name.startswith(".") and "web1" in name for name in group.volumes())
    with group.device("web1_disk").open("rb") as device:
        assert device.read(9) == b"another's"
    lvm("lvremove", "-q", "-f", "-y", f"{group.name}/web1_disk")
    emptied(made)
