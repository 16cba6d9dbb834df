"""The XML of a domain: a golden file for each kind of source and bus, valid by libvirt's own schema."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from imgbackend.errors import ConfigError
from imgbackend.guest.devices import Machine, lay_out
from imgbackend.guest.disk_xml import DiskModes
from imgbackend.guest.domain import Domain, mac_of, to_xml
from imgbackend.guest.spec import ConfigDrive, Ephemeral, Hardware, InstanceSpec, IoLimits, Nic, Volume
from imgbackend.types import BlockSource, DiskSource, FileSource, Gi, Mi, NetworkSource, Owner
from labs.require import require

GOLDEN = Path(__file__).with_name("golden")
FOLDER = Path("/var/lib/imgbackend/instances/web1")


def file_source(name: str, format: str = "qcow2") -> FileSource:
    return FileSource(path=FOLDER / name, format="raw" if name.startswith("disk.config") else format)


def domain(sources: Mapping[str, DiskSource] | None = None, **values: Any) -> Domain:
    own = {name: values.pop(name) for name in ("machine", "properties", "kernel", "ramdisk", "modes") if name in values}
    spec = InstanceSpec(**{"id": "web1", "image": "jammy", **values})
    devices = lay_out(spec, own.get("properties", {}), own.get("machine", Machine()))
    found = {device.name: file_source(device.name) for device in devices} | dict(sources or {})
    return Domain(
        spec=spec, devices=devices, sources=found, console_log=FOLDER / "console.log", virt_type="qemu", **own
    )


RBD = NetworkSource(
    protocol="rbd",
    name="vms/web1_disk",
    hosts=(("10.0.0.1", 6789), ("10.0.0.2", 3300)),
    user="libvirt",
    secret_uuid="5a5e3b2c-6f0d-4b4f-9b63-0d7a1f1d8a77",  # noqa: S106 - a name of a secret, not one
)
LVM = BlockSource(path=Path("/dev/vg0/web1_disk"))

CASES: dict[str, Domain] = {
    "qcow2-virtio": domain(),
    "raw-ide": domain({"disk": file_source("disk", "raw")}, hardware=Hardware(disk_bus="ide")),
    "lvm-scsi": domain(
        {"disk": LVM},
        properties={"hw_disk_bus": "scsi"},
        modes=DiskModes(discard="unmap"),
        io_limits=IoLimits(total_iops_sec=500, read_bytes_sec=Mi, write_bytes_sec=Mi),
    ),
    "qcow2-sata": domain(machine=Machine(type="q35"), properties={"hw_disk_bus": "sata"}, swap=Gi),
    "raw-usb": domain({"disk": file_source("disk", "raw")}, hardware=Hardware(disk_bus="usb"), swap=Gi),
    "lvm-writeback": domain({"disk": LVM}, modes=DiskModes(cache={"block": "writeback"})),
    "rbd-virtio": domain({"disk": RBD}),
    "everything-q35": domain(
        {"volume0": LVM, "disk.swap": RBD},
        machine=Machine(type="q35"),
        modes=DiskModes(direct=False),
        hardware=Hardware(firmware="uefi", cpu_mode="host-model", balloon=False, rng=False),
        ephemerals=(Ephemeral(size=Gi),),
        swap=Gi,
        volumes=(Volume(source=LVM, serial="vol-1"),),
        config_drive=ConfigDrive(),
        nics=(Nic(kind="bridge", name="br0"), Nic(kind="network", name="default", model="e1000"), Nic(kind="user")),
        boot_order=("disk.config", "disk"),
        memory=3 * Gi,
        vcpus=4,
    ),
    "kernel": domain(kernel=FOLDER / "kernel", ramdisk=FOLDER / "ramdisk", properties={"os_command_line": "quiet a<b"}),
    "owner": dataclasses.replace(domain(), owner=Owner(host="node1", folder="0123456789abcdef0123456789abcdef")),
    "iso": domain(machine=Machine(type="pc", root_is_iso=True), hardware=Hardware(cdrom_bus="sata")),
}


@pytest.mark.parametrize("name", CASES)
def test_xml_is_the_golden_one(name: str) -> None:
    golden = GOLDEN / f"{name}.xml"
    if os.environ.get("IMGBACKEND_WRITE_GOLDEN") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(to_xml(CASES[name]))
    assert to_xml(CASES[name]) == golden.read_text()


def test_every_golden_file_is_of_a_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_xml_is_valid_by_libvirts_schema(name: str) -> None:
    validate = shutil.which("virt-xml-validate")
    if validate is None:
        require("libvirt", "virt-xml-validate is not installed (libvirt-clients)")
    done = subprocess.run(
        [validate, GOLDEN / f"{name}.xml", "domain"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alter_has_the_last_word() -> None:
    def alter(root: ET.Element) -> None:
        ET.SubElement(root, "title").text = "altered"

    assert "<title>altered</title>" in to_xml(domain(), alter)


def test_models_are_the_specs_else_the_images() -> None:
    told = {"hw_scsi_model": "lsilogic", "hw_vif_model": "e1000", "hw_firmware_type": "uefi", "hw_disk_bus": "scsi"}

    def models(hardware: Hardware, *nics: Nic) -> tuple[list[str | None], str | None]:
        found = ET.fromstring(to_xml(domain(properties=told, hardware=hardware, nics=nics)))  # noqa: S314 - our own text
        named = [*found.findall("devices/controller"), *found.findall("devices/interface/model")]
        return [each.get("model") or each.get("type") for each in named], found.find("os").get("firmware")  # type: ignore[union-attr]  # it has one

    assert models(Hardware(), Nic(kind="user")) == (["lsilogic", "e1000"], "efi")
    own = Hardware(scsi_model="virtio-scsi", vif_model="rtl8139", firmware="bios")
    assert models(own, Nic(kind="user"), Nic(kind="user", model="virtio")) == (
        ["virtio-scsi", "rtl8139", "virtio"],
        None,
    )


def test_odd_paths_are_told_as_they_are() -> None:
    odd = FileSource(path=Path('/srv/a, b\'s "c" <d>/disk'), format="raw")
    found = ET.fromstring(to_xml(domain({"disk": odd})))  # noqa: S314 - our own text
    source = found.find("./devices/disk/source")
    assert source is not None
    assert source.get("file") == str(odd.path)


def test_password_is_not_in_the_xml() -> None:
    secret = "hunter2"  # noqa: S105 - of nobody
    found = domain(config_drive=ConfigDrive(user_data=secret.encode()), admin_password=secret)
    assert secret not in to_xml(found)


def test_mac_is_kept_or_always_the_same() -> None:
    spec = domain(nics=(Nic(kind="user", mac="fa:16:3e:00:00:01"), Nic(kind="user"), Nic(kind="user"))).spec
    assert mac_of(spec, 0) == "fa:16:3e:00:00:01"
    assert mac_of(spec, 1) == mac_of(spec, 1) != mac_of(spec, 2)
    assert int(mac_of(spec, 1)[:2], 16) & 3 == 2, "a unicast address that is locally administered"


@pytest.mark.parametrize("cache", [{"file": "no"}, {"mount": "none"}])
def test_cache_mode_that_is_none_is_refused(cache: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="disk_cachemodes"):
        DiskModes(cache=cache)
