"""That a disk's name is gone is no licence to remove what has its tags: people rename volumes to keep them."""

import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.cache.garbage.collect import Leftover
from imgbackend.types import Mi
from labs.lvm import Group, lvm
from labs.templates import Template
from labs.volumes import KilledError

_GUESTS: bytes = b"the guest of web1" * 256


def written(engine: Engine, image: Template, instance: str = "web1") -> Any:
    """A disk on which a guest wrote, and all that is old enough to be a leftover."""
    engine.cache.policy = replace(engine.cache.policy, lease=0)
    disk: Any = engine.disk(instance)
    disk.cache(image, image.name)
    with disk.source().path.open("r+b", buffering=0) as device:
        device.write(_GUESTS)
        os.fsync(device.fileno())
    return disk


def kept(group: Group, volume: str) -> bool:
    """Whether it has the guest's bytes; it is active then."""
    lvm("lvchange", "-ay", "-K", f"{group.name}/{volume}")
    return group.device(volume).read_bytes()[: len(_GUESTS)] == _GUESTS


def in_the_group(engine: Engine) -> list[Leftover]:
    """What an operator's ``cache leftovers --remove`` tells of it."""
    found = engine.cache.leftovers(remove=True)
    assert (found.faults, found.unknown) == ([], [])
    return [left for left in found.leftovers if left.store is not None]


@pytest.mark.parametrize("who", ["pass", "creation", "deletion"])
@pytest.mark.parametrize("place", ["thin", "thick"])
def test_volume_that_people_renamed_is_removed_by_nobody(
    request: pytest.FixtureRequest, lvm_group: Group, raw_image: Template, place: str, who: str
) -> None:
    engine: Engine = request.getfixturevalue(place)
    disk = written(engine, raw_image)
    lvm("lvrename", lvm_group.name, "web1_disk", "web1_disk.old")
    if who == "pass":
        passed = engine.cache.prune()
        assert (passed.leftovers, passed.faults) == ([], [])
    elif who == "creation":
        assert disk.cache(raw_image, raw_image.name).way != "exists"
        assert disk.source().path.read_bytes() == raw_image.content.read_bytes()
    else:
        disk.remove()
    assert kept(lvm_group, "web1_disk.old")
    disk.remove()
    lvm("lvrename", lvm_group.name, "web1_disk.old", "web1_disk")
    assert engine.disk("web1").cache(raw_image, raw_image.name).way == "exists"
    assert kept(lvm_group, "web1_disk")


@pytest.mark.parametrize(("place", "name"), [("thin", "web1_disk.old"), ("thick", ".web1_disk.old")])
def test_volume_that_people_renamed_is_told_with_what_can_be_done(
    request: pytest.FixtureRequest, lvm_group: Group, raw_image: Template, place: str, name: str
) -> None:
    engine: Engine = request.getfixturevalue(place)
    written(engine, raw_image)
    lvm("lvrename", lvm_group.name, "web1_disk", name)
    [left] = in_the_group(engine)
    assert (left.kind, left.name, left.dead, left.removed) == ("disk", f"{lvm_group.name}/{name}", False, False)
    assert f"lvrename {lvm_group.name} {name} web1_disk" in left.reason
    assert set(engine.host.records.all("web1")) == {"disk"}, "the volume may get its name back"
    assert list(engine.backend().list_disks()) == []
    assert not engine.disk("web1").exists()
    [untagged] = [part for part in left.reason.split("; ") if "--deltag" in part]
    lvm(*shlex.split(untagged.partition(": ")[2]))
    assert [left.kind for left in in_the_group(engine)] == []
    assert kept(lvm_group, name)
    lvm("lvremove", "-y", f"{lvm_group.name}/{name}")


def test_snapshots_of_a_disk_that_is_gone_stay_and_bring_it_back(
    thin: Engine, lvm_group: Group, raw_image: Template
) -> None:
    """An operator removed the disk's volume by a slip; what the error says is typed as it is."""
    disk = written(thin, raw_image)
    disk.create_snap("good")
    [snapshot] = [name for name in lvm_group.volumes() if name.startswith("web1_disk+")]
    lvm("lvremove", "-y", f"{lvm_group.name}/web1_disk")
    [left] = in_the_group(thin)
    assert (left.name, left.dead) == (f"{lvm_group.name}/{snapshot}", False)
    passed = thin.cache.prune()
    assert (passed.leftovers, passed.faults) == ([], [])
    assert set(thin.host.records.all("web1")) == {"disk"}
    calls: list[Callable[[], object]] = [
        disk.exists,
        disk.snaps,
        lambda: disk.cache(raw_image, raw_image.name),
        disk.remove,
    ]
    for call in calls:
        with pytest.raises(errors.DiskError, match=snapshot.replace("+", r"\+")) as caught:
            call()
    assert str(caught.value) == left.reason
    [command] = [part for part in left.reason.split("; ") if "lvcreate" in part]
    lvm(*shlex.split(command.partition(": ")[2]), "--yes")
    assert kept(lvm_group, "web1_disk")
    assert [snap.name for snap in disk.snaps()] == ["good"]
    disk.remove()
    assert [name[:5] for name in lvm_group.volumes()] == ["base_"]


