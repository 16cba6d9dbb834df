"""All instances of a host that died, was renamed or was installed anew become another's."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from imgbackend import Engine, errors
from labs.engines import MakeEngine, make_engine, qcow2_content, raw_content, raw_image
from labs.pool import MakeHost, make_host, pool_driver, pool_folder
from labs.templates import Template

__all__ = ["make_engine", "make_host", "pool_driver", "pool_folder", "qcow2_content", "raw_content", "raw_image"]


@pytest.fixture
def host(make_engine: MakeEngine) -> Callable[[str], Engine]:
    """A host on the shared folder, without a libvirtd."""

    def made(name: str) -> Engine:
        overrides: dict[str, Any] = {"host": name, "images_type": "qcow2"}
        return make_engine({**overrides, "libvirt.connection_uri": "qemu+unix:///system?socket=/nonexistent"})

    return made


def test_instances_of_a_host_on_the_same_folder_are_taken_over(
    host: Callable[[str], Engine], raw_image: Template
) -> None:
    old, other, new = host("old"), host("other"), host("new")
    for name in ("web1", "web2"):
        old.disk(name).cache(raw_image, raw_image.name)
    other.disk("web3").cache(raw_image, raw_image.name)
    with pytest.raises(errors.DiskElsewhere):
        new.disk("web1").remove()
    done = new.instances.take_over_host("old")
    assert [(each.instance, each.reason) for each in done] == [("web1", ""), ("web2", "")]
    new.disk("web1").remove()
    for engine, name in ((new, "web3"), (old, "web2")):
        with pytest.raises(errors.DiskElsewhere):
            engine.disk(name).remove()
    assert new.instances.take_over_host("old") == []


def test_disks_of_a_host_whose_folder_is_lost_are_taken_over_from_the_pool(
    make_host: MakeHost, raw_image: Template
) -> None:
    old, new = make_host("old"), make_host("new")
    old.disk("web1").cache(raw_image, raw_image.name)
    done = new.instances.take_over_host("old")
    assert [(each.instance, each.reason) for each in done] == [("web1", "")]
    assert new.disk("web1").cache(raw_image, raw_image.name).way == "exists"
    with pytest.raises(errors.DiskElsewhere):
        old.disk("web1").remove()
    new.disk("web1").remove()


def test_instance_that_cannot_be_taken_over_is_told_and_stops_no_other(
    host: Callable[[str], Engine], raw_image: Template
) -> None:
    old, new = host("old"), host("new")
    for name in ("web1", "web2"):
        old.disk(name).cache(raw_image, raw_image.name)
    (old.host.instances / "web1" / "libvirt.xml").write_text("<domain/>")
    first, second = new.instances.take_over_host("old")
    assert first.instance == "web1"
    assert "libvirt" in first.reason
    assert (second.instance, second.reason) == ("web2", "")
    owner = json.loads((old.host.instances / "web1" / "disks.json").read_text())["owner"]
    assert owner["host"] == "old"


@pytest.mark.parametrize("content", ["{", '{"owner": 5}'])
def test_instance_whose_records_are_broken_is_told_with_those_of_the_host(
    host: Callable[[str], Engine], raw_image: Template, content: str
) -> None:
    """It may be one of them."""
    old, new = host("old"), host("new")
    for name in ("web1", "web2"):
        old.disk(name).cache(raw_image, raw_image.name)
    broken = old.host.instances / "web1" / "disks.json"
    broken.write_text(content)
    first, second = new.instances.take_over_host("old")
    assert first.instance == "web1"
    assert str(broken) in first.reason
    assert (second.instance, second.reason) == ("web2", "")
    assert broken.read_text() == content


def test_disks_that_nova_keeps_until_a_resize_is_confirmed_are_taken_over_too(
    host: Callable[[str], Engine], raw_image: Template
) -> None:
    old, new = host("old"), host("new")
    old.disk("web1").cache(raw_image, raw_image.name)
    folder = old.host.instances / "web1"
    folder.rename(folder.with_name("web1_resize"))
    assert [(each.instance, each.reason) for each in new.instances.take_over_host("old")] == [("web1", "")]
    owner = new.host.records.owner("web1_resize")
    assert owner is not None
    assert owner.host == "new"


def test_lock_that_cannot_be_taken_is_named(host: Callable[[str], Engine], raw_image: Template) -> None:
    old, new = host("old"), host("new")
    old.disk("web1").cache(raw_image, raw_image.name)
    (old.host.instances / "locks" / "imgbackend-i.web1").mkdir()
    [done] = new.instances.take_over_host("old")
    assert "locks/imgbackend-i.web1" in done.reason
