"""lvm2's commands, on a real volume group."""

import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from imgbackend import errors
from imgbackend.types import Gi, Mi
from imgbackend_lvm import lvm2_names
from imgbackend_lvm.lvm2 import LogicalVolume, Lvm2, tag_of, tags_of, value_of
from labs.lvm import Group, MakeGroup, lvm

_DATA: Final = random.Random(5).randbytes(Mi)
_SECONDS: Final = 120


@pytest.fixture
def lvm2() -> Lvm2:
    """The commands, as root."""
    return Lvm2()


def _write(device: Path, data: bytes, at: int = 0) -> None:
    with device.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, at)
        os.fsync(file.fileno())


def _read(device: Path, size: int, at: int = 0) -> bytes:
    with device.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, at)


def _one(lvm2: Lvm2, group: Group, name: str) -> LogicalVolume:
    (found,) = lvm2.lvs(group.name, name)
    return found


def _await(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_group_is_reported_in_bytes(lvm2: Lvm2, lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(64 * Mi)
    found = lvm2.vgs(group.name)
    assert (found.vg_name, found.vg_extent_size, found.vg_tags) == (group.name, 4 * Mi, ())
    assert found.vg_size == found.vg_free == 60 * Mi


def test_group_that_is_not_there_is_for_the_operator(lvm2: Lvm2, lvm_group: Group) -> None:
    for ask in (lvm2.vgs, lvm2.lvs):
        with pytest.raises(errors.ConfigError, match="no volume group nosuch; make it with vgcreate"):
            ask("nosuch")
    with pytest.raises(errors.ConfigError, match="no volume group nosuch"):
        lvm2.lvremove("nosuch", "x")


def test_volume_that_is_not_there_is_an_empty_list(lvm2: Lvm2, lvm_group: Group) -> None:
    assert lvm2.lvs(lvm_group.name, "none") == []


def test_hidden_volumes_are_not_listed(lvm2: Lvm2, lvm_group: Group) -> None:
    assert [volume.lv_name for volume in lvm2.lvs(lvm_group.name)] == [lvm_group.pool]
    (pool,) = lvm2.lvs(lvm_group.name, lvm_group.pool)
    assert (pool.is_thin_pool, pool.zeroes, pool.health) == (True, True, "-")
    assert pool.metadata_percent is not None
    assert pool.lv_metadata_size == 4 * Mi


def test_thick_volume_lives_from_creation_to_removal(lvm2: Lvm2, lvm_group: Group) -> None:
    group, before = lvm_group.name, time.time()
    lvm2.lvcreate(group, "vm-1_disk", 5 * Mi, tags=["a", "b"])
    made = _one(lvm2, lvm_group, "vm-1_disk")
    assert (made.lv_size, made.lv_path, made.lv_tags) == (8 * Mi, f"/dev/{group}/vm-1_disk", ("a", "b"))
    assert (made.active, made.open, made.read_only, made.is_thin, made.pool_lv) == (True, False, False, False, None)
    assert before - 2 < made.lv_time < time.time() + 2
    _write(Path(made.lv_path), _DATA, 7 * Mi)
    lvm2.lvrename(group, "vm-1_disk", ".gone")
    assert lvm2.lvs(group, "vm-1_disk") == []
    assert _one(lvm2, lvm_group, ".gone").lv_uuid == made.lv_uuid
    lvm2.lvextend(group, ".gone", 12 * Mi)
    assert _read(lvm_group.device(".gone"), Mi, 7 * Mi) == _DATA
    assert _one(lvm2, lvm_group, ".gone").lv_size == 12 * Mi
    lvm2.lvremove(group, ".gone")
    assert lvm2.lvs(group, ".gone") == []


def test_thin_snapshot_has_its_origins_bytes_at_once_and_grows_alone(lvm2: Lvm2, lvm_group: Group) -> None:
    group, pool = lvm_group.name, str(lvm_group.pool)
    lvm2.lvcreate_thin(group, pool, "base", 64 * Mi, tags=["base"])
    _write(lvm_group.device("base"), _DATA, 8 * Mi)
    lvm2.lvchange(group, "base", permission="r")
    lvm2.lvcreate_snapshot(group, "base", "disk", tags=["disk"])
    lvm2.lvextend(group, "disk", 1 * Gi)
    base, disk = _one(lvm2, lvm_group, "base"), _one(lvm2, lvm_group, "disk")
    assert (base.read_only, base.lv_size, base.lv_tags) == (True, 64 * Mi, ("base",))
    assert (disk.read_only, disk.lv_size, disk.lv_tags) == (False, 1 * Gi, ("disk",))
    assert (disk.origin, disk.pool_lv, disk.active, disk.skips_activation) == ("base", pool, True, False)
    assert _read(lvm_group.device("disk"), Mi, 8 * Mi) == _DATA
    _write(lvm_group.device("disk"), bytes(Mi), 8 * Mi)
    assert _read(lvm_group.device("base"), Mi, 8 * Mi) == _DATA
    assert _read(lvm_group.device("disk"), Mi, Gi - Mi) == bytes(Mi)
    lvm2.lvremove(group, "base", "disk")


def test_snapshot_that_is_not_activated_has_no_device_until_it_is_asked_for(lvm2: Lvm2, lvm_group: Group) -> None:
    group = lvm_group.name
    lvm2.lvcreate_thin(group, str(lvm_group.pool), "disk", 8 * Mi)
    lvm2.lvcreate_snapshot(group, "disk", "kept", permission="r", activate=False)
    kept = _one(lvm2, lvm_group, "kept")
    assert (kept.active, kept.skips_activation, kept.read_only) == (False, True, True)
    lvm2.lvchange(group, "kept", activate=True)
    assert not _one(lvm2, lvm_group, "kept").active
    lvm2.lvchange(group, "kept", activate=True, ignoreactivationskip=True)
    assert _one(lvm2, lvm_group, "kept").active
    lvm2.lvremove(group, "disk", "kept")


def test_thick_volume_has_no_snapshots(lvm2: Lvm2, lvm_group: Group) -> None:
    lvm2.lvcreate(lvm_group.name, "thick", 4 * Mi)
    with pytest.raises(errors.CommandFailed, match="specify either size or extents"):
        lvm2.lvcreate_snapshot(lvm_group.name, "thick", "snap")
    lvm2.lvremove(lvm_group.name, "thick")


def test_what_is_so_already_is_no_error(lvm2: Lvm2, lvm_group: Group) -> None:
    group = lvm_group.name
    lvm2.lvcreate(group, "disk", 8 * Mi, tags=["a"])
    for _ in range(2):
        lvm2.lvchange(group, "disk", addtag=["b"], deltag=["a", "none"], permission="r")
        lvm2.lvextend(group, "disk", 8 * Mi)
        lvm2.lvextend(group, "disk", 4 * Mi)
        lvm2.lvchange(group, "disk", activate=False)
    found = _one(lvm2, lvm_group, "disk")
    assert (found.lv_tags, found.read_only, found.active, found.lv_size) == (("b",), True, False, 8 * Mi)
    for _ in range(2):
        lvm2.lvchange(group, "disk", permission="rw", activate=True)
    assert _one(lvm2, lvm_group, "disk").active
    for _ in range(2):
        lvm2.lvremove(group, "disk")


def test_volumes_are_found_by_tag(lvm2: Lvm2, lvm_group: Group) -> None:
    group = lvm_group.name
    lvm2.lvcreate(group, "one", 4 * Mi, tags=[tag_of("owner", "x")])
    lvm2.lvcreate(group, "two", 4 * Mi, tags=[tag_of("owner", "xy")])
    assert [volume.lv_name for volume in lvm2.lvs(group, tag=tag_of("owner", "x"))] == ["one"]
    assert lvm2.lvs(group, tag="owner") == []
    assert lvm2.lvs(group, "two", tag=tag_of("owner", "x")) == []
    lvm2.lvremove(group, "one", "two")


def test_any_text_survives_in_the_group(lvm2: Lvm2, lvm_group: Group) -> None:
    group = lvm_group.name
    ascii_, other = "".join(map(chr, range(128))), "".join(map(chr, range(128, 256))) + "\u20ac\N{GRINNING FACE}"
    long = "/a path, with spaces" * 100
    said = [tag_of("ascii", ascii_), tag_of("other", other), tag_of("empty", ""), *tags_of("long", long)]
    lvm2.lvcreate(group, "tagged", 4 * Mi, tags=said)
    tags = _one(lvm2, lvm_group, "tagged").lv_tags
    assert [value_of(tags, key) for key in ("ascii", "other", "empty", "long")] == [ascii_, other, "", long]
    lvm2.lvchange(group, "tagged", deltag=said)
    assert _one(lvm2, lvm_group, "tagged").lv_tags == ()
    lvm2.lvremove(group, "tagged")


def test_more_tags_than_one_command_takes_are_added_by_several(lvm2: Lvm2, lvm_group: Group) -> None:
    tags = [f"tag{number:02}" for number in range(20)]
    with pytest.raises(errors.DiskError, match="up to 8 tags"):
        lvm2.lvcreate(lvm_group.name, "tagged", 4 * Mi, tags=tags)
    lvm2.lvcreate(lvm_group.name, "tagged", 4 * Mi)
    lvm2.lvchange(lvm_group.name, "tagged", addtag=tags)
    assert sorted(_one(lvm2, lvm_group, "tagged").lv_tags) == tags
    lvm2.lvremove(lvm_group.name, "tagged")


def test_name_that_is_taken_is_refused_and_nothing_changed(lvm2: Lvm2, lvm_group: Group) -> None:
    group = lvm_group.name
    lvm2.lvcreate(group, "one", 4 * Mi)
    lvm2.lvcreate(group, "two", 8 * Mi)
    with pytest.raises(errors.DiskError, match=f"there is a volume one in {group} already"):
        lvm2.lvcreate(group, "one", 12 * Mi)
    with pytest.raises(errors.DiskError, match=f"there is a volume two in {group} already"):
        lvm2.lvrename(group, "one", "two")
    assert {volume.lv_name: volume.lv_size for volume in lvm2.lvs(group) if not volume.is_thin_pool} == {
        "one": 4 * Mi,
        "two": 8 * Mi,
    }
    lvm2.lvremove(group, "one", "two")


def test_what_is_changed_and_is_not_there_is_named(lvm2: Lvm2, lvm_group: Group) -> None:
    group = lvm_group.name
    changes: list[Callable[[], None]] = [
        lambda: lvm2.lvrename(group, "none", "x"),
        lambda: lvm2.lvextend(group, "none", 8 * Mi),
        lambda: lvm2.lvchange(group, "none", addtag=["x"]),
        lambda: lvm2.lvcreate_snapshot(group, "none", "x"),
    ]
    for change in changes:
        with pytest.raises(errors.DiskNotFound, match=r"there is no volume .*none"):
            change()
    with pytest.raises(errors.ConfigError, match=f"there is no thin pool none in {group}"):
        lvm2.lvcreate_thin(group, "none", "x", 8 * Mi)


def test_full_group_says_in_bytes_what_is_needed_and_left(lvm2: Lvm2, lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(64 * Mi)
    lvm2.lvcreate(group.name, "disk", 40 * Mi)
    with pytest.raises(errors.StorageFull) as caught:
        lvm2.lvcreate(group.name, "more", 40 * Mi)
    assert (caught.value.need, caught.value.have) == (40 * Mi, 20 * Mi)
    with pytest.raises(errors.StorageFull) as caught:
        lvm2.lvextend(group.name, "disk", 100 * Mi)
    assert (caught.value.need, caught.value.have) == (60 * Mi, 20 * Mi)
    assert group.name in str(caught.value)
    assert group.volumes() == {"disk"}
    assert group.field("disk", "lv_size") == str(40 * Mi)


def test_pool_without_room_takes_no_more_volumes(lvm2: Lvm2, lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(64 * Mi, pool_size=16 * Mi)
    lvm("lvchange", "-q", "--errorwhenfull", "y", f"{group.name}/pool")
    lvm2.lvcreate_thin(group.name, "pool", "disk", 64 * Mi)
    with contextlib.suppress(OSError):
        for at in range(32):
            _write(group.device("disk"), _DATA, at * Mi)
    (pool,) = lvm2.lvs(group.name, "pool")
    assert (pool.data_percent, pool.health, pool.lv_when_full) == (100, "D", "error")
    with pytest.raises(errors.StorageFull, match=f"no space on {group.name}/pool"):
        lvm2.lvcreate_snapshot(group.name, "disk", "snap")
    assert group.volumes() == {"disk"}


def test_volume_in_two_pieces_is_listed_once(lvm2: Lvm2, lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(64 * Mi)
    for name in ("one", "two"):
        lvm2.lvcreate(group.name, name, 8 * Mi)
    lvm2.lvextend(group.name, "one", 16 * Mi)
    assert len(lvm2.pe_ranges(group.name, "one")) == 2
    assert [volume.lv_size for volume in lvm2.lvs(group.name)] == [16 * Mi, 8 * Mi]


def test_volume_grows_into_the_extents_that_it_is_told(lvm2: Lvm2, lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(64 * Mi)
    for name in ("one", "two", "tail"):
        lvm2.lvcreate(group.name, name, 8 * Mi)
    (extents,) = lvm2.pe_ranges(group.name, "tail")
    with pytest.raises(errors.StorageFull):
        lvm2.lvextend(group.name, "one", 16 * Mi, extents=extents)
    lvm2.lvremove(group.name, "tail")
    lvm2.lvextend(group.name, "one", 16 * Mi, extents=extents)
    assert lvm2.pe_ranges(group.name, "one")[1] == extents


def test_volume_in_use_is_not_removed_and_not_deactivated(lvm2: Lvm2, lvm_group: Group) -> None:
    group = lvm_group.name
    for name in ("one", "two"):
        lvm2.lvcreate(group, name, 4 * Mi)
    with lvm_group.device("one").open("rb"):
        assert _one(lvm2, lvm_group, "one").open
        with pytest.raises(errors.DiskBusy, match=f"{group}/one is in use"):
            lvm2.lvremove(group, "none", "one", "two")
        with pytest.raises(errors.DiskBusy, match="in use"):
            lvm2.lvchange(group, "one", activate=False)
    assert "one" in lvm_group.volumes()
    lvm2.lvremove(group, "none", "one", "two")


def test_pool_is_never_removed_with_what_is_in_it(lvm2: Lvm2, lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(64 * Mi, pool_size=16 * Mi)
    lvm2.lvcreate_thin(group.name, "pool", "disk", 8 * Mi)
    lvm2.lvremove(group.name, "pool")
    assert group.volumes() == {"disk"}
    assert [volume.lv_name for volume in lvm2.lvs(group.name, "pool")] == ["pool"]


def test_new_volume_has_no_signature_of_what_was_there(lvm2: Lvm2, lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(32 * Mi, dirty=b"secret!")
    lvm2.lvcreate(group.name, "wiped", 4 * Mi)
    lvm2.lvcreate(group.name, "raw", 4 * Mi, wipe=False)
    assert _read(group.device("wiped"), 4096) == bytes(4096)
    assert b"secret!" in _read(group.device("raw"), 4096)


def test_lvm2_too_refuses_what_is_reserved(lvm_group: Group) -> None:
    allowed = []
    for word in (*lvm2_names.RESERVED_PREFIXES, *(f"x{part}1" for part in lvm2_names.RESERVED_PARTS)):
        done = _refused(lvm_group, word)
        if "reserved" not in done.stderr:
            allowed.append(f"{word}: {done.stderr}")
    assert allowed == []


def _refused(group: Group, name: str) -> "subprocess.CompletedProcess[str]":
    """What lvm2 itself says of a name that we would not give it."""
    line = ["lvcreate", "-y", "--type", "linear", "-L", "4M", "-n", name, group.name]
    done = subprocess.run(line, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode != 0
    return done


@pytest.mark.parametrize("name", ["x" * 117, "a-" * 39 + "bb", "_+." + "y" * 114], ids=["plain", "hyphens", "signs"])
def test_longest_name_is_lvm2s_too(lvm2: Lvm2, lvm_group: Group, name: str) -> None:
    with pytest.raises(errors.DiskError, match="too long"):
        lvm2_names.check_name(lvm_group.name, name + "z")
    lvm2.lvcreate_thin(lvm_group.name, str(lvm_group.pool), name, 4 * Mi)
    lvm2.lvcreate_snapshot(lvm_group.name, name, "x")
    lvm2.lvremove(lvm_group.name, name, "x")
    _refused(lvm_group, name + "z")


@contextlib.contextmanager
def _locked(group: Group) -> Iterator[None]:
    """The lock of lvm2 on a group, as another command of it would hold it."""
    folder = Path("/run/lock/lvm")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"V_{group.name}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_lock_that_another_holds_is_waited_for_and_not_for_ever(lvm_group: Group) -> None:
    hurried = Lvm2(timeout=1)
    with _locked(lvm_group):
        with pytest.raises(errors.StorageUnavailable, match="lvcreate did not end within 1 s: another command holds"):
            hurried.lvcreate(lvm_group.name, "disk", 4 * Mi)
        with pytest.raises(errors.StorageUnavailable, match="lvs did not end within 1 s"):
            hurried.lvs(lvm_group.name)
    assert lvm_group.volumes() == set()


_CALLER: Final = """
import sys
from imgbackend_lvm.lvm2 import Lvm2
Lvm2().lvcreate(sys.argv[1], "disk", 4 << 20, tags=["whole"])
"""


def _named(name: str) -> set[str]:
    """The ids of processes that run the command ``name``."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == name:
                found.add(entry.name)
    return found


def _waits_for_lock(name: str) -> bool:
    """Whether a process that runs ``name`` is among those that wait for a lock of flock(2)."""
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line]
    return any(words[5] in _named(name) for words in waiting)


def test_command_whose_caller_was_killed_ends_its_work(lvm2: Lvm2, lvm_group: Group) -> None:
    with _locked(lvm_group):
        caller = subprocess.Popen([sys.executable, "-c", _CALLER, lvm_group.name], stdin=subprocess.DEVNULL)
        try:
            _await(lambda: _waits_for_lock("lvcreate"), "lvcreate did not come to its lock")
        finally:
            caller.send_signal(signal.SIGKILL)
            caller.wait(_SECONDS)
    _await(lambda: not _named("lvcreate"), "lvcreate did not end")
    made = _one(lvm2, lvm_group, "disk")
    assert (made.active, made.lv_tags) == (True, ("whole",))
    assert "SUSPENDED" not in lvm("dmsetup", "info")
    lvm2.lvremove(lvm_group.name, "disk")
