"""Instances on a real libvirtd: spawned by each driver, booted, used again, and taken away."""

import contextlib
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.guest.hypervisor import DomainState, Hypervisor
from imgbackend.guest.instances import Instances
from imgbackend.guest.spec import ConfigDrive, Ephemeral, InjectedFile, Nic
from imgbackend.types import Gi, Mi
from labs import bootsector
from labs.libvirt import Guests, Libvirt, MakeGuests


@pytest.fixture(params=["qcow2", "raw"])
def images_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_instance_boots_from_its_disk_and_leaves_nothing(
    make_guests: MakeGuests, libvirt_daemon: Libvirt, images_type: str
) -> None:
    guests = make_guests(libvirt_daemon, overrides={"images_type": images_type})
    instances = guests.instances()
    spawned = instances.spawn(guests.spec(root_size=Gi, swap=16 * Mi, ephemerals=(Ephemeral(size=32 * Mi),)))
    assert set(spawned.disks) == {"disk", "disk.swap", "disk.eph0"}
    assert guests.sectors() == Gi // 512
    found = instances.show(guests.name())
    assert (found.state, found.uuid) == (DomainState.RUNNING, spawned.uuid)
    assert (guests.instances_path / guests.name() / "libvirt.xml").stat().st_mode & 0o777 == 0o640
    instances.destroy(guests.name())
    assert guests.domains() == set()
    assert guests.left() == set()
    with pytest.raises(errors.InstanceNotFound):
        instances.show(guests.name())


def test_second_spawn_of_one_that_runs_changes_nothing(guests: Guests) -> None:
    instances = guests.instances()
    instances.spawn(guests.spec())
    before = {path: path.stat().st_mtime_ns for path in guests.instances_path.rglob("disk*")}
    assert instances.spawn(guests.spec(root_size=Gi)).existed
    assert {path: path.stat().st_mtime_ns for path in guests.instances_path.rglob("disk*")} == before
    instances.destroy(guests.name())


def test_spawn_uses_disks_that_are_whole(guests: Guests) -> None:
    """As after a spawn that was killed once its disks were made."""
    engine = guests.engine()
    image = engine.image(str(guests.image))
    engine.disk(guests.name()).cache(image, image.filename, 64 * Mi)
    instances = guests.instances(engine)
    spawned = instances.spawn(guests.spec(root_size=64 * Mi, swap=16 * Mi))
    assert {name: cached.way for name, cached in spawned.disks.items()} == {"disk": "exists", "disk.swap": "overlay"}
    instances.destroy(guests.name())


def test_failed_spawn_takes_away_what_it_made_and_nothing_else(guests: Guests) -> None:
    engine = guests.engine()
    image = engine.image(str(guests.image))
    engine.disk(guests.name()).cache(image, image.filename, 64 * Mi)
    before = guests.left()
    too_large = guests.spec(root_size=64 * Mi, swap=16 * Mi, memory=1 << 62)
    with pytest.raises(errors.HypervisorError):
        guests.instances(engine).spawn(too_large)
    assert guests.domains() == set()
    assert {name for name in guests.left() if not name.startswith("locks/")} == {
        name for name in before if not name.startswith("locks/")
    }
    assert engine.disk(guests.name()).exists()
    engine.disk(guests.name()).remove()


def test_failed_spawn_of_a_new_instance_leaves_nothing(guests: Guests) -> None:
    with pytest.raises(errors.TemplateTooLarge):
        guests.instances().spawn(guests.spec(root_size=Mi, swap=16 * Mi, ephemerals=(Ephemeral(size=32 * Mi),)))
    assert guests.domains() == set()
    assert guests.left() == set()


