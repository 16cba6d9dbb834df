"""Two hosts on one ``instances_path``, and two folders of one host: each keeps off what is the other's."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from imgbackend import Engine, errors
from imgbackend.state import domain_xml, folder_marker
from imgbackend.types import Mi, Owner, Progress
from labs.engines import MakeEngine
from labs.templates import Template
from labs.verbs import CHANGES, FLATTEN, SNAPSHOTS

VERBS = CHANGES | {name: SNAPSHOTS[name] for name in ("snapshot", "rollback", "remove_snap")} | FLATTEN
"""What changes a disk."""


@pytest.fixture
def host_a(make_engine: MakeEngine) -> Engine:
    return make_engine({"host": "a", "images_type": "qcow2"})


@pytest.fixture
def host_b(make_engine: MakeEngine) -> Engine:
    return make_engine({"host": "b", "images_type": "qcow2"})


@pytest.mark.parametrize("verb", VERBS)
def test_disk_of_another_host_is_not_changed_and_its_owner_is_named(
    host_a: Engine, host_b: Engine, raw_image: Template, verb: str
) -> None:
    made: Any = host_a.disk("web1")
    made.cache(raw_image, raw_image.name)
    made.create_snap("kept")
    before = made.info(), made.snaps(), host_a.host.path(made.id).read_bytes()
    with pytest.raises(errors.DiskElsewhere, match=r"the host a \(folder"):
        VERBS[verb](host_b.disk("web1"), raw_image)
    assert (made.info(), made.snaps(), host_a.host.path(made.id).read_bytes()) == before


def test_disk_of_another_host_can_be_looked_at_and_copied(
    host_a: Engine, host_b: Engine, raw_image: Template, tmp_path: Path
) -> None:
    host_a.disk("web1").cache(raw_image, raw_image.name)
    seen = host_b.disk("web1")
    assert seen.exists()
    assert seen.info() == host_a.disk("web1").info()
    seen.extract(tmp_path / "copy.raw", "raw")
    assert (tmp_path / "copy.raw").read_bytes() == raw_image.content.read_bytes()


def test_disks_of_one_instance_have_one_owner(host_a: Engine, host_b: Engine, raw_image: Template) -> None:
    host_a.disk("web1").cache(raw_image, raw_image.name)
    with pytest.raises(errors.DiskElsewhere):
        host_b.disk("web1", "disk.rescue").cache(raw_image, raw_image.name)
    assert not host_b.disk("web1", "disk.rescue").exists()


def test_platform_that_decides_placement_is_asked_instead(
    host_a: Engine, make_engine: MakeEngine, raw_image: Template, instances: Path
) -> None:
    asked: list[tuple[str, Owner, Owner]] = []

    class Everywhere:
        def is_here(self, instance: str, owner: Owner, me: Owner) -> bool:
            asked.append((instance, owner, me))
            return True

    host_a.disk("web1").cache(raw_image, raw_image.name)
    overrides = {"host": "b", "instances_path": str(instances)}
    with Engine.from_config([], overrides, placement=Everywhere()) as host_b:
        host_b.disk("web1").remove()
    assert not host_a.disk("web1").exists()
    assert {(instance, owner.host, me.host) for instance, owner, me in asked} == {("web1", "a", "b")}


def test_record_without_an_owner_is_this_folders(host_a: Engine, host_b: Engine, raw_image: Template) -> None:
    """As every record is that an older version wrote."""
    host_a.disk("web1").cache(raw_image, raw_image.name)
    path = host_a.host.instances / "web1" / "disks.json"
    content = json.loads(path.read_text())
    del content["owner"]
    path.write_text(json.dumps(content))
    (host_a.host.instances / folder_marker.NAME).unlink()
    host_b.disk("web1").resize(64 * Mi)
    host_b.disk("web1").remove()
    assert not host_a.disk("web1").exists()


def test_folder_is_the_same_under_another_path(host_a: Engine, tmp_path: Path, raw_image: Template) -> None:
    host_a.disk("web1").cache(raw_image, raw_image.name)
    (tmp_path / "elsewhere").symlink_to(host_a.host.instances)
    with Engine.from_config([], {"host": "a", "instances_path": str(tmp_path / "elsewhere")}) as other:
        other.disk("web1").remove()
    assert not host_a.disk("web1").exists()


def test_folder_that_has_hosts_on_record_and_nothing_else_is_taken_for_an_unmounted_one(
    make_engine: MakeEngine, raw_image: Template, instances: Path
) -> None:
    instances.mkdir(exist_ok=True)
    (instances / "compute_nodes").write_text('{"a": 1.0}')
    with pytest.raises(errors.StorageUnavailable, match="mount its file system"):
        make_engine({"images_type": "qcow2"}).disk("web1").cache(raw_image, raw_image.name)
    assert [path.name for path in instances.iterdir()] == ["compute_nodes"]


PASSES: dict[str, Callable[[Engine], object]] = {
    "prune": lambda engine: engine.cache.prune(),
    "leftovers": lambda engine: engine.cache.leftovers(remove=True),
    "disk list": lambda engine: list(engine.disks()),
}


@pytest.mark.parametrize("name", PASSES)
def test_pass_over_a_folder_that_is_not_mounted_does_nothing(
    make_engine: MakeEngine, instances: Path, name: str
) -> None:
    instances.mkdir(exist_ok=True)
    (instances / "compute_nodes").write_text('{"a": 1.0}')
    with pytest.raises(errors.StorageUnavailable, match="mount its file system"):
        PASSES[name](make_engine({"images_type": "qcow2"}))
    assert [path.name for path in instances.iterdir()] == ["compute_nodes"]


@pytest.mark.parametrize("name", PASSES)
def test_pass_over_a_folder_whose_link_leads_to_nothing_does_nothing(
    make_engine: MakeEngine, tmp_path: Path, name: str
) -> None:
    link = tmp_path / "linked"
    link.symlink_to(tmp_path / "not mounted")
    with pytest.raises(errors.StorageUnavailable, match="mount what it leads to"):
        PASSES[name](make_engine({"images_type": "qcow2", "instances_path": str(link)}))
    assert not (tmp_path / "not mounted").exists()


def test_folder_that_a_newer_version_made_is_refused_and_left_alone(
    host_a: Engine, make_engine: MakeEngine, raw_image: Template
) -> None:
    host_a.disk("web1").cache(raw_image, raw_image.name)
    path = host_a.host.instances / folder_marker.NAME
    content = json.dumps(json.loads(path.read_text()) | {"version": 2})
    path.write_text(content)
    with pytest.raises(errors.ConfigError, match="version 2"):
        make_engine({"host": "a"}).disk("web1").remove()
    assert host_a.disk("web1").exists()
    assert path.read_text() == content


def test_each_loss_of_data_is_one_line_of_the_log(
    host_a: Engine, raw_image: Template, caplog: pytest.LogCaptureFixture
) -> None:
    disk: Any = host_a.disk("web1")
    disk.cache(raw_image, raw_image.name)
    disk.create_snap("first")
    with caplog.at_level("INFO", "imgbackend.audit"):
        disk.rollback_to_snap("first")
        disk.remove_snap("first")
        disk.remove()
        disk.remove()
    acts = [record.getMessage() for record in caplog.records if record.name == "imgbackend.audit"]
    assert [line.split()[0] for line in acts] == ["act=rollback", "act=remove-snapshot", "act=remove"]
    assert all('host="a" what="web1/disk" store="qcow2"' in line for line in acts)


def test_hosts_that_share_the_base_folder_alone_fetch_a_base_once(
    make_engine: MakeEngine, raw_image: Template, tmp_path: Path
) -> None:
    """Each has an ``instances_path`` of its own, whose ``_base`` is a link to the same folder."""
    (tmp_path / "shared" / "_base").mkdir(parents=True)
    engines = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_base").symlink_to(tmp_path / "shared" / "_base")
        engines.append(make_engine({"host": name, "instances_path": str(tmp_path / name), "images_type": "qcow2"}))
    first, second = engines
    waited: list[str] = []

    def give_up(phase: str, _done: int, _total: int | None) -> None:
        waited.append(phase)
        raise TimeoutError

    with first.host.locks.base(raw_image.name), ThreadPoolExecutor(1) as elsewhere:
        attempt = elsewhere.submit(second.disk("web1").cache, raw_image, raw_image.name, progress=give_up)
        with pytest.raises(TimeoutError):
            attempt.result(60)
        assert waited == ["wait"]
    assert second.disk("web1").cache(raw_image, raw_image.name).fetched
    assert not first.disk("web2").cache(raw_image, raw_image.name).fetched


@pytest.fixture(params=["raw", "qcow2"])
def images_type(request: pytest.FixtureRequest) -> str:
    kept: str = request.param
    return kept


def meanwhile(happens: Callable[[], object]) -> Callable[[Path, Progress], None]:
    """What another host does while an image is fetched; in a thread, which holds none of the fetch's locks."""

    def run(_target: Path, _progress: Progress) -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(happens).result(timeout=60)

    return run


