"""A link in a disk's place: followed to the instance's own file, and never replaced, nor taken for somebody else's."""

import os
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Mi
from labs.engines import MakeEngine
from labs.templates import Template


@pytest.fixture(params=["raw", "qcow2"])
def engine(make_engine: MakeEngine, request: pytest.FixtureRequest) -> Engine:
    return make_engine({"images_type": request.param})


@pytest.fixture
def disk(engine: Engine, raw_image: Template) -> Any:
    """One that is there."""
    made = engine.disk("web1")
    made.cache(raw_image, raw_image.name)
    return made


def linked(path: Path, target: Path) -> Path:
    """The file is moved to ``target``, with a link in its place."""
    path.rename(target)
    path.symlink_to(target)
    return target


def test_disk_behind_a_link_works_as_in_its_place(disk: Any, tmp_path: Path) -> None:
    target = linked(disk.path, tmp_path / "elsewhere")
    size, length = disk.info().size, target.stat().st_size
    disk.resize(64 * Mi)
    assert disk.info().size == 64 * Mi > size
    assert target.stat().st_size > length or disk.format == "qcow2"


def test_disk_whose_link_leads_to_nothing_is_away_and_keeps_link_and_record(
    engine: Engine, disk: Any, raw_image: Template, tmp_path: Path
) -> None:
    """Its file system is not mounted."""
    target = linked(disk.path, tmp_path / "elsewhere")
    away = target.rename(tmp_path / "away")
    for verb in (
        disk.info,
        disk.remove,
        lambda: engine.disk("web1").cache(raw_image, raw_image.name),
        lambda: disk.resize(64 * Mi),
    ):
        with pytest.raises(errors.StorageUnavailable, match="mount its file system"):
            verb()
    assert [str(each.id) for each in engine.disks()] == ["web1/disk"]
    assert disk.path.is_symlink()
    assert set(engine.host.records.all("web1")) == {"disk"}
    away.rename(target)
    assert disk.cache(raw_image, raw_image.name).way == "exists"
    target.unlink()
    disk.remove(force=True)
    assert not disk.path.is_symlink()


def test_link_to_another_instances_disk_is_no_disk_of_this_one(engine: Engine, disk: Any, raw_image: Template) -> None:
    other: Any = engine.disk("web2")
    other.cache(raw_image, raw_image.name)
    before = other.path.read_bytes()
    disk.path.unlink()
    disk.path.symlink_to(other.path)
    for verb in (disk.info, lambda: disk.resize(64 * Mi), lambda: disk.cache(raw_image, raw_image.name)):
        with pytest.raises(errors.DiskError, match="not of web1"):
            verb()
    assert other.path.read_bytes() == before
    disk.remove()
    assert not disk.path.is_symlink()
    assert other.path.read_bytes() == before


def test_format_of_a_disk_that_is_on_no_record_is_not_guessed(
    make_engine: MakeEngine, raw_image: Template, tmp_path: Path
) -> None:
    """A guest may have written the header of a qcow2, with another's base in it, to its raw disk."""
    make_engine({"images_type": "raw"}).disk("web1").cache(raw_image, raw_image.name)
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web2").cache(raw_image, raw_image.name)
    written = (engine.host.instances / "web2" / "disk").read_bytes()
    (engine.host.instances / "web1" / "disk").write_bytes(written)
    for name in ("disks.json", "disk.info"):
        (engine.host.instances / "web1" / name).unlink()
    disk: Any = engine.disk("web1")
    for verb in (
        disk.info,
        lambda: disk.extract(tmp_path / "copy", "raw"),
        lambda: disk.cache(raw_image, raw_image.name),
        lambda: disk.resize(64 * Mi),
    ):
        with pytest.raises(errors.DiskError, match="nothing tells its format"):
            verb()
    disk.remove()
    assert not disk.path.exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_no_disk_and_is_not_waited_for(engine: Engine, disk: Any, make: Any) -> None:
    disk.path.unlink()
    make(disk.path)
    with pytest.raises(errors.DiskError, match="is no file"):
        disk.info()
    assert [str(each.id) for each in engine.disks()] == ["web1/disk"]
