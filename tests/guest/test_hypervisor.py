"""What libvirt reports becomes an error that says what to do; what needs no libvirt works without it."""

import contextlib
import logging
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from imgbackend import errors
from imgbackend.guest.hypervisor import DomainState, Hypervisor
from imgbackend.guest.instances import Instances
from imgbackend.guest.spec import ConfigDrive, Hardware, InstanceSpec, Nic, Volume
from imgbackend.state import folder_marker
from imgbackend.types import FileSource, Mi
from labs.engines import MakeEngine
from labs.images import qcow2
from labs.libvirt import Guests, Libvirt, MakeGuests

_XML = "<domain type='qemu'><name>{}</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os></domain>"


@pytest.fixture
def hypervisor(guests: Guests) -> contextlib.closing[Hypervisor]:
    return contextlib.closing(Hypervisor(guests.lab.uri))


def test_name_of_another_domain_is_told(guests: Guests, hypervisor: contextlib.closing[Hypervisor]) -> None:
    """libvirt's error 9."""
    with hypervisor as libvirt:
        libvirt.define(_XML.format(guests.name()))
        with pytest.raises(errors.InstanceError, match="another domain has this name"):
            libvirt.define(_XML.format(guests.name()))
        libvirt.forget(guests.name())
        libvirt.forget(guests.name())


def test_libvirtd_that_is_not_there_is_told(tmp_path: Path) -> None:
    """libvirt's error 38, of connect(2)."""
    away = Hypervisor(f"qemu+unix:///system?socket={tmp_path}/none")
    with pytest.raises(errors.HypervisorUnavailable, match="see that libvirtd runs") as caught:
        away.check()
    away.close()
    assert caught.value.code == 38


def test_domain_that_is_not_there_is_told(guests: Guests, hypervisor: contextlib.closing[Hypervisor]) -> None:
    """libvirt's error 42."""
    with hypervisor as libvirt:
        for call in (libvirt.xml, libvirt.start, libvirt.reboot, libvirt.shut_down):
            with pytest.raises(errors.InstanceNotFound, match="libvirt knows no domain"):
                call(guests.name())
        libvirt.force_off(guests.name())
        libvirt.forget(guests.name())
        assert libvirt.state(guests.name()) is None


def test_network_that_is_not_there_is_told(hypervisor: contextlib.closing[Hypervisor]) -> None:
    """libvirt's error 43."""
    with hypervisor as libvirt, pytest.raises(errors.ConfigError, match="virsh net-define"):
        libvirt.check_link(Nic(kind="network", name="nosuchnet"))


def test_domain_in_no_state_for_a_call_is_told(guests: Guests, hypervisor: contextlib.closing[Hypervisor]) -> None:
    """libvirt's error 55; what is so already is no error."""
    with hypervisor as libvirt:
        libvirt.define(_XML.format(guests.name()))
        for call in (libvirt.reboot, libvirt.reset):
            with pytest.raises(errors.InstanceError, match="in no state for that"):
                call(guests.name())
        libvirt.shut_down(guests.name())
        libvirt.force_off(guests.name())
        libvirt.forget(guests.name())


def test_domain_that_qemu_refuses_is_told_with_libvirts_number(
    guests: Guests, hypervisor: contextlib.closing[Hypervisor]
) -> None:
    xml = _XML.format(guests.name()).replace(
        "</domain>",
        "<devices><disk type='file'><source file='/nonexistent/disk'/><target dev='vda'/></disk></devices></domain>",
    )
    with hypervisor as libvirt:
        libvirt.define(xml)
        with pytest.raises(errors.HypervisorError, match=r"libvirt refuses: .*/nonexistent/disk") as caught:
            libvirt.start(guests.name())
        assert caught.value.code
        libvirt.forget(guests.name())


class Watching(Hypervisor):
    """Looks at the folder of an instance when it is about to start."""

    folder = Path()
    seen: frozenset[str] = frozenset()

    def start(self, name: str) -> None:
        self.seen = frozenset(path.name for path in (self.folder / name).iterdir())
        super().start(name)


def test_all_that_tells_of_an_instance_is_written_before_it_starts(guests: Guests) -> None:
    watching = Watching(guests.lab.uri)
    watching.folder = guests.instances_path
    with contextlib.closing(Instances(guests.engine(), watching)) as instances:
        instances.spawn(guests.spec())
        assert watching.seen == {"disk", "disks.json", "disk.info", "libvirt.xml", "console.log"}
        instances.destroy(guests.name())


class Stuck(Hypervisor):
    """Whose guests never run."""

    def state(self, name: str) -> DomainState | None:
        found = super().state(name)
        return DomainState.PAUSED if found is DomainState.RUNNING else found


