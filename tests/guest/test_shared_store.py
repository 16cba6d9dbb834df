"""Two hosts with a folder of instances each, on one store that notes whose each disk is."""

import os
import shutil
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from imgbackend import Engine, errors
from imgbackend.state import domain_xml
from imgbackend.types import DiskId, Mi, Owner
from labs.engines import qcow2_content, raw_content, raw_image
from labs.libvirt import Libvirt
from labs.pool import MakeHost, disk_of_nova, make_host, pool_driver, pool_folder
from labs.templates import Template

__all__ = ["make_host", "pool_driver", "pool_folder", "qcow2_content", "raw_content", "raw_image"]


@pytest.fixture
def host_a(make_host: MakeHost, libvirt_daemon: Libvirt) -> Engine:
    return make_host("a", **{"libvirt.connection_uri": libvirt_daemon.uri})


@pytest.fixture
def host_b(make_host: MakeHost, libvirt_daemon: Libvirt) -> Engine:
    return make_host("b", **{"libvirt.connection_uri": libvirt_daemon.uri})


def in_pool(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".mark"}


def broken_off(engine: Engine, name: str) -> Path:
    """As a destroy leaves an instance that is killed after its first step."""
    folder = engine.host.instances / name
    return folder.rename(folder.with_name(f"{name}_del"))


def test_destroy_of_a_name_that_another_host_has_finds_no_instance(
    host_a: Engine, host_b: Engine, raw_image: Template, pool_folder: Path
) -> None:
    host_a.disk("vm1").cache(raw_image, raw_image.name)
    with pytest.raises(errors.InstanceNotFound, match="there is no instance vm1"):
        host_b.instances.destroy("vm1")
    assert in_pool(pool_folder) == {"vm1_disk"}


def test_destroy_of_an_own_instance_whose_folder_is_gone_finds_its_disks(
    host_a: Engine, raw_image: Template, pool_folder: Path
) -> None:
    host_a.disk("vm1").cache(raw_image, raw_image.name)
    shutil.rmtree(host_a.host.instances / "vm1")
    host_a.instances.destroy("vm1")
    assert in_pool(pool_folder) == set()


def test_destroy_leaves_a_disk_whose_owner_nobody_noted(host_a: Engine, pool_folder: Path) -> None:
    disk_of_nova(pool_folder, "vm1", Mi)
    with pytest.raises(errors.InstanceNotFound):
        host_a.instances.destroy("vm1")
    assert in_pool(pool_folder) == {"vm1_disk"}


def test_store_that_does_not_answer_does_not_end_a_destroy(
    make_host: MakeHost, libvirt_daemon: Libvirt, tmp_path: Path, raw_image: Template, pool_folder: Path
) -> None:
    engine = make_host(
        "a", **{"libvirt.connection_uri": libvirt_daemon.uri, "silent.driver": "silent", "silent.folder": str(tmp_path)}
    )
    with pytest.raises(errors.InstanceNotFound, match="there is no instance typo"):
        engine.instances.destroy("typo")
    engine.disk("vm1").cache(raw_image, raw_image.name)
    shutil.rmtree(engine.host.instances / "vm1")
    engine.instances.destroy("vm1")
    assert in_pool(pool_folder) == set()


def test_disk_of_nova_that_was_taken_over_is_destroyed_with_its_instance(
    host_a: Engine, raw_image: Template, pool_folder: Path
) -> None:
    disk_of_nova(pool_folder, "vm1", 8 * Mi)
    assert host_a.disk("vm1").cache(raw_image, raw_image.name).way == "exists"
    (pool_folder / "vm1_disk.mark").unlink()  # a store that could not note it, as with an older version
    host_a.instances.destroy("vm1")
    assert in_pool(pool_folder) == set()
    assert not any("vm1" in path.name for path in host_a.host.instances.rglob("*"))


