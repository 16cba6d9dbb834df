"""Several hosts on one folder of instances, several folders on one libvirtd: each keeps off what is the others'."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.guest.hypervisor import DomainState
from imgbackend.guest.instances import Instances
from imgbackend.types import DiskId
from labs.libvirt import Guests, Libvirt, MakeGuests

VERBS: dict[str, Callable[[Instances, Guests], object]] = {
    "spawn": lambda instances, guests: instances.spawn(guests.spec()),
    "start": lambda instances, guests: instances.start(guests.name()),
    "stop": lambda instances, guests: instances.stop(guests.name()),
    "reboot": lambda instances, guests: instances.reboot(guests.name(), hard=True),
    "snapshot": lambda instances, guests: instances.snapshot(guests.name(), "raw").__enter__(),
    "destroy": lambda instances, guests: instances.destroy(guests.name()),
}
"""What changes an instance, or uses its disks."""


@pytest.fixture
def second_libvirt(libvirt_own_daemon: Callable[..., Libvirt]) -> Libvirt:
    return libvirt_own_daemon()


@pytest.fixture
def host_a(make_guests: MakeGuests, libvirt_daemon: Libvirt) -> Iterator[Guests]:
    guests = make_guests(libvirt_daemon, overrides={"host": "a"})
    yield guests
    with_a = guests.instances()
    if guests.domains():
        with_a.destroy(guests.name())


@pytest.fixture
def host_b(second_libvirt: Libvirt, make_guests: MakeGuests, host_a: Guests) -> Guests:
    """On the same folder, with a libvirtd of its own."""
    guests = make_guests(second_libvirt, overrides={"host": "b"})
    guests.word = host_a.word
    return guests


def kept(guests: Guests) -> dict[str, tuple[int, bytes]]:
    """What tells of an instance, and the disk's file: each as it is."""
    folder = guests.instances_path / guests.name()
    names = ("libvirt.xml", "disks.json", "disk.info", "disk")
    return {name: ((folder / name).stat().st_ino, (folder / name).read_bytes()) for name in names}


def console_file(guests: Guests) -> int:
    return (guests.instances_path / guests.name() / "console.log").stat().st_ino


def forget_owner(guests: Guests) -> None:
    """As an older version left an instance."""
    folder = guests.instances_path / guests.name()
    records = json.loads((folder / "disks.json").read_text())
    del records["owner"]
    (folder / "disks.json").write_text(json.dumps(records))
    xml = (folder / "libvirt.xml").read_text()
    (folder / "libvirt.xml").write_text(re.sub(r' (host|folder)="[^"]*"(?=[^>]*>' + guests.name() + ")", "", xml))
    assert "folder=" not in (folder / "libvirt.xml").read_text()


def test_instance_of_another_host_is_refused_by_every_verb_and_left_as_it_was(host_b: Guests, host_a: Guests) -> None:
    host_a.instances().spawn(host_a.spec())
    host_a.until("BOOT OK")
    before, console = kept(host_a), console_file(host_a)
    theirs = host_b.instances()
    for verb, call in VERBS.items():
        with pytest.raises(errors.InstanceElsewhere, match=r"the host a \(folder"):
            call(theirs, host_b)
        assert kept(host_a).keys() == before.keys(), verb
        assert console_file(host_a) == console, verb
        assert host_b.domains() == set(), verb
    assert kept(host_a)["libvirt.xml"] == before["libvirt.xml"]
    assert host_a.instances().show(host_a.name()).state is DomainState.RUNNING
    host_a.instances().destroy(host_a.name())
    assert (host_a.domains(), host_a.left()) == (set(), set())