def test_guest_that_does_not_come_to_run_is_given_up(make_guests: MakeGuests, libvirt_daemon: Libvirt) -> None:
    guests = make_guests(libvirt_daemon, overrides={"libvirt.start_timeout": 0.3})
    waited: list[str] = []
    instances = Instances(guests.engine(), Stuck(guests.lab.uri))
    with contextlib.closing(instances), pytest.raises(errors.InstanceFailed, match=r"did not run in 0\.3 s"):
        instances.spawn(
            guests.spec(), progress=lambda name: lambda phase, _done, _total: waited.append(f"{name} {phase}")
        )
    assert "start wait" in waited
    assert (guests.domains(), guests.left()) == (set(), set())


def test_spawn_is_logged_as_operators_look_for_it(guests: Guests, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "imgbackend"):
        guests.instances().spawn(guests.spec())
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    running, spawned = f"Instance {guests.name()} is running", f"Instance {guests.name()} spawned successfully"
    assert told[-2:] == [running, spawned]
    guests.instances().destroy(guests.name())


def test_instance_boots_from_a_volume_that_outlives_it(guests: Guests, tmp_path: Path) -> None:
    volume = tmp_path / "volume.qcow2"
    shutil.copy(guests.image, volume)
    source = FileSource(path=volume, format="qcow2")
    instances = guests.instances()
    spawned = instances.spawn(guests.spec(image=None, volumes=(Volume(source=source, boot=True),)))
    assert spawned.disks == {}
    assert guests.sectors() == 16 * Mi // 512
    instances.destroy(guests.name())
    assert volume.is_file()
    assert (guests.domains(), guests.left()) == (set(), set())


def test_instance_has_its_volumes_and_its_own_disks(guests: Guests, tmp_path: Path) -> None:
    volume = Volume(source=FileSource(path=qcow2(tmp_path / "data.qcow2", Mi), format="qcow2"), serial="vol-1")
    instances = guests.instances()
    instances.spawn(guests.spec(swap=Mi, volumes=(volume,)))
    assert "<serial>vol-1</serial>" in instances.xml(guests.name())
    assert {disk.id.name for disk in instances.disks(guests.name())} == {"disk", "disk.swap"}
    instances.destroy(guests.name())
    assert (guests.domains(), guests.left()) == (set(), set())


def test_suffix_names_the_disks_of_an_instance_that_boots_from_another_image(guests: Guests) -> None:
    instances = guests.instances()
    spawned = instances.spawn(guests.spec(suffix=".rescue", swap=Mi, config_drive=ConfigDrive()))
    assert set(spawned.disks) == {"disk.rescue", "disk.swap", "disk.config.rescue"}
    assert guests.sectors() == 16 * Mi // 512
    instances.destroy(guests.name())
    assert (guests.domains(), guests.left()) == (set(), set())


def test_xml_of_a_spec_is_that_of_the_domain(guests: Guests) -> None:
    instances = guests.instances()
    told = instances.to_xml(guests.spec(swap=Mi))
    assert not list(guests.instances_path.iterdir()), "nothing is made for it"
    assert "folder=" not in told, "whose it is is not known yet"
    instances.spawn(guests.spec(swap=Mi))
    kept = (guests.instances_path / guests.name() / "libvirt.xml").read_text()
    assert kept == instances.to_xml(guests.spec(swap=Mi))
    assert f'folder="{folder_marker.read(guests.instances_path)}"' in kept
    instances.destroy(guests.name())


def _image(folder: Path) -> Path:
    return qcow2(folder / "image.qcow2", Mi)


def test_xml_is_told_without_libvirt(make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    engine = make_engine()
    spec = InstanceSpec(id="web1", image=str(_image(tmp_path)))

    def alter(root: ET.Element) -> None:
        ET.SubElement(root, "title").text = "mine"

    told = ET.fromstring(engine.instances.to_xml(spec, alter))  # noqa: S314 - our own text
    source = told.find("./devices/disk/source")
    assert source is not None
    assert source.get("file") == str(engine.host.instances / "web1" / "disk")
    assert told.findtext("title") == "mine"
    with pytest.raises(errors.ConfigError, match="libvirt-python is not installed"):
        engine.instances.spawn(spec)
    assert not (engine.host.instances / "web1").exists()


def test_options_say_what_a_spec_does_not(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine({"libvirt.cpu_mode": "host-model", "libvirt.disk_prefix": "xvd"})
    image = str(_image(tmp_path))
    told = engine.instances.to_xml(InstanceSpec(id="web1", image=image))
    assert '<cpu mode="host-model"' in told
    assert 'dev="xvda"' in told
    own = Hardware(cpu_mode="none", disk_prefix="vd")
    told = engine.instances.to_xml(InstanceSpec(id="web1", image=image, hardware=own))
    assert "<cpu" not in told
    assert 'dev="vda"' in told