@pytest.mark.parametrize("finisher", ["destroy", "pass"])
def test_finishing_an_old_destroy_spares_what_another_host_made_under_the_name(
    host_a: Engine, host_b: Engine, raw_image: Template, pool_folder: Path, finisher: str
) -> None:
    host_a.disk("web7").cache(raw_image, raw_image.name)
    going = broken_off(host_a, "web7")
    records = shutil.copytree(going, host_a.host.instances.with_name("backup"))
    host_a.instances.destroy("web7")
    assert in_pool(pool_folder) == set()
    host_b.disk("web7").cache(raw_image, raw_image.name)
    shutil.copytree(records, going)  # a backup of that time is restored
    if finisher == "destroy":
        host_a.instances.destroy("web7")
    else:
        with host_a.host.locks.instance("web7"):
            host_a.instances.finish("web7")
    assert in_pool(pool_folder) == {"web7_disk"}
    assert not going.exists()
    assert host_b.disk("web7").exists()


def test_finishing_an_old_destroy_spares_what_this_host_made_under_the_name(
    host_a: Engine, raw_image: Template, pool_folder: Path
) -> None:
    """Its records are gone, and the note of the store says that it is another disk."""
    host_a.disk("web7").cache(raw_image, raw_image.name)
    records = shutil.copytree(host_a.host.instances / "web7", host_a.host.instances.with_name("backup"))
    host_a.instances.destroy("web7")
    host_a.disk("web7").cache(raw_image, raw_image.name)
    shutil.rmtree(host_a.host.instances / "web7")
    shutil.copytree(records, host_a.host.instances / "web7_del")
    host_a.instances.destroy("web7")
    assert in_pool(pool_folder) == {"web7_disk"}


def test_verbs_on_a_disk_of_an_instance_that_is_being_destroyed_are_refused(
    host_a: Engine, raw_image: Template, pool_folder: Path
) -> None:
    host_a.disk("web1").cache(raw_image, raw_image.name)
    broken_off(host_a, "web1")
    disk = host_a.disk("web1")
    for call in (lambda: disk.cache(raw_image, raw_image.name), lambda: disk.resize(64 * Mi), disk.remove):
        with pytest.raises(errors.DiskError, match="web1 is being destroyed: imgbackend instance destroy web1"):
            call()
    assert in_pool(pool_folder) == {"web1_disk"}
    host_a.instances.destroy("web1")
    assert in_pool(pool_folder) == set()
    assert host_a.disk("web1").cache(raw_image, raw_image.name).way != "exists"


def test_rest_of_a_former_instance_goes_beside_one_that_has_its_name_now(
    host_a: Engine, raw_image: Template, pool_folder: Path
) -> None:
    for name in ("disk", "disk.local"):
        host_a.disk("web1", name).cache(raw_image, raw_image.name)
    broken_off(host_a, "web1")
    for path in pool_folder.glob("web1_disk*"):
        if not path.name.startswith("web1_disk.local"):
            path.unlink()
    host_a.disk("web1").cache(raw_image, raw_image.name)
    with host_a.host.locks.instance("web1"):
        host_a.instances.finish("web1")
    assert in_pool(pool_folder) == {"web1_disk"}
    assert host_a.host.records.of(DiskId(instance="web1", name="disk")) is not None
    host_a.instances.destroy("web1")
    assert in_pool(pool_folder) == set()


def test_pass_of_another_host_tells_an_unfinished_destroy_and_leaves_it(
    host_a: Engine, make_host: MakeHost, libvirt_daemon: Libvirt, raw_image: Template, pool_folder: Path
) -> None:
    """It is no fault of that host's either."""
    host_a.disk("web1").cache(raw_image, raw_image.name)
    going = broken_off(host_a, "web1")
    then = time.time() - 7200
    os.utime(going, (then, then))
    folder = str(host_a.host.instances)
    other = make_host("c", **{"libvirt.connection_uri": libvirt_daemon.uri, "instances_path": folder})
    found = other.cache.leftovers(remove=True)
    assert found.faults == []
    [left] = [each for each in found.leftovers if each.kind == "instance"]
    assert (left.name, left.removed) == ("web1_del", False)
    assert "the host a" in left.reason
    assert in_pool(pool_folder) == {"web1_disk"}
    [left] = [each for each in host_a.cache.leftovers(remove=True).leftovers if each.kind == "instance"]
    assert left.removed
    assert in_pool(pool_folder) == set()