def test_instance_that_another_host_makes_during_a_fetch_is_that_hosts(
    host_a: Engine, host_b: Engine, raw_image: Template, images_type: str
) -> None:
    """Both found no instance of that name."""
    other = raw_image.but(image_id="other")
    slow = raw_image.but(before=meanwhile(lambda: host_b.disk("web1").cache(other, other.name)))
    late = host_a.disk("web1", "disk.local", images_type)
    with pytest.raises(errors.DiskElsewhere, match=r"the host b \(folder"):
        late.cache(slow, slow.name)
    assert not late.exists()
    assert host_b.disk("web1").exists()
    with pytest.raises(errors.DiskElsewhere):
        host_a.disk("web1").remove()


def test_instance_that_is_taken_over_during_a_fetch_stays_taken_over(
    host_a: Engine, host_b: Engine, raw_image: Template, images_type: str
) -> None:
    host_a.disk("web1").cache(raw_image, raw_image.name)
    slow = raw_image.but(image_id="slow", before=meanwhile(lambda: host_b.instances.take_over_host("a")))
    late = host_a.disk("web1", "disk.local", images_type)
    with pytest.raises(errors.DiskElsewhere, match=r"the host b \(folder"):
        late.cache(slow, slow.name)
    host_b.disk("web1").resize(64 * Mi)
    assert not late.exists()