def test_rollback_that_was_killed_does_not_replace_a_disk_that_people_renamed(
    thin: Engine,
    lvm_group: Group,
    raw_image: Template,
    stop_at: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its replacement was made, and the disk had its name still."""
    disk = written(thin, raw_image)
    disk.create_snap("good")
    stop_at("lvrename", 1)
    with pytest.raises(KilledError):
        disk.rollback_to_snap("good")
    monkeypatch.undo()
    lvm("lvrename", lvm_group.name, "web1_disk", "keep")
    with pytest.raises(errors.DiskError, match="the disk web1/disk is gone"):
        disk.exists()
    assert {left.name.partition("/")[2]: left.removed for left in in_the_group(thin)} == {
        ".web1_disk+next": True,
        "keep": False,
        **{name: False for name in lvm_group.volumes() if name.startswith("web1_disk+")},
    }
    lvm("lvrename", lvm_group.name, "keep", "web1_disk")
    assert [snap.name for snap in disk.snaps()] == ["good"]
    assert kept(lvm_group, "web1_disk")


def test_snapshot_that_people_renamed_outlives_its_disk(thin: Engine, lvm_group: Group, raw_image: Template) -> None:
    disk = written(thin, raw_image)
    disk.create_snap("good")
    disk.create_snap("better")
    [first, _] = sorted(name for name in lvm_group.volumes() if name.startswith("web1_disk+"))
    lvm("lvrename", lvm_group.name, first, "keep")
    assert len(disk.snaps()) == 1
    disk.remove()
    assert lvm_group.volumes() >= {"keep"}
    assert not any(name.startswith("web1_disk") for name in lvm_group.volumes())
    [left] = in_the_group(thin)
    assert (left.name, left.dead) == (f"{lvm_group.name}/keep", False)
    assert f"lvrename {lvm_group.name} keep {first}" in left.reason
    disk.cache(raw_image, raw_image.name)
    assert disk.snaps() == []
    assert kept(lvm_group, "keep")
    lvm("lvremove", "-y", f"{lvm_group.name}/keep")


@pytest.mark.parametrize("whole", [True, False])
def test_base_or_import_that_people_renamed_is_told_and_never_removed(
    thin: Engine,
    lvm_group: Group,
    raw_image: Template,
    whole: bool,
    stop_at: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next disk has its image imported again, and the base of that goes when nobody needs it."""
    if whole:
        written(thin, raw_image).remove()
    else:
        stop_at("lvrename")
        with pytest.raises(KilledError):
            written(thin, raw_image)
        monkeypatch.undo()
    [base] = lvm_group.volumes()
    lvm("lvrename", lvm_group.name, base, ".theirs")
    [left] = [left for left in in_the_group(thin) if left.name == f"{lvm_group.name}/.theirs"]
    assert (left.kind, left.dead, left.removed) == ("base", False, False)
    assert f"lvrename {lvm_group.name} .theirs {base.removeprefix('.')};" in left.reason
    written(thin, raw_image).remove()
    backend: Any = thin.backend()
    backend.remove_base(raw_image.name)
    assert list(backend.list_bases()) == []
    assert lvm_group.volumes() == {".theirs"}
    lvm("lvremove", "-f", "-y", f"{lvm_group.name}/.theirs")


@pytest.mark.parametrize(
    ("tool", "number", "by"),
    [
        *(("lvchange", 1, "removal"), ("lvremove", 1, "removal"), ("lvremove", 2, "removal")),
        *(("lvremove", 1, "pass"), ("lvremove", 1, "creation")),
    ],
)
def test_killed_removal_of_a_disk_with_snapshots_is_finished_by_the_next_call(
    thin: Engine,
    lvm_group: Group,
    raw_image: Template,
    tool: str,
    number: int,
    by: str,
    stop_at: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = written(thin, raw_image)
    for name in ("one", "two"):
        disk.create_snap(name)
    stop_at(tool, number)
    with pytest.raises(KilledError):
        disk.remove()
    monkeypatch.undo()
    assert not thin.disk("web1").exists()
    assert [str(each) for each in thin.backend().list_disks()] == ["web1/disk"]
    if by == "removal":
        disk.remove()
    elif by == "pass":
        assert [left.removed for left in in_the_group(thin)] == [True]
    else:
        disk.cache(raw_image, raw_image.name)
        assert disk.snaps() == []
        assert disk.source().path.read_bytes() == raw_image.content.read_bytes()
        disk.remove()
    assert [name[:5] for name in lvm_group.volumes()] == ["base_"]


def test_thick_disk_of_a_backend_that_has_a_pool_now_is_overwritten(
    thin: Engine, lvm_group: Group, raw_image: Template, changes: list[str]
) -> None:
    """What a volume is says whether it is overwritten, not how the backend is configured since."""
    tags = [part for tag in ("backend=lvm", "disk=web1/disk") for part in ("--addtag", f"imgbackend.{tag}")]
    lvm("lvcreate", "-q", "-y", "-L", f"{4 * Mi}b", *tags, "-n", "web1_disk", lvm_group.name)
    [before] = lvm("lvs", "--noheadings", "-o", "seg_pe_ranges", f"{lvm_group.name}/web1_disk").split()
    lvm_group.device("web1_disk").write_bytes(_GUESTS)
    disk: Any = thin.disk("web1")
    with disk.locked(changing=False):  # it is on no record
        disk.remove_image()
    assert changes == ["lvrename", "lvchange", "lvchange", "lvremove"]
    lvm("lvcreate", "-q", "-y", "-l", "1", "-Wn", "-Zn", "-n", "others", lvm_group.name, before)
    assert _GUESTS not in lvm_group.device("others").read_bytes()
    lvm("lvremove", "-q", "-y", f"{lvm_group.name}/others")
    assert raw_image.fetches == 0
