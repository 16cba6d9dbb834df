"""Pools and groups that are full, or fill up: told at once, with what is needed and what is free."""

import fcntl
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Ki, Mi
from labs.engines import MakeEngine
from labs.images import scattered, sparse_raw
from labs.lvm import Group, MakeGroup, lvm
from labs.templates import Template
from labs.volumes import emptied, options

_HELD_BACK: Final = Path("/sys/module/dm_thin_pool/parameters/no_space_timeout")
"""How many seconds the kernel keeps a write to a pool without room waiting."""


def _engine(make_engine: MakeEngine, group: Group, **own: Any) -> Engine:
    return make_engine({"images_type": "lvm", **options(group, **own)})


def _image(folder: Path, size: int, share: float = 1.0) -> Template:
    path = sparse_raw(folder / f"{size}-{share}.raw", size, data=scattered(size, share))
    return Template(content=path, image_id=path.name, format="raw")


def test_image_that_does_not_fit_the_pool_is_refused_before_it_is_written(
    lvm_make_group: MakeGroup, make_engine: MakeEngine, tmp_path: Path
) -> None:
    group = lvm_make_group(64 * Mi, pool_size=16 * Mi)
    engine, image = _engine(make_engine, group), _image(tmp_path, 24 * Mi)
    with pytest.raises(errors.StorageFull) as caught:
        engine.disk("vm").cache(image, image.name)
    assert (caught.value.need, caught.value.have) == (24 * Mi, 16 * Mi)
    assert group.volumes() == set()
    assert float(group.field("pool", "data_percent")) == 0
    fits = _image(tmp_path, 24 * Mi, 0.5)
    assert engine.disk("vm").cache(fits, fits.name).way == "snapshot"
    emptied(engine)


@pytest.fixture
def impatient_kernel() -> Iterator[None]:
    """Writes to a pool without room are held back for seconds; as a kernel starts, it is a minute."""
    before = _HELD_BACK.read_text()
    _HELD_BACK.write_text("8")
    yield
    _HELD_BACK.write_text(before)


@pytest.mark.usefixtures("impatient_kernel")
def test_pool_that_fills_up_ends_the_import_and_is_told(
    lvm_make_group: MakeGroup, make_engine: MakeEngine, tmp_path: Path
) -> None:
    """Another guest takes the room meanwhile; the kernel holds writes back for a while, and progress is told on."""
    group = lvm_make_group(64 * Mi, pool_size=16 * Mi)
    engine, image = _engine(make_engine, group), _image(tmp_path, 12 * Mi)
    lvm("lvcreate", "-q", "-y", "--type", "thin", "-V", "16m", "--thinpool", "pool", "-n", "guest", group.name)
    taken, told = threading.Event(), list[int]()

    def progress(phase: str, done: int, _total: int | None) -> None:
        if phase != "import":
            return
        told.append(done)
        if not taken.is_set():
            taken.set()
            with group.device("guest").open("r+b", buffering=0) as guest:
                for _ in range(16):
                    guest.write(b"\x11" * (512 * Ki))
                os.fsync(guest.fileno())

    with pytest.raises(errors.StorageFull) as caught:
        engine.disk("vm").cache(image, image.name, progress=progress)
    assert "thin pool" in caught.value.where
    assert len(told) > 2
    assert group.volumes() == {"guest"}
    lvm("lvremove", "-q", "-y", f"{group.name}/guest")
    assert engine.disk("vm").cache(image, image.name).fetched
    emptied(engine)


def test_no_disk_is_made_in_a_pool_that_is_full(
    lvm_make_group: MakeGroup, make_engine: MakeEngine, tmp_path: Path
) -> None:
    group = lvm_make_group(64 * Mi, pool_size=8 * Mi)
    engine, image = _engine(make_engine, group), _image(tmp_path, 4 * Mi)
    disk: Any = engine.disk("vm")
    disk.cache(image, image.name, 8 * Mi)
    with disk.source().path.open("r+b", buffering=0) as guest:
        for _ in range(4):
            guest.write(b"\x22" * Mi)
        os.fsync(guest.fileno())
    for call in (lambda: engine.disk("vm2").cache(image, image.name), lambda: disk.create_snap("one")):
        with pytest.raises(errors.StorageFull) as caught:
            call()
        assert caught.value.have == 0
    assert not engine.disk("vm2").exists()
    assert engine.backend().capacity().free == 0
    emptied(engine)


