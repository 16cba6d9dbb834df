"""Ranges of volumes are overwritten, and nothing else is, on a real volume group."""

import os
import random
from pathlib import Path
from typing import Final

import pytest

from imgbackend import errors
from imgbackend.types import Mi
from imgbackend_lvm import wipe
from imgbackend_lvm.lvm2 import Lvm2
from labs.lvm import Group, lvm

_DATA: Final = random.Random(6).randbytes(Mi)


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


def _unheard(done: int, total: int) -> None:
    assert done <= total


def test_range_is_zeroed_and_no_byte_beside_it(lvm2: Lvm2, lvm_group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wipe, "STEP", Mi)
    lvm2.lvcreate(lvm_group.name, "disk", 4 * Mi)
    device, heard = lvm_group.device("disk"), list[tuple[int, int]]()
    for at in range(4):
        _write(device, _DATA, at * Mi)
    wipe.zero(lvm2.commands, lvm_group.name, "disk", 512, 2 * Mi, lambda done, total: heard.append((done, total)))
    assert heard == [(0, 2 * Mi), (Mi, 2 * Mi), (2 * Mi, 2 * Mi)]
    assert _read(device, 512) == _DATA[:512]
    assert _read(device, 2 * Mi, 512) == bytes(2 * Mi)
    assert _read(device, Mi - 512, 2 * Mi + 512) == _DATA[512:]
    lvm2.lvremove(lvm_group.name, "disk")


def test_range_is_shredded_and_no_byte_beside_it(lvm2: Lvm2, lvm_group: Group) -> None:
    lvm2.lvcreate(lvm_group.name, "disk", 4 * Mi)
    device, heard = lvm_group.device("disk"), list[tuple[int, int]]()
    for at in range(4):
        _write(device, _DATA, at * Mi)
    wipe.shred(lvm2.commands, lvm_group.name, "disk", Mi, Mi + 512, lambda done, total: heard.append((done, total)))
    assert heard[0] == (0, 3 * (Mi + 512))
    assert heard[-1] == (3 * (Mi + 512), 3 * (Mi + 512))
    assert _read(device, Mi) == _DATA
    shredded = _read(device, Mi + 512, Mi)
    assert all(shredded[at : at + 16] != (_DATA + _DATA)[at : at + 16] for at in range(0, Mi + 512, 512))
    assert len(set(shredded[-512:])) > 100
    assert _read(device, Mi - 512, 2 * Mi + 512) == _DATA[512:]
    lvm2.lvremove(lvm_group.name, "disk")


def test_wiping_stops_where_progress_says_so(lvm2: Lvm2, lvm_group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wipe, "STEP", Mi)
    lvm2.lvcreate(lvm_group.name, "disk", 4 * Mi)
    for at in range(4):
        _write(lvm_group.device("disk"), _DATA, at * Mi)

    def stop(done: int, total: int) -> None:
        if done == 2 * Mi:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        wipe.zero(lvm2.commands, lvm_group.name, "disk", 0, 4 * Mi, stop)
    assert _read(lvm_group.device("disk"), 3 * Mi, Mi) == bytes(Mi) + _DATA + _DATA
    lvm2.lvremove(lvm_group.name, "disk")


def test_mounted_volume_is_not_zeroed(lvm2: Lvm2, lvm_group: Group, tmp_path: Path) -> None:
    lvm2.lvcreate(lvm_group.name, "disk", 8 * Mi)
    lvm("mke2fs", "-q", "-F", str(lvm_group.device("disk")))
    lvm("mount", str(lvm_group.device("disk")), str(tmp_path))
    try:
        with pytest.raises(errors.DiskBusy, match="in use"):
            wipe.zero(lvm2.commands, lvm_group.name, "disk", 0, 8 * Mi, _unheard)
        with pytest.raises(errors.DiskBusy, match="in use"):
            lvm2.lvremove(lvm_group.name, "disk")
        assert (tmp_path / "lost+found").is_dir()
    finally:
        lvm("umount", str(tmp_path))
    lvm2.lvremove(lvm_group.name, "disk")


def test_only_the_volumes_own_device_is_wiped(lvm2: Lvm2, lvm_group: Group, tmp_path: Path) -> None:
    group = lvm_group.name
    lvm2.lvcreate(group, "other", 4 * Mi)
    _write(lvm_group.device("other"), _DATA)
    file = tmp_path / "file"
    file.write_bytes(_DATA)
    for target in (lvm_group.device("other").resolve(), file, tmp_path):
        lvm_group.device("disk").symlink_to(target)
        with pytest.raises(errors.StorageError, match="is not the device of this volume"):
            wipe.zero(lvm2.commands, group, "disk", 0, Mi, _unheard)
        lvm_group.device("disk").unlink()
    with pytest.raises(errors.DiskNotFound, match="activate"):
        wipe.shred(lvm2.commands, group, "disk", 0, Mi, _unheard)
    assert file.read_bytes() == _read(lvm_group.device("other"), Mi) == _DATA
    lvm2.lvremove(group, "other")