def test_guest_of_another_host_keeps_its_folder_where_nobody_noted_whose_it_is(host_b: Guests, host_a: Guests) -> None:
    """QEMU's own lock of the disk tells of it."""
    host_a.instances().spawn(host_a.spec())
    host_a.until("BOOT OK")
    forget_owner(host_a)
    console = console_file(host_a)
    with pytest.raises(errors.DiskBusy, match=rf"{host_a.name()}/disk: the disk is open"):
        host_b.instances().destroy(host_b.name())
    assert (host_a.instances_path / host_a.name() / "disk").is_file()
    assert not (host_a.instances_path / f"{host_a.name()}_del").exists()
    assert console_file(host_a) == console
    assert host_a.instances().show(host_a.name()).state is DomainState.RUNNING


@pytest.mark.parametrize("verb", ["spawn", "start"])
def test_start_that_the_lock_of_anothers_guest_refuses_leaves_all_that_was_there(
    host_b: Guests, host_a: Guests, verb: str
) -> None:
    host_a.instances().spawn(host_a.spec())
    host_a.until("BOOT OK")
    forget_owner(host_a)
    folder = host_a.instances_path / host_a.name()
    xml, console = (folder / "libvirt.xml").read_bytes(), console_file(host_a)
    with pytest.raises(errors.HypervisorError, match="lock"):
        VERBS[verb](host_b.instances(), host_b)
    assert (folder / "libvirt.xml").read_bytes() == xml
    assert console_file(host_a) == console
    assert "BOOT OK" in host_a.console()
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert host_b.domains() == set()
    assert host_a.instances().show(host_a.name()).state is DomainState.RUNNING


@pytest.fixture
def other_folder(make_guests: MakeGuests, libvirt_daemon: Libvirt, host_a: Guests, tmp_path: Path) -> Guests:
    """Another folder of the same host, on the same libvirtd."""
    path = tmp_path / "others"
    path.mkdir(mode=0o711)
    guests = make_guests(libvirt_daemon, path=path, overrides={"host": "a"})
    guests.word = host_a.word
    return guests


def test_domain_of_another_folder_is_not_listed_nor_touched(host_a: Guests, other_folder: Guests) -> None:
    host_a.instances().spawn(host_a.spec())
    other_folder.instances().spawn(other_folder.spec("own"))
    theirs = other_folder.instances()
    assert [each.id for each in theirs.list()] == [other_folder.name("own")]
    for verb in ("start", "stop", "reboot", "snapshot"):
        with pytest.raises(errors.InstanceNotFound):
            VERBS[verb](theirs, other_folder)
    for verb in ("spawn", "destroy"):
        with pytest.raises(errors.InstanceElsewhere, match=r"the host a \(folder"):
            VERBS[verb](theirs, other_folder)
        assert not (other_folder.instances_path / other_folder.name()).exists(), "nothing was made"
    assert host_a.instances().show(host_a.name()).state is DomainState.RUNNING
    theirs.destroy(other_folder.name("own"))
    host_a.instances().destroy(host_a.name())
    assert host_a.domains() == set()


def test_uuid_of_another_domain_is_told_before_anything_is_made(host_a: Guests, other_folder: Guests) -> None:
    uuid = host_a.instances().spawn(host_a.spec()).uuid
    with pytest.raises(errors.InstanceError, match=rf"the uuid {uuid} already, for the domain {host_a.name()}"):
        other_folder.instances().spawn(other_folder.spec("b", uuid=uuid))
    assert other_folder.left() == set()
    host_a.instances().destroy(host_a.name())


def test_domain_that_an_older_version_made_is_its_folders(host_a: Guests, other_folder: Guests) -> None:
    host_a.instances().spawn(host_a.spec())
    host_a.instances().stop(host_a.name(), seconds=0)
    forget_owner(host_a)
    kept_xml = host_a.instances_path / host_a.name() / "libvirt.xml"
    host_a.lab.virsh("define", str(kept_xml))
    assert [each.id for each in host_a.instances().list()] == [host_a.name()]
    assert other_folder.name() not in [each.id for each in other_folder.instances().list()]
    with pytest.raises(errors.InstanceError, match="for another folder"):
        other_folder.instances().destroy(other_folder.name())
    host_a.instances().start(host_a.name())
    host_a.instances().destroy(host_a.name())
    assert host_a.domains() == set()


