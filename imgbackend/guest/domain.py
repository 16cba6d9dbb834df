"""The libvirt domain of an instance, as XML.  libvirt itself is not needed for it.

The format is libvirt's (https://libvirt.org/formatdomain.html); the order of a disk's
elements and the choices of cache and io modes are Nova's.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from imgbackend.guest.devices import Device, Machine
from imgbackend.guest.disk_xml import DiskModes, disk_element
from imgbackend.guest.spec import InstanceSpec, Nic
from imgbackend.state.domain_xml import instance_element
from imgbackend.types import DiskSource, Ki, Owner

_OUI: Final = (0x52, 0x54, 0x00)
"""The first bytes of a MAC address of QEMU's guests."""
_CMDLINE: Final = "console=ttyS0"

Alter = Callable[[ET.Element], None]
"""Changes the finished tree of a domain, before it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Everything that the XML of an instance is made of."""

    spec: InstanceSpec
    devices: tuple[Device, ...]
    sources: Mapping[str, DiskSource]
    """How each device of ``devices`` is opened, by its name."""
    console_log: Path
    machine: Machine = field(default_factory=Machine)
    properties: Mapping[str, str] = field(default_factory=dict)
    """The image's."""
    virt_type: str = "kvm"
    """``[libvirt] virt_type``: ``kvm``, or ``qemu`` where there is no hardware for it."""
    kernel: Path | None = None
    ramdisk: Path | None = None
    modes: DiskModes = field(default_factory=DiskModes)
    owner: Owner | None = None
    """Whose the instance is; None: the XML does not say."""


def to_xml(domain: Domain, alter: Alter | None = None) -> str:
    """The domain's XML, indented, ending with a newline.  ``alter`` may change the tree first."""
    spec = domain.spec
    root = ET.Element("domain", type=domain.virt_type)
    _text(root, "name", spec.id)
    _text(root, "uuid", spec.uuid)
    ET.SubElement(root, "metadata").append(instance_element(spec.id, domain.owner))
    _text(root, "memory", str(-(-spec.memory // Ki)), unit="KiB")
    _text(root, "vcpu", str(spec.vcpus))
    root.append(_os(domain))
    _features(root, domain)
    _clock(root)
    for event, action in (("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")):
        _text(root, event, action)
    root.append(_devices(domain))
    if alter is not None:
        alter(root)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def mac_of(spec: InstanceSpec, number: int) -> str:
    """The MAC address of an interface: the one it was given, else always the same of this instance."""
    told = spec.nics[number].mac
    if told is not None:
        return told
    digest = hashlib.sha256(f"{spec.uuid}/{number}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (*_OUI, *digest[:3]))


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text


def _os(domain: Domain) -> ET.Element:
    spec = domain.spec
    firmware = spec.hardware.firmware or domain.properties.get("hw_firmware_type") or "bios"
    element = ET.Element("os", {"firmware": "efi"} if firmware == "uefi" else {})
    _text(element, "type", "hvm", arch=domain.machine.arch, machine=domain.machine.type)
    if domain.kernel is not None:
        _text(element, "kernel", str(domain.kernel))
        if domain.ramdisk is not None:
            _text(element, "initrd", str(domain.ramdisk))
        told = spec.cmdline if spec.cmdline is not None else domain.properties.get("os_command_line")
        _text(element, "cmdline", told if told is not None else _CMDLINE)
    return element


def _features(root: ET.Element, domain: Domain) -> None:
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    if domain.machine.arch in ("x86_64", "i686"):
        ET.SubElement(features, "apic")
    mode = domain.spec.hardware.cpu_mode
    if mode not in (None, "none"):
        ET.SubElement(root, "cpu", mode=str(mode))


def _clock(root: ET.Element) -> None:
    clock = ET.SubElement(root, "clock", offset="utc")
    ET.SubElement(clock, "timer", name="pit", tickpolicy="delay")
    ET.SubElement(clock, "timer", name="rtc", tickpolicy="catchup")
    ET.SubElement(clock, "timer", name="hpet", present="no")


def _devices(domain: Domain) -> ET.Element:
    spec = domain.spec
    devices = ET.Element("devices")
    for device in domain.devices:
        devices.append(disk_element(device, domain.sources[device.name], domain.modes, spec))
    if any(device.bus == "scsi" for device in domain.devices):
        model = spec.hardware.scsi_model or domain.properties.get("hw_scsi_model") or "virtio-scsi"
        ET.SubElement(devices, "controller", type="scsi", index="0", model=model)
    for number, nic in enumerate(spec.nics):
        devices.append(_interface(domain, nic, mac_of(spec, number)))
    _serial(devices, domain.console_log)
    if spec.hardware.rng:
        rng = ET.SubElement(devices, "rng", model="virtio")
        _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", model="virtio" if spec.hardware.balloon else "none")
    return devices


def _interface(domain: Domain, nic: Nic, mac: str) -> ET.Element:
    element = ET.Element("interface", type=nic.kind)
    ET.SubElement(element, "mac", address=mac)
    if nic.kind != "user":
        ET.SubElement(element, "source", {nic.kind: nic.name})
    model = nic.model or domain.spec.hardware.vif_model or domain.properties.get("hw_vif_model") or "virtio"
    ET.SubElement(element, "model", type=model)
    return element


def _serial(devices: ET.Element, log: Path) -> None:
    """One serial port: somebody may look at it, and all of it is in a file.

    The file is appended to, and emptied by us: libvirt's own daemon for logs would put a file
    that root alone reads in its place.
    """
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "log", file=str(log), append="on")
    ET.SubElement(serial, "target", port="0")
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "log", file=str(log), append="on")
    ET.SubElement(console, "target", type="serial", port="0")
