"""A file system that is full at each stage: the error says need and have, nothing is left, and later it works."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.cli.doctor_folders import folders
from imgbackend.system import files
from imgbackend.types import Ki, Mi
from imgbackend_qcow2.driver import Qcow2Disk
from labs import mounts
from labs.contents import bytes_of, entries
from labs.engines import MakeEngine
from labs.images import qemu_img, sparse_raw
from labs.require import require
from labs.templates import Template

MakeTmpfs = Callable[[int], Path]


@pytest.fixture
def room(small_tmpfs: MakeTmpfs) -> Path:
    """An ``instances_path`` of 8 MiB in all."""
    return small_tmpfs(8 * Mi)


@pytest.fixture
def engine(make_engine: MakeEngine, images_type: str, room: Path) -> Engine:
    return make_engine({"images_type": images_type, "instances_path": str(room)})


def full(room: Path, *, but: int) -> Path:
    """Fills it, but for so many bytes."""
    filler = room / "filler"
    with filler.open("wb") as file:
        while (free := files.free_bytes(room)) > but:
            file.write(bytes(min(free - but, 1 << 16)))
            file.flush()
    return filler


def image(tmp_path: Path, length: int, *, declared: bool = False) -> Template:
    """A raw image of so many bytes, all of them data."""
    path = tmp_path / f"image{length}"
    path.write_bytes(b"\x01" * length)
    return Template(content=path, image_id=path.name, format="raw", size=length if declared else None)


def assert_full(engine: Engine, wanted: Template, size: int | None = None) -> errors.StorageFull:
    """It is refused for want of room, with all that is left behind being that of others."""
    before = entries(engine.host.instances)
    with pytest.raises(errors.StorageFull) as caught:
        engine.disk("web1").cache(wanted, wanted.name, size)
    assert caught.value.have is not None
    assert str(engine.host.instances) in caught.value.where
    assert "\n" not in str(caught.value)
    assert entries(engine.host.instances) == before
    assert engine.disk("web1").exists() is False
    return caught.value


def assert_works(engine: Engine, wanted: Template, size: int | None = None) -> None:
    disk = engine.disk("web1")
    disk.cache(wanted, wanted.name, size)
    assert bytes_of(disk).rstrip(b"\0") == wanted.content.read_bytes().rstrip(b"\0")


def test_image_of_declared_size_is_refused_before_it_is_fetched(engine: Engine, tmp_path: Path) -> None:
    wanted = image(tmp_path, 9 * Mi, declared=True)
    refused = assert_full(engine, wanted)
    assert refused.need == 9 * Mi
    assert refused.have is not None
    assert refused.have <= 8 * Mi
    assert wanted.fetches == 0


def test_image_of_unknown_size_that_does_not_fit_leaves_nothing(engine: Engine, tmp_path: Path, room: Path) -> None:
    wanted, filler = image(tmp_path, 3 * Mi), full(room, but=Mi)
    assert_full(engine, wanted)
    assert not (room / "_base" / wanted.name).exists()
    filler.unlink()
    assert_works(engine, wanted)


def test_conversion_that_does_not_fit_is_refused_and_leaves_nothing(engine: Engine, tmp_path: Path, room: Path) -> None:
    raw = sparse_raw(tmp_path / "raw", 4 * Mi, data={0: b"\x01" * (3 * Mi)})
    path = tmp_path / "small"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(path))
    wanted = Template(content=path, image_id="small", format="qcow2")
    filler = full(room, but=Mi)
    refused = assert_full(engine, wanted)
    assert refused.need is not None
    assert refused.need >= 3 * Mi
    assert not (room / "_base" / wanted.name).exists()
    filler.unlink()
    disk = engine.disk("web1")
    disk.cache(wanted, wanted.name)
    assert bytes_of(disk) == raw.read_bytes()


def test_raw_copy_that_does_not_fit_says_need_and_have(make_engine: MakeEngine, tmp_path: Path, room: Path) -> None:
    engine = make_engine({"images_type": "raw", "instances_path": str(room)})
    wanted = image(tmp_path, 3 * Mi)
    engine.disk("web0").cache(wanted, wanted.name)
    filler = full(room, but=Mi)
    refused = assert_full(engine, wanted)
    assert refused.need is not None
    assert refused.need >= 3 * Mi
    assert (room / "_base" / wanted.name).exists()  # the base is others' too
    filler.unlink()
    engine.disk("web0").remove()
    assert_works(engine, wanted)
    assert wanted.fetches == 1


@pytest.mark.parametrize("left", [4 * Ki, 8 * Ki, 16 * Ki, 32 * Ki, 64 * Ki, 128 * Ki])
def test_full_at_the_record_or_the_overlay_leaves_nothing(
    engine: Engine, tmp_path: Path, room: Path, left: int
) -> None:
    """However little is left: which of the small files is the one too many does not matter."""
    wanted = image(tmp_path, Mi)
    engine.disk("web0").cache(wanted, wanted.name)
    filler = full(room, but=left)
    try:
        engine.disk("web1").cache(wanted, wanted.name)
    except errors.StorageFull as exc:
        assert exc.have is not None  # noqa: PT017 - it may fit, or not
        assert not any(name.startswith("web1/") for name in entries(room))
        assert engine.disk("web1").exists() is False
    filler.unlink()
    assert_works(engine, wanted)
    assert bytes_of(engine.disk("web0")) == wanted.content.read_bytes()


def test_preallocation_that_does_not_fit_leaves_nothing(
    make_engine: MakeEngine, images_type: str, tmp_path: Path, room: Path
) -> None:
    engine = make_engine({"images_type": images_type, "instances_path": str(room), "preallocate_images": "space"})
    wanted = image(tmp_path, Mi)
    engine.disk("web0").cache(wanted, wanted.name)  # so that its base, which stays, is there before
    assert_full(engine, wanted, 16 * Mi)
    assert_works(engine, wanted, 2 * Mi)


def test_growth_that_does_not_fit_leaves_the_disk_as_it_was(
    make_engine: MakeEngine, images_type: str, tmp_path: Path, room: Path
) -> None:
    engine = make_engine({"images_type": images_type, "instances_path": str(room), "preallocate_images": "space"})
    wanted = image(tmp_path, Mi)
    disk = engine.disk("web1")
    disk.cache(wanted, wanted.name, 2 * Mi)
    before = bytes_of(disk)
    with pytest.raises(errors.StorageFull):
        disk.resize(64 * Mi)
    assert bytes_of(disk)[: len(before)] == before


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_export_that_does_not_fit_leaves_nothing(
    engine: Engine, tmp_path: Path, small_tmpfs: MakeTmpfs, format: str
) -> None:
    wanted = image(tmp_path, 2 * Mi)
    disk = engine.disk("web1")
    disk.cache(wanted, wanted.name)
    place = small_tmpfs(Mi)
    with pytest.raises(errors.StorageFull) as caught:
        disk.extract(place / "target", format)
    assert str(place) in caught.value.where
    assert caught.value.have is not None
    assert list(place.iterdir()) == []
    disk.extract(tmp_path / "target", format)


def test_removal_works_on_a_full_file_system(engine: Engine, tmp_path: Path, room: Path) -> None:
    wanted = image(tmp_path, Mi)
    for name in ("disk", "disk.rescue"):
        engine.disk("web1", name).cache(wanted, wanted.name)
    full(room, but=0)
    engine.disk("web1").remove()
    engine.disk("web1", "disk.rescue").remove()
    assert not (room / "web1").exists()


def test_flatten_that_does_not_fit_keeps_the_bytes(make_engine: MakeEngine, tmp_path: Path, room: Path) -> None:
    disk = make_engine({"images_type": "qcow2", "instances_path": str(room)}).disk("web1")
    wanted = image(tmp_path, 3 * Mi)
    disk.cache(wanted, wanted.name)
    filler = full(room, but=Mi)
    assert isinstance(disk, Qcow2Disk)
    with pytest.raises(errors.StorageFull) as caught:
        disk.flatten()
    assert caught.value.where == str(room / "web1")
    assert caught.value.have is not None
    filler.unlink()
    assert bytes_of(disk) == wanted.content.read_bytes()
    disk.flatten()
    assert bytes_of(disk) == wanted.content.read_bytes()


# A quota, and a file system that does not tell its size


@pytest.fixture
def limited(btrfs: Path) -> Iterator[Path]:
    """An ``instances_path`` whose files may take 8 MiB, on a file system that has much more."""
    folder = btrfs / "limited"
    btrfs_do("quota", "enable", str(btrfs))
    btrfs_do("subvolume", "create", str(folder))
    btrfs_do("qgroup", "limit", "8M", str(folder))
    yield folder
    btrfs_do("subvolume", "delete", str(folder))
    btrfs_do("quota", "disable", str(btrfs))


def btrfs_do(*words: str) -> None:
    subprocess.run(["btrfs", *words], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_quota_that_is_used_up_is_told_as_one_and_not_as_what_is_free(
    make_engine: MakeEngine, tmp_path: Path, limited: Path, format: str
) -> None:
    """Whether the image itself is too large for it, or what is unpacked of it."""
    engine = make_engine({"images_type": "raw", "instances_path": str(limited)})
    wanted = image(tmp_path, 16 * Mi)
    if format == "qcow2":
        packed = tmp_path / "packed.qcow2"
        qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", str(wanted.content), str(packed))
        wanted = wanted.but(content=packed, format="qcow2")
    with pytest.raises(errors.StorageFull, match="a quota is used up") as caught:
        engine.disk("web1").cache(wanted, wanted.name)
    assert caught.value.is_quota
    assert caught.value.have is None
    assert "are free" not in str(caught.value)
    assert entries(limited) == set()
    btrfs_do("qgroup", "limit", "none", str(limited))
    engine.disk("web1").cache(wanted, wanted.name)
    assert bytes_of(engine.disk("web1")) == b"\x01" * 16 * Mi


def test_file_system_that_tells_no_size_is_told_as_having_0_of_0(make_engine: MakeEngine, tmp_path: Path) -> None:
    try:
        with mounts.ramfs(tmp_path / "ramfs") as place:
            engine = make_engine({"images_type": "raw", "instances_path": str(place)})
            wanted = image(tmp_path, Mi, declared=True)
            with pytest.raises(errors.StorageFull, match="0 of 0"):
                engine.disk("web1").cache(wanted, wanted.name)
            found = {finding.check: finding for finding in folders(place, place / "_base", group=None)}
            assert found["free space"].verdict == "warning"
    except mounts.MountError as exc:
        require("ramfs", str(exc))
