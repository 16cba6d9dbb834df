"""Buses, names and turns of an instance's disks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from imgbackend.errors import ConfigError
from imgbackend.guest.devices import Machine, lay_out, root_name
from imgbackend.guest.spec import ConfigDrive, Ephemeral, Hardware, InstanceSpec, Volume
from imgbackend.types import BlockSource, Gi

Q35 = Machine(type="pc-q35-7.2")


def spec(**values: Any) -> InstanceSpec:
    return InstanceSpec(**{"id": "web1", "image": "jammy", **values})


def names(found: InstanceSpec, properties: Mapping[str, str] | None = None, machine: Machine | None = None) -> str:
    devices = lay_out(found, properties or {}, machine or Machine())
    return " ".join(f"{device.name}={device.bus}:{device.target}" for device in devices)


def volume(**values: Any) -> Volume:
    return Volume(source=BlockSource(path=Path("/dev/vg/data")), **values)


def test_order_is_root_local_ephemerals_swap_volumes_config_drive() -> None:
    whole = spec(
        local=Ephemeral(size=Gi),
        ephemerals=(Ephemeral(size=Gi), Ephemeral(size=Gi)),
        swap=Gi,
        volumes=(volume(),),
        config_drive=ConfigDrive(),
    )
    assert names(whole) == (
        "disk=virtio:vda disk.local=virtio:vdb disk.eph0=virtio:vdc disk.eph1=virtio:vdd "
        "disk.swap=virtio:vde volume0=virtio:vdf disk.config=ide:hda"
    )


@pytest.mark.parametrize(
    ("hardware", "properties", "machine", "wanted"),
    [
        ({}, {}, Machine(), "disk=virtio:vda disk.config=ide:hda"),
        ({}, {}, Q35, "disk=virtio:vda disk.config=sata:sda"),
        ({}, {}, Machine(arch="aarch64", type="virt"), "disk=virtio:vda disk.config=scsi:sda"),
        ({}, {}, Machine(arch="ppc64le", type="pseries"), "disk=virtio:vda disk.config=scsi:sda"),
        ({}, {"hw_disk_bus": "scsi"}, Machine(), "disk=scsi:sda disk.config=ide:hda"),
        ({}, {"hw_disk_bus": "sata", "hw_cdrom_bus": "sata"}, Q35, "disk=sata:sda disk.config=sata:sdb"),
        ({}, {"hw_disk_bus": "scsi"}, Q35, "disk=scsi:sda disk.config=sata:sdb"),
        ({"disk_bus": "usb"}, {"hw_disk_bus": "scsi"}, Q35, "disk=usb:sda disk.config=sata:sdb"),
        ({"disk_prefix": "xvd"}, {}, Q35, "disk=virtio:xvda disk.config=sata:xvdb"),
    ],
)
def test_bus_is_the_specs_else_the_images_else_the_machines(
    hardware: dict[str, Any], properties: dict[str, str], machine: Machine, wanted: str
) -> None:
    found = spec(hardware=Hardware(**hardware), config_drive=ConfigDrive())
    assert names(found, properties, machine) == wanted


def test_iso_root_is_a_cdrom() -> None:
    root, *_ = lay_out(spec(), {}, Machine(type="q35", root_is_iso=True))
    assert (root.kind, root.bus, root.target, root.boot) == ("cdrom", "sata", "sda", 1)


def test_instance_boots_from_its_volume_and_has_no_root_disk() -> None:
    found = spec(image=None, volumes=(volume(), volume(boot=True, bus="scsi")), swap=Gi)
    assert root_name(found) == "volume1"
    assert names(found) == "volume1=scsi:sda disk.swap=virtio:vda volume0=virtio:vdb"
    assert [device.boot for device in lay_out(found, {}, Machine())] == [1, None, None]


def test_suffix_names_root_and_config_drive() -> None:
    found = spec(suffix=".rescue", config_drive=ConfigDrive(), swap=Gi)
    assert names(found) == "disk.rescue=virtio:vda disk.swap=virtio:vdb disk.config.rescue=ide:hda"


def test_boot_order_is_kept() -> None:
    found = spec(config_drive=ConfigDrive(), boot_order=("disk.config", "disk"))
    assert {device.name: device.boot for device in lay_out(found, {}, Machine())} == {"disk": 2, "disk.config": 1}


def test_scsi_disks_have_units_of_one_controller() -> None:
    found = spec(hardware=Hardware(disk_bus="scsi", cdrom_bus="scsi"), swap=Gi, config_drive=ConfigDrive())
    assert [(device.target, device.unit) for device in lay_out(found, {}, Machine())] == [
        ("sda", 0),
        ("sdb", 1),
        ("sdc", 2),
    ]


def test_names_go_on_after_z() -> None:
    found = spec(ephemerals=(Ephemeral(size=Gi),) * 30)
    assert [device.target for device in lay_out(found, {}, Machine())][24:29] == ["vdy", "vdz", "vdaa", "vdab", "vdac"]


@pytest.mark.parametrize(
    ("values", "properties", "machine", "message"),
    [
        ({"hardware": Hardware(disk_bus="ide"), "ephemerals": (Ephemeral(size=1),) * 4}, {}, None, "ide takes 4 disks"),
        ({"hardware": Hardware(disk_bus="floppy")}, {}, None, "hardware: disk_bus: 'floppy' is no bus"),
        ({}, {"hw_disk_bus": "xen"}, None, "the image's hw_disk_bus: 'xen' is no bus"),
        ({"config_drive": ConfigDrive()}, {"hw_cdrom_bus": "virtio"}, None, "virtio has no CD-ROMs"),
        ({"hardware": Hardware(disk_bus="ide")}, {}, Q35, "has no IDE"),
        ({"boot_order": ("disk.swap",)}, {}, None, "there is no disk disk.swap"),
        ({"boot_order": ("disk", "disk")}, {}, None, "names a disk twice"),
        ({"swap": Gi}, {}, Machine(most_disks=1), "1 disks at most"),
    ],
)
def test_what_does_not_fit_is_refused(
    values: dict[str, Any], properties: dict[str, str], machine: Machine | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        lay_out(spec(**values), properties, machine or Machine())