def _message(device: str, text: str) -> None:
    """Send a message to a target of device-mapper's, as ``dmsetup message`` does, in no time.

    ``struct dm_ioctl`` and ``struct dm_target_msg`` of linux/dm-ioctl.h; DM_TARGET_MSG is ``_IOWR(0xfd, 14)``.
    """
    body = struct.pack("Q", 0) + text.encode() + b"\0"
    head = struct.pack("3I7IQ128s129s7x", 4, 0, 0, 312 + len(body), 312, 0, 0, 0, 0, 0, 0, device.encode(), b"")
    with open("/dev/mapper/control", "r+b", buffering=0) as control:
        fcntl.ioctl(control, 0xC138FD0E, bytearray(head + body))


def test_full_metadata_are_told(lvm_make_group: MakeGroup, make_engine: MakeEngine, tmp_path: Path) -> None:
    group = lvm_make_group(64 * Mi, pool_size=16 * Mi, metadata_size=2 * Mi)
    engine, image = _engine(make_engine, group), _image(tmp_path, 4 * Mi)
    lvm("lvcreate", "-q", "-y", "--type", "thin", "-V", "4m", "--thinpool", "pool", "-n", "guest", group.name)
    pool = f"{group.name}-pool-tpool"
    numbers = iter(range(1000, 2000))
    while float(group.field("pool", "metadata_percent")) < 90:
        for _ in range(64):
            _message(pool, f"create_thin {next(numbers)}")
    with pytest.raises(errors.StorageFull, match="metadata"):
        engine.disk("vm").cache(image, image.name)
    assert group.volumes() == {"guest"}


def test_thick_disk_that_does_not_fit_is_refused_before_it_is_written(
    lvm_make_group: MakeGroup, make_engine: MakeEngine, tmp_path: Path
) -> None:
    group = lvm_make_group(20 * Mi)
    engine, image = _engine(make_engine, group), _image(tmp_path, 4 * Mi, 0.25)
    free = engine.backend().capacity().free
    with pytest.raises(errors.StorageFull) as caught:
        engine.disk("vm").cache(image, image.name, free + 4 * Mi)
    assert (caught.value.need, caught.value.have) == (free + 4 * Mi, free)
    disk = engine.disk("vm")
    disk.cache(image, image.name)
    with pytest.raises(errors.StorageFull):
        disk.resize(free + 4 * Mi)
    assert disk.info().size == 4 * Mi
    emptied(engine)
    assert group.volumes() == set()


def test_pool_that_does_not_zero_is_refused(lvm_make_group: MakeGroup, make_engine: MakeEngine) -> None:
    group = lvm_make_group(32 * Mi, pool_size=8 * Mi, zeroing=False)
    with pytest.raises(errors.ConfigError, match=f"lvchange --zero y {group.name}/pool"):
        _engine(make_engine, group).backend()
    assert _engine(make_engine, group, allow_unzeroed_pool=True).backend().capacity().total == 8 * Mi


def test_what_is_missing_is_told_where_the_backend_is_opened(
    lvm_make_group: MakeGroup, make_engine: MakeEngine
) -> None:
    group = lvm_make_group(16 * Mi)
    lvm("lvcreate", "-q", "-y", "-L", "4m", "-n", "plain", group.name)
    for own, words in (
        ({"volume_group": "none"}, "no volume group none"),
        ({"thin_pool": "none"}, "lvcreate --type thin-pool"),
        ({"thin_pool": "plain"}, "is no thin pool"),
    ):
        with pytest.raises(errors.ConfigError, match=words):
            _engine(make_engine, group, **own).backend()
