"""An instance whose disks were made in another store than their backend has now: nothing of it is taken away."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.guest.hypervisor import DomainState
from imgbackend.guest.instances import Instances
from imgbackend.types import Mi
from labs.engines import qcow2_content, raw_content, raw_image
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.pool import MakeHost, make_host, pool_driver, pool_folder
from labs.templates import Template

__all__ = ["make_host", "pool_driver", "pool_folder", "qcow2_content", "raw_content", "raw_image"]

VERBS: dict[str, Callable[[Instances, Guests], object]] = {
    "spawn": lambda instances, guests: instances.spawn(guests.spec()),
    "spawn with take-over": lambda instances, guests: instances.spawn(guests.spec(), take_over=True),
    "start": lambda instances, guests: instances.start(guests.name()),
    "take over": lambda instances, guests: instances.take_over(guests.name()),
    "grow": lambda instances, guests: instances.grow(guests.name(), 64 * Mi),
    "snapshot": lambda instances, guests: instances.snapshot(guests.name(), "raw").__enter__(),
    "destroy": lambda instances, guests: instances.destroy(guests.name()),
}
"""What changes an instance, or uses its disks."""


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """Another store."""
    folder = tmp_path / "other-pool"
    folder.mkdir(mode=0o755)
    return folder


def kept(folder: Path) -> dict[str, bytes]:
    """All files of an instance, but what its guest says."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "console.log"}


@pytest.mark.parametrize("verb", VERBS)
def test_verb_on_an_instance_of_another_store_changes_nothing(
    make_guests: MakeGuests,
    libvirt_daemon: Libvirt,
    pool_driver: None,
    pool_folder: Path,
    other_folder: Path,
    verb: str,
) -> None:
    right = make_guests(libvirt_daemon, overrides={"images_type": "pool", "pool.folder": str(pool_folder)})
    right.instances().spawn(right.spec())
    right.instances().stop(right.name(), seconds=0)
    folder = right.instances_path / right.name()
    before, xml = kept(folder), right.instances().xml(right.name())
    wrong = make_guests(libvirt_daemon, overrides={"images_type": "pool", "pool.folder": str(other_folder)})
    wrong.word = right.word
    with pytest.raises(errors.WrongStore, match="nothing was changed"):
        VERBS[verb](wrong.instances(), wrong)
    assert kept(folder) == before
    assert right.instances().xml(right.name()) == xml
    assert list(other_folder.iterdir()) == []
    right.instances().start(right.name())
    assert right.instances().show(right.name()).state is DomainState.RUNNING
    right.instances().destroy(right.name())
    assert list(pool_folder.iterdir()) == []


def broken_off(engine: Engine, name: str) -> Path:
    """As a destroy leaves an instance that is killed after its first step; long ago."""
    folder = engine.host.instances / name
    going, then = folder.rename(folder.with_name(f"{name}_del")), time.time() - 30 * 86400
    os.utime(going, (then, then))
    return going


@pytest.fixture
def right(make_host: MakeHost, libvirt_daemon: Libvirt, raw_image: Template) -> Engine:
    """A host with a disk of web1."""
    engine = make_host("a", **{"libvirt.connection_uri": libvirt_daemon.uri})
    engine.disk("web1").cache(raw_image, raw_image.name)
    return engine


@pytest.fixture
def wrong(make_host: MakeHost, libvirt_daemon: Libvirt, right: Engine, other_folder: Path) -> Engine:
    """The same host, whose option leads to another store by now."""
    return make_host("a", **{"libvirt.connection_uri": libvirt_daemon.uri, "pool.folder": str(other_folder)})


def test_pass_keeps_what_was_being_destroyed_in_another_store_and_tells_it(
    right: Engine, wrong: Engine, pool_folder: Path
) -> None:
    going = broken_off(right, "web1")
    before = kept(going)
    found = wrong.cache.leftovers(remove=True)
    assert not any(left.removed for left in found.leftovers)
    [line] = [line for line in found.faults if "web1_del" in line]
    assert f"was made in another store ({right.host.records.all('web1_del')['disk'].store})" in line
    assert f"if it is gone for good, remove {going}" in line
    assert kept(going) == before
    right.cache.leftovers(remove=True)
    assert not going.exists()
    assert list(pool_folder.iterdir()) == []


@pytest.mark.parametrize("beside", [False, True])
def test_destroy_that_was_broken_off_in_another_store_is_not_finished(
    right: Engine, wrong: Engine, raw_image: Template, pool_folder: Path, beside: bool
) -> None:
    """Nor where an instance has the name again."""
    going = broken_off(right, "web1")
    if beside:
        wrong.disk("web1", "disk.local").cache(raw_image, raw_image.name)
    before = kept(going)
    with pytest.raises(errors.WrongStore):
        wrong.instances.destroy("web1")
    with wrong.host.locks.instance("web1"), pytest.raises(errors.WrongStore):
        wrong.instances.finish("web1")
    assert kept(going) == before
    assert (pool_folder / "web1_disk").exists()
    if beside:
        wrong.disk("web1", "disk.local").remove()
    right.instances.destroy("web1")
    assert list(pool_folder.iterdir()) == []


def test_disk_in_another_hosts_own_store_is_not_taken_over(
    right: Engine, make_host: MakeHost, libvirt_daemon: Libvirt, other_folder: Path
) -> None:
    """Its records would say that this host has a disk, which it does not reach."""
    folder = str(right.host.instances)
    other = make_host(
        "b",
        **{
            "libvirt.connection_uri": libvirt_daemon.uri,
            "instances_path": folder,
            "pool.folder": str(other_folder),
        },
    )
    before = kept(right.host.instances / "web1")
    with pytest.raises(errors.WrongStore):
        other.instances.take_over("web1")
    [done] = other.instances.take_over_host("a")
    assert "was made in another store" in done.reason
    assert kept(right.host.instances / "web1") == before
    right.disk("web1").remove()


def test_disk_that_another_store_has_under_the_name_hides_no_other_disk_from_a_take_over(
    right: Engine, wrong: Engine, make_host: MakeHost, libvirt_daemon: Libvirt, other_folder: Path, raw_image: Template
) -> None:
    """What is of the lost host in the store that is there is found, whatever the records of others say."""
    old = make_host("old", **{"pool.folder": str(other_folder)})
    for name in ("web1", "web2"):
        old.disk(name).cache(raw_image, raw_image.name)
    done = {each.instance: each.reason for each in wrong.instances.take_over_host("old")}
    assert done == {"web2": ""}
