"""One disk of a domain, as XML: how the hypervisor opens it, and how the guest sees it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree as ET

from imgbackend.errors import ConfigError
from imgbackend.guest.devices import Device
from imgbackend.guest.spec import InstanceSpec, IoLimits
from imgbackend.types import BlockSource, DiskSource, FileSource, NetworkSource

CACHE_MODES: Final = ("none", "writeback", "writethrough", "directsync", "unsafe")
_DIRECT: Final = ("none", "directsync")
"""Cache modes that open a disk with O_DIRECT, without which io=native does not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskModes:
    """How the disks of a host are opened."""

    direct: bool = True
    """O_DIRECT works where disks are files: cache mode none, else writeback."""
    cache: Mapping[str, str] = field(default_factory=dict)
    """``[libvirt] disk_cachemodes``: by ``file``, ``block`` or ``network``, instead of that."""
    discard: str | None = None
    """``[libvirt] hw_disk_discard``: ``unmap`` or ``ignore``; None: libvirt's default."""

    def __post_init__(self) -> None:
        for kind, mode in self.cache.items():
            if kind not in ("file", "block", "network") or mode not in CACHE_MODES:
                raise ConfigError(
                    f"[libvirt] disk_cachemodes: {kind}={mode} is none; give file, block or network, and one of "
                    + ", ".join(CACHE_MODES)
                )

    def cache_of(self, kind: str) -> str:
        """The cache mode of a kind of disk."""
        return self.cache.get(kind) or ("none" if self.direct or kind != "file" else "writeback")


def kind_of(source: DiskSource) -> str:
    """``file``, ``block`` or ``network``, as libvirt names it."""
    return {FileSource: "file", BlockSource: "block", NetworkSource: "network"}[type(source)]


def disk_element(device: Device, source: DiskSource, modes: DiskModes, spec: InstanceSpec) -> ET.Element:
    """The ``disk`` element of a device that is opened by ``source``."""
    kind = kind_of(source)
    element = ET.Element("disk", type=kind, device=device.kind)
    element.append(_driver(source, modes.cache_of(kind), modes.discard if device.kind == "disk" else None))
    put_source(element, source)
    ET.SubElement(element, "target", dev=device.target, bus=device.bus)
    serial = _serial(device, spec)
    if serial is not None:
        ET.SubElement(element, "serial").text = serial
    if device.kind == "disk":
        _io_limits(element, spec.io_limits)
    else:
        ET.SubElement(element, "readonly")
    if device.boot is not None:
        ET.SubElement(element, "boot", order=str(device.boot))
    if device.unit is not None:
        place = {"controller": "0", "bus": "0", "target": "0", "unit": str(device.unit)}
        ET.SubElement(element, "address", {"type": "drive", **place})
    return element


def _driver(source: DiskSource, cache: str, discard: str | None) -> ET.Element:
    element = ET.Element("driver", name="qemu", type=source.format, cache=cache)
    if isinstance(source, BlockSource) and source.io_native:
        element.set("io", "native" if cache in _DIRECT else "threads")
    if discard is not None:
        element.set("discard", discard)
    return element


def put_source(element: ET.Element, source: DiskSource) -> None:
    """Say in a ``disk`` element how it is opened."""
    if isinstance(source, FileSource):
        ET.SubElement(element, "source", file=str(source.path))
        return
    if isinstance(source, BlockSource):
        ET.SubElement(element, "source", dev=str(source.path))
        return
    found = ET.SubElement(element, "source", protocol=source.protocol, name=source.name)
    for name, port in source.hosts:
        ET.SubElement(found, "host", name=name, port=str(port))
    if source.conf is not None:
        ET.SubElement(found, "config", file=source.conf)
    if source.user is not None and source.secret_uuid is not None:
        auth = ET.SubElement(element, "auth", username=source.user)
        ET.SubElement(auth, "secret", type="ceph", uuid=source.secret_uuid)


def _serial(device: Device, spec: InstanceSpec) -> str | None:
    if device.name.startswith("volume"):
        return spec.volumes[int(device.name[6:])].serial
    return None


def _io_limits(element: ET.Element, limits: IoLimits) -> None:
    told = {name: value for name, value in dataclasses.asdict(limits).items() if value is not None}
    if not told:
        return
    tune = ET.SubElement(element, "iotune")
    for name, value in told.items():
        ET.SubElement(tune, name).text = str(value)