def test_instance_whose_records_were_lost_is_whose_its_domain_is(
    host_a: Engine, host_b: Engine, raw_image: Template
) -> None:
    host_a.disk("web1").cache(raw_image, raw_image.name)
    folder = host_a.host.instances / "web1"
    (folder / "disks.json").unlink()
    element = ET.tostring(domain_xml.instance_element("web1", host_a.owners.me()), encoding="unicode")
    (folder / "libvirt.xml").write_text(f"<domain><metadata>{element}</metadata></domain>")
    with pytest.raises(errors.DiskElsewhere, match=r"the host a \(folder"):
        host_b.disk("web1").resize(64 * Mi)
    host_a.disk("web1").resize(64 * Mi)


def test_platform_that_moved_an_instance_here_has_it_noted_by_the_next_creation(
    host_a: Engine, raw_image: Template, instances: Path
) -> None:
    class Everywhere:
        def is_here(self, _instance: str, _owner: Owner, _me: Owner) -> bool:
            return True

    host_a.disk("web1").cache(raw_image, raw_image.name)
    overrides = {"host": "b", "instances_path": str(instances)}
    with Engine.from_config([], overrides, placement=Everywhere()) as host_b:
        host_b.disk("web1", "disk.local").cache(raw_image, raw_image.name)
        host_b.disk("web1").resize(64 * Mi)
    assert host_a.host.records.owner("web1") == Owner(host="b", folder=host_a.owners.me().folder)
    with pytest.raises(errors.DiskElsewhere):
        host_a.disk("web1").remove()
