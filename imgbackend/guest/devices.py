"""Which bus and which name each disk of an instance has, and in which order it boots.

The choices are Nova's, so that a guest that moves from there finds its disks where they
were: the order root, local, ephemeral, swap, volumes, config drive; the bus by what the
spec says, else the image's property, else what the machine has; the first free name of the bus.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from imgbackend.errors import ConfigError
from imgbackend.guest.spec import InstanceSpec

Kind = Literal["disk", "cdrom"]

_PREFIXES: Final = {"virtio": "vd", "scsi": "sd", "sata": "sd", "usb": "sd", "ide": "hd"}
_MOST: Final = {"ide": 4, "scsi": 256}
"""Devices that a bus of one controller takes; the others get controllers as they need them."""
_SCSI_CDROM: Final = ("aarch64", "ppc", "s390")
_LETTERS: Final = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One disk as the guest has it."""

    name: str
    """Of the disk (``disk.eph0``), or ``volume0`` and on."""
    kind: Kind
    bus: str
    target: str
    """Its name in the guest, as far as guests keep to it: ``vda``."""
    boot: int | None = None
    """Its turn, from 1; None: it is not booted from."""
    unit: int | None = None
    """Its place on the SCSI controller; None on another bus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the choices depend on."""

    arch: str = "x86_64"
    type: str = "pc"
    """Of the machine, as libvirt names it."""
    root_is_iso: bool = False
    """The root disk is an ISO image: a CD-ROM."""
    most_disks: int | None = None
    """``[compute] max_disk_devices_to_attach``; None is no limit."""


def lay_out(spec: InstanceSpec, properties: Mapping[str, str], machine: Machine) -> tuple[Device, ...]:
    """All disks of an instance, in the order in which they are attached.

    ``properties`` are the image's.

    :raises ConfigError: if a bus cannot be had, or has no room, or the boot order names what there is not.
    """
    places = _Places(spec.hardware.disk_prefix, machine.most_disks)
    turns = _turns(spec)
    hard = disk_bus(spec, properties)
    optical = cdrom_bus(spec, properties, machine)
    found: list[Device] = []

    def add(name: str, kind: Kind, bus: str) -> None:
        if bus == "ide" and "q35" in machine.type:
            raise ConfigError(f"{name}: the machine {machine.type} has no IDE; use virtio, scsi, sata or usb")
        target, unit = places.next(bus)
        found.append(Device(name=name, kind=kind, bus=bus, target=target, boot=turns.get(name), unit=unit))

    for name in disk_names(spec):
        root_iso = machine.root_is_iso and name == root_name(spec)
        if name.startswith("disk.config") or root_iso:
            add(name, "cdrom", optical)
        elif name.startswith("volume"):
            add(name, "disk", _checked("volume: bus", spec.volumes[int(name[6:])].bus or hard))
        else:
            add(name, "disk", hard)
    missing = sorted(set(turns) - {device.name for device in found})
    if missing:
        raise ConfigError(f"boot_order: there is no disk {missing[0]}; there are {', '.join(disk_names(spec))}")
    return tuple(found)


def root_name(spec: InstanceSpec) -> str:
    """Of the disk that the instance boots from."""
    for number, volume in enumerate(spec.volumes):
        if volume.boot:
            return f"volume{number}"
    return f"disk{spec.suffix}"


def disk_names(spec: InstanceSpec) -> list[str]:
    """Of all disks, in their order; volumes are ``volume0`` and on."""
    volumes = [f"volume{number}" for number in range(len(spec.volumes))]
    root = root_name(spec)
    names = [root]
    if spec.local is not None:
        names.append("disk.local")
    names += [f"disk.eph{number}" for number in range(len(spec.ephemerals))]
    if spec.swap is not None:
        names.append("disk.swap")
    names += [name for name in volumes if name != root]
    if spec.config_drive is not None:
        names.append(f"disk.config{spec.suffix}")
    return names


def disk_bus(spec: InstanceSpec, properties: Mapping[str, str]) -> str:
    """Of hard disks."""
    if spec.hardware.disk_bus is not None:
        return _checked("hardware: disk_bus", spec.hardware.disk_bus)
    return _checked("the image's hw_disk_bus", properties.get("hw_disk_bus") or "virtio")


def cdrom_bus(spec: InstanceSpec, properties: Mapping[str, str], machine: Machine) -> str:
    """Of CD-ROMs, which virtio does not have."""
    told = spec.hardware.cdrom_bus or properties.get("hw_cdrom_bus")
    if told:
        what = "hardware: cdrom_bus" if spec.hardware.cdrom_bus else "the image's hw_cdrom_bus"
        if _checked(what, told) == "virtio":
            raise ConfigError(f"{what}: virtio has no CD-ROMs; use sata, scsi, usb or ide")
        return told
    if machine.arch.startswith(_SCSI_CDROM):
        return "scsi"
    return "sata" if "q35" in machine.type else "ide"


def _checked(what: str, bus: str) -> str:
    if bus not in _PREFIXES:
        raise ConfigError(f"{what}: {bus!r} is no bus for a disk; there are {', '.join(_PREFIXES)}")
    return bus


def _turns(spec: InstanceSpec) -> dict[str, int]:
    """When each disk is booted from."""
    order = spec.boot_order or (root_name(spec),)
    if len(set(order)) < len(order):
        raise ConfigError("boot_order: names a disk twice")
    return {name: turn for turn, name in enumerate(order, 1)}


class _Places:
    """Names and units that are still free."""

    def __init__(self, prefix: str | None, most: int | None) -> None:
        self._prefix, self._most = prefix, most
        self._by_prefix: dict[str, int] = {}
        self._by_bus: dict[str, int] = {}

    def next(self, bus: str) -> tuple[str, int | None]:
        on_bus = self._by_bus.get(bus, 0)
        if on_bus >= _MOST.get(bus, on_bus + 1):
            raise ConfigError(f"the bus {bus} takes {_MOST[bus]} disks, and more are asked for; use another bus")
        if self._most is not None and sum(self._by_bus.values()) >= self._most:
            raise ConfigError(f"an instance has {self._most} disks at most (max_disk_devices_to_attach)")
        self._by_bus[bus] = on_bus + 1
        prefix = self._prefix or _PREFIXES[bus]
        number = self._by_prefix.get(prefix, 0)
        self._by_prefix[prefix] = number + 1
        return prefix + _letters(number), on_bus if bus == "scsi" else None


def _letters(number: int) -> str:
    """a to z, then aa: as the kernel goes on."""
    found = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, _LETTERS)
        found = chr(ord("a") + letter) + found
    return found