def test_start_of_an_instance_whose_disk_is_gone_names_the_disk_and_changes_nothing(host_a: Guests) -> None:
    instances = host_a.instances()
    instances.spawn(host_a.spec())
    host_a.until("BOOT OK")
    instances.stop(host_a.name(), seconds=0)
    (host_a.instances_path / host_a.name() / "disk").unlink()
    console = console_file(host_a)
    with pytest.raises(errors.DiskNotFound, match=f"{host_a.name()}/disk"):
        instances.start(host_a.name())
    assert console_file(host_a) == console
    instances.destroy(host_a.name())


def test_spawn_that_fails_leaves_libvirt_what_it_had(host_a: Guests) -> None:
    """Also what somebody changed with virsh, and the file never had."""
    instances = host_a.instances()
    instances.spawn(host_a.spec())
    host_a.until("BOOT OK")
    instances.stop(host_a.name(), seconds=0)
    host_a.lab.virsh("desc", host_a.name(), "--config", "--title", "kept by an operator")
    console = console_file(host_a)
    with pytest.raises(errors.HypervisorError):
        instances.spawn(host_a.spec(memory=1 << 62))
    assert "kept by an operator" in instances.xml(host_a.name())
    assert console_file(host_a) == console
    assert "BOOT OK" in host_a.console()
    instances.destroy(host_a.name())


def test_disk_of_an_instance_that_is_off_is_not_removed_alone(host_a: Guests) -> None:
    engine = host_a.engine()
    engine.instances.spawn(host_a.spec())
    engine.instances.stop(host_a.name(), seconds=0)
    disk = engine.disk(host_a.name())
    with pytest.raises(errors.DiskBusy, match=f"imgbackend instance destroy {host_a.name()} takes both"):
        disk.remove()
    assert disk.exists()
    disk.remove(force=True)
    assert not disk.exists()
    disk.remove()
    engine.instances.destroy(host_a.name())


def test_lists_show_what_is_own_and_with_all_hosts_whose_each_is(
    host_b: Guests, host_a: Guests, other_folder: Guests
) -> None:
    host_a.instances().spawn(host_a.spec())
    other_folder.instances().spawn(other_folder.spec("other"))
    theirs = host_b.engine()
    assert list(theirs.instances.list()) == []
    assert list(theirs.disks()) == []
    [listed] = theirs.instances.list(all_hosts=True)
    assert listed.owner is not None
    assert (listed.id, listed.owner.host) == (host_a.name(), "a")
    [disk] = theirs.disks(all_hosts=True)
    assert disk.id.instance == host_a.name()
    ours = {each.id: each.owner for each in host_a.instances().list(all_hosts=True)}
    assert host_a.name() in ours
    assert ours[other_folder.name("other")] != ours[host_a.name()]
    assert other_folder.name("other") not in {each.id for each in host_a.instances().list()}
    other_folder.instances().destroy(other_folder.name("other"))
    host_a.instances().destroy(host_a.name())


def test_disk_on_record_that_the_domain_does_not_have_is_not_needed_to_start(host_a: Guests) -> None:
    """As a creation that was killed leaves a record, of a disk that never was."""
    engine = host_a.engine()
    engine.instances.spawn(host_a.spec())
    engine.instances.stop(host_a.name(), seconds=0)
    record = engine.host.records.of(DiskId(instance=host_a.name(), name="disk"))
    assert record is not None
    engine.host.records.write(DiskId(instance=host_a.name(), name="disk.local"), record, as_file=True, durable=False)
    engine.instances.start(host_a.name())
    assert engine.instances.show(host_a.name()).state is DomainState.RUNNING
    engine.instances.destroy(host_a.name())