@pytest.mark.parametrize("gone", ["broken", "absent"])
def test_destroy_of_an_instance_whose_records_are_broken_finds_its_disks_in_the_store(
    host_a: Engine, host_b: Engine, raw_image: Template, pool_folder: Path, gone: str
) -> None:
    host_b.disk("vm2").cache(raw_image, raw_image.name)
    host_a.disk("vm1").cache(raw_image, raw_image.name)
    folder = host_a.host.instances / "vm1"
    (folder / "libvirt.xml").write_text("<domain/>")
    if gone == "broken":
        (folder / "disks.json").write_text("{")
        with pytest.raises(errors.DiskError, match="--force of disk delete or instance destroy"):
            host_a.instances.destroy("vm1")
    else:
        (folder / "disks.json").unlink()
    assert in_pool(pool_folder) == {"vm1_disk", "vm2_disk"}
    host_a.instances.destroy("vm1", force=gone == "broken")
    assert in_pool(pool_folder) == {"vm2_disk"}
    assert not folder.exists()


def test_force_destroys_no_instance_whose_broken_records_were_anothers(
    host_a: Engine, raw_image: Template, pool_folder: Path
) -> None:
    host_a.disk("vm1").cache(raw_image, raw_image.name)
    folder = host_a.host.instances / "vm1"
    xml = ET.Element("domain")
    ET.SubElement(xml, "metadata").append(domain_xml.instance_element("vm1", Owner(host="c", folder="f" * 32)))
    (folder / "libvirt.xml").write_text(ET.tostring(xml, encoding="unicode"))
    (folder / "disks.json").write_text("{")
    with pytest.raises(errors.DiskElsewhere, match="the host c"):
        host_a.instances.destroy("vm1", force=True)
    assert (folder / "disks.json").read_text() == "{"
    assert in_pool(pool_folder) == {"vm1_disk"}


@pytest.mark.parametrize("told", ["by its owner", "by nothing"])
def test_force_puts_no_records_aside_that_may_be_another_hosts(
    make_host: MakeHost, libvirt_daemon: Libvirt, raw_image: Template, told: str
) -> None:
    """Hosts that share a folder; of its disks one field is broken, or all is."""
    libvirt = {"libvirt.connection_uri": libvirt_daemon.uri}
    host_a = make_host("a", images_type="raw", **libvirt)
    folder = host_a.host.instances
    host_b = make_host("b", images_type="raw", instances_path=str(folder), **libvirt)
    host_a.disk("vm1").cache(raw_image, raw_image.name)
    host_a.cache.prune()
    path = folder / "vm1" / "disks.json"
    broken = path.read_text().replace('"raw"', "5", 1) if told == "by its owner" else "{"
    path.write_text(broken)
    with pytest.raises(errors.DiskElsewhere, match="the host a" if told == "by its owner" else "a use the folder too"):
        host_b.owners.put_aside_broken_records("vm1")
    assert path.read_text() == broken
    assert (folder / "vm1" / "disk").exists()
    host_a.owners.put_aside_broken_records("vm1")
    assert not path.exists()


def test_instance_without_xml_whose_broken_records_were_put_aside_is_destroyed(
    host_a: Engine, raw_image: Template, pool_folder: Path
) -> None:
    host_a.disk("vm1").cache(raw_image, raw_image.name)
    folder = host_a.host.instances / "vm1"
    (folder / "disks.json").write_text("{")
    host_a.instances.destroy("vm1", force=True)
    assert in_pool(pool_folder) == set()
    assert not folder.exists()