@pytest.mark.parametrize(
    ("nic", "message"),
    [
        (Nic(kind="bridge", name="nosuchbr"), "there is no bridge nosuchbr"),
        (Nic(kind="bridge", name="lo"), "lo is no bridge"),
        (Nic(kind="network", name="nosuchnet"), "nosuchnet"),
    ],
    ids=["bridge", "interface", "network"],
)
def test_network_that_is_not_there_is_told_before_any_disk_is_made(guests: Guests, nic: Nic, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        guests.instances().spawn(guests.spec(nics=(nic,)))
    assert not (guests.instances_path / "_base").exists()


@pytest.fixture
def bridge() -> Iterator[str]:
    """A real one."""
    name = f"imgb{secrets.token_hex(4)}"
    ip = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if ip is None or subprocess.run([ip, "link", "add", name, "type", "bridge"], timeout=60).returncode:
        pytest.skip("no bridge can be made here")
    yield name
    subprocess.run([ip, "link", "delete", name], check=True, timeout=60)


def test_instance_is_connected_to_its_bridge_and_its_network(guests: Guests, bridge: str, tmp_path: Path) -> None:
    network = guests.name("net")
    xml = tmp_path / "network.xml"
    xml.write_text(f"<network><name>{network}</name><forward mode='bridge'/><bridge name='{bridge}'/></network>")
    guests.lab.virsh("net-define", str(xml))
    instances, spec = guests.instances(), guests.spec(nics=(Nic(kind="network", name=network),))
    with pytest.raises(errors.ConfigError, match=f"virsh net-start {network}"):
        instances.spawn(spec)
    assert not (guests.instances_path / "_base").exists()
    guests.lab.virsh("net-start", network)
    instances.spawn(guests.spec(nics=(*spec.nics, Nic(kind="bridge", name=bridge), Nic(kind="user"))))
    links = guests.lab.virsh("domiflist", guests.name())
    assert [line.split()[2] for line in links.splitlines() if line.strip()] == [network, bridge, "-"]
    assert len(list(Path(f"/sys/class/net/{bridge}/brif").iterdir())) == 2
    instances.destroy(guests.name())
    for words in (("net-destroy", network), ("net-undefine", network)):
        guests.lab.virsh(*words)


def test_domain_of_somebody_else_is_left_alone(guests: Guests) -> None:
    name = guests.name()
    xml = guests.instances_path.parent / "other.xml"
    xml.write_text(
        f"<domain type='qemu'><name>{name}</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os></domain>"
    )
    guests.lab.virsh("define", str(xml))
    instances = guests.instances()
    with pytest.raises(errors.InstanceError, match="did not make"):
        instances.spawn(guests.spec())
    with pytest.raises(errors.InstanceError, match="left alone"):
        instances.destroy(name)
    assert guests.domains() == {"a"}
    guests.lab.virsh("undefine", name)
    assert guests.left() == set()


def test_folder_of_somebody_else_is_left_alone(guests: Guests) -> None:
    folder = guests.instances_path / guests.name()
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(errors.InstanceError, match="left alone"):
        guests.instances().destroy(guests.name())
    assert (folder / "notes.txt").read_text() == "mine"


def test_folder_of_a_spawn_that_was_killed_at_once_is_taken_away(guests: Guests) -> None:
    folder = guests.instances_path / guests.name()
    folder.mkdir()
    (folder / ".disk.part").write_text("half")
    (folder / "console.log").touch()
    guests.instances().destroy(guests.name())
    assert guests.left() == set()


def test_instances_whose_names_begin_alike_are_told_apart(guests: Guests) -> None:
    instances = guests.instances()
    labels = ["a" * number for number in range(1, 16)] + ["a0", "a00", "a-a", "a.a", "a-a-a"]
    assert len(labels) == 20
    for label in labels:
        instances.spawn(guests.spec(label, swap=16 * Mi))
    assert {each.id for each in instances.list()} >= {guests.name(label) for label in labels}
    instances.destroy(guests.name("a"))
    assert guests.domains() == set(labels[1:])
    for label in labels[1:]:
        assert instances.show(guests.name(label)).state is DomainState.RUNNING
        assert {disk.id.name for disk in instances.disks(guests.name(label))} == {"disk", "disk.swap"}
        instances.destroy(guests.name(label))
    assert guests.left() == set()


def test_stop_ends_a_guest_that_does_not_listen_and_start_boots_it_again(guests: Guests) -> None:
    instances = guests.instances()
    instances.spawn(guests.spec())
    guests.until("BOOT OK")
    assert instances.stop(guests.name(), seconds=0.5) is True
    assert instances.show(guests.name()).state is DomainState.OFF
    assert instances.stop(guests.name()) is False
    instances.start(guests.name())
    instances.start(guests.name())
    assert instances.show(guests.name()).state is DomainState.RUNNING
    instances.reboot(guests.name(), hard=True)
    instances.destroy(guests.name())


def test_stop_and_reboot_ask_the_guest_which_obeys(guests: Guests) -> None:
    bootsector.write_disk(guests.image, 16 * Mi, format="qcow2", end="button")
    instances = guests.instances()
    instances.spawn(guests.spec())
    guests.until("sectors=0x00008000")
    instances.reboot(guests.name())
    guests.until("sectors=0x00008000\n\nBOOT OK disk sectors=0x00008000")
    assert instances.stop(guests.name()) is False, "it was not ended"
    assert instances.show(guests.name()).state is DomainState.OFF
    instances.destroy(guests.name())


def test_start_tells_libvirt_again_what_it_forgot(guests: Guests) -> None:
    instances = guests.instances()
    instances.spawn(guests.spec())
    instances.stop(guests.name(), seconds=0)
    guests.lab.virsh("undefine", guests.name())
    assert instances.show(guests.name()).state is None
    assert [each.state for each in instances.list() if each.id == guests.name()] == [None]
    instances.start(guests.name())
    assert instances.show(guests.name()).state is DomainState.RUNNING
    instances.destroy(guests.name())


@pytest.mark.parametrize("gone", ["domain", "disk", "folder"])
def test_destroy_takes_away_what_is_left(guests: Guests, gone: str) -> None:
    instances = guests.instances()
    instances.spawn(guests.spec(swap=16 * Mi))
    folder = guests.instances_path / guests.name()
    if gone == "domain":
        guests.lab.virsh("destroy", guests.name())
        guests.lab.virsh("undefine", guests.name())
    elif gone == "disk":
        (folder / "disk").unlink()
    else:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    instances.destroy(guests.name())
    assert guests.domains() == set()
    assert {name for name in guests.left() if gone != "folder" or not name.startswith("locks/")} == set()


class Slow(Hypervisor):
    """What comes after a start comes when the guest has ended."""

    def start(self, name: str) -> None:
        super().start(name)
        while self.state(name) is not DomainState.OFF:
            time.sleep(0.02)


def test_guest_that_ends_before_it_is_seen_to_run_is_told_with_its_last_words(guests: Guests) -> None:
    bootsector.write_disk(guests.image, 16 * Mi, format="qcow2", marker="GOODBYE", end="poweroff")
    with contextlib.closing(Slow(guests.lab.uri)) as slow:
        instances = Instances(guests.engine(), slow)
        with pytest.raises(errors.InstanceFailed, match="ended before it ran") as caught:
            instances.spawn(guests.spec())
    assert "GOODBYE" in caught.value.console
    assert "it said last: GOODBYE" in str(caught.value)
    assert guests.domains() == set()
    assert guests.left() == set()


def test_console_is_followed_until_the_guest_is_off(guests: Guests) -> None:
    bootsector.write_disk(guests.image, 16 * Mi, format="qcow2", marker="LAST WORDS", end="poweroff")
    instances = guests.instances()
    instances.spawn(guests.spec())
    assert b"LAST WORDS" in b"".join(instances.console(guests.name(), follow=True))
    instances.destroy(guests.name())


def test_console_has_what_was_said_since_the_last_start(guests: Guests) -> None:
    instances = guests.instances()
    instances.spawn(guests.spec())
    guests.until("BOOT OK")
    instances.stop(guests.name(), seconds=0)
    instances.start(guests.name())
    guests.until("BOOT OK")
    assert guests.console().count("BOOT OK") == 1
    instances.destroy(guests.name())


def test_config_drive_is_secret_and_never_a_base(guests: Guests) -> None:
    secret = "correct horse"  # noqa: S105 - of nobody
    instances = guests.instances()
    spec = guests.spec(
        config_drive=ConfigDrive(),
        admin_password=secret,
        files=(InjectedFile(path="/etc/motd", content=b"hello"),),
    )
    instances.spawn(spec)
    holders = [path for path in _files(guests.instances_path) if secret.encode() in path.read_bytes()]
    drive = guests.instances_path / guests.name() / "disk.config"
    assert holders == [drive]
    assert drive.stat().st_mode & 0o777 == 0o600
    instances.destroy(guests.name())


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_alter_has_the_last_word_on_the_domain(guests: Guests) -> None:
    instances = guests.instances()

    def alter(root: object) -> None:
        from xml.etree import ElementTree as ET

        assert isinstance(root, ET.Element)
        ET.SubElement(root, "title").text = "altered"

    instances.spawn(guests.spec(), alter=alter)
    assert "<title>altered</title>" in instances.xml(guests.name())
    instances.destroy(guests.name())


def test_cancelled_spawn_leaves_nothing(guests: Guests) -> None:
    class Stop(Exception):
        pass

    def progress(_phase: str, _done: int, _total: int | None) -> None:
        raise Stop

    with pytest.raises(Stop):
        guests.instances().spawn(guests.spec(swap=16 * Mi), progress=lambda _name: progress)
    assert guests.domains() == set()
    assert guests.left() == set()
