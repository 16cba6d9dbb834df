"""The lab of LVM is real: what the tests of the driver stand on does what LVM does."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from imgbackend.types import Mi
from labs import leaks
from labs.lvm import Group, MakeGroup, lvm

_DATA = random.Random(4).randbytes(Mi)


def _write(device: Path, data: bytes, at: int = 0) -> None:
    with device.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, at)
        os.fsync(file.fileno())


def _read(device: Path, size: int, at: int = 0) -> bytes:
    with device.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, at)


@pytest.mark.parametrize("how", [["-L", "64M"], ["-V", "64M", "--thinpool", "thinpool"]], ids=["thick", "thin"])
def test_volume_keeps_what_was_written(lvm_group: Group, how: list[str]) -> None:
    lvm("lvcreate", "-q", "-y", *how, "-n", "volume", lvm_group.name)
    device = lvm_group.device("volume")
    _write(device, _DATA, 63 * Mi)
    lvm("lvchange", "-an", f"{lvm_group.name}/volume")
    assert not device.exists()
    lvm("lvchange", "-ay", f"{lvm_group.name}/volume")
    assert _read(device, Mi, 63 * Mi) == _DATA
    assert lvm_group.volumes() == {"volume"}
    lvm("lvremove", "-f", f"{lvm_group.name}/volume")


def test_thin_snapshot_keeps_what_its_origin_had(lvm_group: Group) -> None:
    name = lvm_group.name
    lvm("lvcreate", "-q", "-y", "-V", "64M", "--thinpool", "thinpool", "-n", "origin", name)
    _write(lvm_group.device("origin"), _DATA)
    lvm("lvcreate", "-q", "-kn", "-ay", "-s", "-n", "later", f"{name}/origin")
    _write(lvm_group.device("origin"), bytes(Mi))
    assert _read(lvm_group.device("later"), Mi) == _DATA
    assert _read(lvm_group.device("origin"), Mi) == bytes(Mi)
    lvm("lvremove", "-f", f"{name}/later", f"{name}/origin")


def test_full_pool_has_no_room(lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(64 * Mi, pool_size=16 * Mi)
    lvm("lvchange", "-q", "--errorwhenfull", "y", f"{group.name}/pool")
    lvm("lvcreate", "-q", "-y", "-V", "64M", "--thinpool", "pool", "-n", "volume", group.name)
    for at in range(16):
        _write(group.device("volume"), _DATA, at * Mi)
    with pytest.raises(OSError, match=r"space|Input/output"):
        _write(group.device("volume"), _DATA, 16 * Mi)
    assert float(group.field("pool", "data_percent")) == 100


def test_dirty_group_shows_what_was_there(lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(32 * Mi, dirty=b"secret!")
    lvm("lvcreate", "-q", "-y", "-L", "16M", "-n", "volume", group.name)
    assert b"secret!secret!" in _read(group.device("volume"), Mi, 8 * Mi)


def test_pool_has_its_metadata_size_and_zeroing(lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(64 * Mi, pool_size=32 * Mi, metadata_size=8 * Mi, zeroing=False)
    assert group.field("pool", "lv_metadata_size") == str(8 * Mi)
    assert group.field("pool", "zero") == ""
    assert group.volumes() == set()


def test_what_is_left_is_named_and_cleared(lvm_make_group: MakeGroup) -> None:
    group = lvm_make_group(64 * Mi, pool_size=16 * Mi)
    assert group.left() == []
    lvm("lvcreate", "-q", "-y", "-V", "16M", "--thinpool", "pool", "-n", "a-disk", group.name)
    lvm("lvcreate", "-q", "-y", "-L", "4M", "-n", "other", group.name)
    lvm("dmsetup", "create", f"{group.name}-stray", "--table", "0 2048 zero")
    assert group.left() == ["volume a-disk", "volume other", f"device {group.name}-stray"]
    lvm("dmsetup", "remove", f"{group.name}-stray")
    group.clear()
    assert group.left() == []


def test_process_that_is_left_is_seen(lvm_group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_PATIENCE", 0.0)
    before = leaks.Held.now()
    with subprocess.Popen(["sleep", "60"]) as child:
        left = leaks.left_since(before)
        child.kill()
    assert [each for each in left if each.startswith(f"child process {child.pid} ")]
    assert leaks.left_since(before) == []
