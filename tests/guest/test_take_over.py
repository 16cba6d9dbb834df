"""One instance becomes another host's, where the first uses it no more: its disks, records and domain say so."""

import shutil
from pathlib import Path

import pytest

from guest.test_other_hosts import host_a, host_b, second_libvirt
from imgbackend import Engine, errors
from imgbackend.guest.hypervisor import DomainState
from imgbackend.state import domain_xml, folder_marker
from imgbackend.types import Mi
from labs.engines import qcow2_content, raw_content, raw_image
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.pool import MakeHost, PoolDisk, make_host, pool_driver, pool_folder
from labs.templates import Template

__all__ = [
    "host_a",
    "host_b",
    "make_host",
    "pool_driver",
    "pool_folder",
    "qcow2_content",
    "raw_content",
    "raw_image",
    "second_libvirt",
]


def test_instance_that_is_off_starts_on_the_host_that_takes_it_over(host_b: Guests, host_a: Guests) -> None:
    name = host_a.name()
    host_a.instances().spawn(host_a.spec())
    host_a.instances().stop(name, seconds=0)
    theirs = host_b.instances()
    with pytest.raises(errors.InstanceElsewhere):
        theirs.start(name)
    theirs.start(name, take_over=True)
    assert theirs.show(name).state is DomainState.RUNNING
    [listed] = theirs.list()
    assert listed.owner is not None
    assert listed.owner.host == "b"
    assert list(host_a.instances().list()) == []
    for call in (host_a.instances().start, host_a.instances().destroy):
        with pytest.raises(errors.InstanceElsewhere, match=r"the host b \(folder"):
            call(name)
    kept = (host_a.instances_path / name / "libvirt.xml").read_text()
    noted = domain_xml.owner_in(kept)
    assert noted is not None
    assert noted.host == "b"
    assert domain_xml.owner_in(theirs.xml(name)) == noted
    theirs.destroy(name)
    host_a.lab.virsh("undefine", name)
    assert host_a.left() == set()


def test_instance_whose_guest_runs_on_another_host_is_not_taken_over(host_b: Guests, host_a: Guests) -> None:
    name = host_a.name()
    host_a.instances().spawn(host_a.spec())
    for call in (
        lambda: host_b.instances().take_over(name),
        lambda: host_b.instances().start(name, take_over=True),
        lambda: host_b.instances().spawn(host_b.spec(), take_over=True),
        lambda: host_b.instances().destroy(name, take_over=True),
    ):
        with pytest.raises(errors.DiskBusy, match=f"{name}/disk: the disk is open"):
            call()
    assert [each.id for each in host_a.instances().list()] == [name]
    host_a.instances().destroy(name)


def test_instance_of_a_host_that_was_renamed_is_taken_over_where_it_runs(
    make_guests: MakeGuests, libvirt_daemon: Libvirt
) -> None:
    """The same libvirtd has the domain: its note is changed, and the guest runs on."""
    before = make_guests(libvirt_daemon, overrides={"host": "old-name"})
    after = make_guests(libvirt_daemon, overrides={"host": "new-name"})
    after.word = before.word
    name = before.name()
    before.instances().spawn(before.spec())
    with pytest.raises(errors.InstanceElsewhere, match="the host old-name"):
        after.instances().stop(name)
    after.instances().take_over(name)
    after.instances().take_over(name)
    noted = domain_xml.owner_in(after.instances().xml(name))
    assert noted is not None
    assert noted.host == "new-name"
    assert after.instances().show(name).state is DomainState.RUNNING
    after.instances().destroy(name)
    assert (before.domains(), before.left()) == (set(), set())


def test_name_that_nobody_has_cannot_be_taken_over(host_a: Guests) -> None:
    with pytest.raises(errors.InstanceNotFound):
        host_a.instances().take_over(host_a.name())
    with pytest.raises(errors.InstanceNotFound):
        host_a.instances().destroy(host_a.name(), take_over=True)
    assert host_a.left() == set()


@pytest.fixture
def pool_a(make_host: MakeHost, libvirt_daemon: Libvirt) -> Engine:
    return make_host("a", **{"libvirt.connection_uri": libvirt_daemon.uri})


@pytest.fixture
def pool_b(make_host: MakeHost, libvirt_daemon: Libvirt) -> Engine:
    return make_host("b", **{"libvirt.connection_uri": libvirt_daemon.uri})


def test_disks_in_a_store_are_noted_anew_and_the_former_owner_keeps_off_them(
    pool_a: Engine, pool_b: Engine, raw_image: Template, pool_folder: Path
) -> None:
    pool_a.disk("web1").cache(raw_image, raw_image.name)
    made = pool_a.disk("web1")
    assert isinstance(made, PoolDisk)
    identity = made.mark()
    with pytest.raises(errors.DiskElsewhere):
        pool_b.disk("web1").cache(raw_image, raw_image.name)
    pool_b.instances.take_over("web1")
    after = made.mark()
    assert identity is not None
    assert after is not None
    assert (after.owner, after.identity) == (pool_b.owners.me(), identity.identity)
    assert pool_b.disk("web1").cache(raw_image, raw_image.name).way == "exists"
    with pytest.raises(errors.DiskElsewhere, match="the host b"):
        pool_a.disk("web1").resize(64 * Mi)
    pool_a.instances.destroy("web1")
    assert not (pool_a.host.instances / "web1").exists()
    assert pool_b.disk("web1").exists(), "what was taken over stays where the former owner destroys its instance"
    pool_b.instances.destroy("web1")
    assert list(pool_folder.iterdir()) == []


def test_destroy_that_a_lost_host_began_is_finished_by_who_takes_it_over(
    pool_a: Engine, make_host: MakeHost, libvirt_daemon: Libvirt, raw_image: Template, pool_folder: Path
) -> None:
    pool_a.disk("web1").cache(raw_image, raw_image.name)
    shutil.move(pool_a.host.instances / "web1", pool_a.host.instances / "web1_del")
    folder = str(pool_a.host.instances)
    other = make_host("c", **{"libvirt.connection_uri": libvirt_daemon.uri, "instances_path": folder})
    with pytest.raises(errors.InstanceElsewhere, match="web1_del, which is being destroyed, is the host a"):
        other.instances.destroy("web1")
    other.instances.destroy("web1", take_over=True)
    assert list(pool_folder.iterdir()) == []
    assert not (pool_a.host.instances / "web1_del").exists()


def test_instance_of_a_folder_whose_marker_was_lost_is_taken_over(
    make_guests: MakeGuests, libvirt_daemon: Libvirt
) -> None:
    guests = make_guests(libvirt_daemon)
    guests.instances().spawn(guests.spec())
    (guests.instances_path / folder_marker.NAME).unlink()
    after = guests.instances()
    assert guests.name() not in [each.id for each in after.list()]
    with pytest.raises(errors.InstanceElsewhere):
        after.destroy(guests.name())
    after.take_over(guests.name())
    assert guests.name() in [each.id for each in after.list()]
    after.destroy(guests.name())
    assert (guests.domains(), guests.left()) == (set(), set())
