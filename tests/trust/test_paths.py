"""``instances_path`` may have any characters: the whole life of a disk works in it."""

import os
from pathlib import Path

import pytest

from imgbackend import Engine
from imgbackend.driver.abilities import Flattenable, Snapshottable
from imgbackend.types import Mi
from labs.corpus import content
from labs.images import qcow2, same_for_guest, sparse_raw

FOLDERS = ["a,b", "a b", "a:b", "a'b", 'a"b', "100%s", "ünï-日本", "-dash", "a\\b", "json:{}", "nbd:x", "a#b?c=d&e;f*"]


@pytest.mark.parametrize("images_type", ["qcow2", "raw"])
@pytest.mark.parametrize("name", [*FOLDERS, "-,' \":%é"])
def test_life_of_a_disk_in_a_folder_of_any_name(name: str, images_type: str, tmp_path: Path) -> None:
    raw = sparse_raw(tmp_path / "raw", 3 * Mi, data={0: content(70000), 2 * Mi: content(70000)})
    instances = tmp_path / name / "instances"
    images = tmp_path / name / "images"
    images.mkdir(parents=True)
    qcow2(images / "a.qcow2", 3 * Mi, content=raw)
    told = {"instances_path": str(instances), "sources.folder_path": str(images), "force_raw_images": False}
    with Engine.from_config([], {**told, "images_type": images_type}) as engine:
        _live(engine, raw, tmp_path / name)
        assert list(engine.disks()) == []
        assert list(instances.glob("web*")) == []


def _live(engine: Engine, raw: Path, folder: Path) -> None:
    image = engine.image("a.qcow2")
    for instance in ("web1", "web2"):
        made = engine.disk(instance).cache(image, image.filename, 4 * Mi)
        assert made.fetched == (instance == "web1")
        assert same_for_guest(engine.host.instances / instance / "disk", "qcow2", raw, "raw")
    assert [str(disk.id) for disk in engine.disks()] == ["web1/disk", "web2/disk"]
    assert [base.name for base in engine.bases()] == [image.filename]
    disk = engine.disk("web1")
    disk.resize(5 * Mi)
    if isinstance(disk, Snapshottable):
        disk.create_snap("before")
        assert [snap.name for snap in disk.snaps()] == ["before"]
        disk.rollback_to_snap("before")
        disk.remove_snap("before")
    for kind in ("raw", "qcow2"):
        disk.extract(folder / f"out.{kind}", kind)
        assert same_for_guest(folder / f"out.{kind}", kind, raw, "raw")
    if isinstance(disk, Flattenable):
        disk.flatten()
        assert same_for_guest(engine.host.instances / "web1" / "disk", "qcow2", raw, "raw")
    assert disk.info().size == 5 * Mi
    for each in list(engine.disks()):
        each.remove()


def test_relative_instances_path_is_of_the_folder_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sparse_raw(tmp_path / "a.raw", Mi)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Engine.from_config([], {"instances_path": "-x,y"}) as engine:
        image = engine.image(str(tmp_path / "a.raw"))
        os.chdir(tmp_path / "elsewhere")
        engine.disk("web1").cache(image, image.filename)
    assert (tmp_path / "-x,y" / "web1" / "disk").is_file()
