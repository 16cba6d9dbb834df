"""The XML of a domain that came with disks from a store: others can write there, so that nothing in it is believed.

What imgbackend itself does not write is refused, and so is every path but those of the instance; how the disks are
opened is what this host knows, not what the other did.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Final
from xml.etree import ElementTree as ET

from imgbackend import errors
from imgbackend.guest.disk_xml import put_source
from imgbackend.guest.spec import IoLimits
from imgbackend.state import domain_xml
from imgbackend.types import DiskSource, Owner

_TAGS: Final = frozenset(
    {
        *("domain", "name", "uuid", "metadata", "memory", "vcpu", "os", "type", "kernel", "initrd", "cmdline"),
        *("features", "acpi", "apic", "cpu", "clock", "timer", "on_poweroff", "on_reboot", "on_crash"),
        *("devices", "controller", "interface", "mac", "model", "rng", "backend", "memballoon"),
        *("serial", "console", "log", "target"),
        *("disk", "driver", "source", "host", "config", "auth", "secret", "readonly", "boot", "address", "iotune"),
        *(limit.name for limit in dataclasses.fields(IoLimits)),
    }
)
"""The elements that imgbackend writes, beside the one in its own namespace."""
_RANDOM: Final = "/dev/urandom"
_KINDS: Final[Mapping[str, set[str | None]]] = {
    "serial": {"pty", None},
    "console": {"pty", None},
    "interface": {"bridge", "network", "user"},
}
"""What the attribute ``type`` of an element may be; a ``serial`` in a disk has none."""


def adopted(xml: str, name: str, folder: str, disks: Iterable[DiskSource], owner: Owner) -> str:
    """The XML of the domain as this host would have it; ``folder`` is the instance's own, ``disks`` are all of its.

    :raises DiskError: if it is not what imgbackend writes for this instance and these disks.
    """
    root = _parsed(xml, name)
    moved = ET.fromstring(domain_xml.moved(xml, folder))  # noqa: S314 - it was looked at for entities just now
    if root.findtext("name") != name or moved.findtext("name") != name:
        raise _odd(name, f"it is the domain {root.findtext('name')!r}")
    known = {domain_xml.place(source): source for source in disks}
    for disk in moved.iterfind("devices/disk"):
        _open_as_here(disk, name, known)
    for element in moved.iter():
        _check(element, name, folder, known)
    ET.register_namespace("imgbackend", domain_xml.NAMESPACE)
    return domain_xml.with_owner(ET.tostring(moved, encoding="unicode") + "\n", owner)


def _parsed(xml: str, name: str) -> ET.Element:
    if "<!" in xml:
        raise _odd(name, "it has declarations")
    try:
        return ET.fromstring(xml)  # noqa: S314 - it declares no entities
    except ET.ParseError as exc:
        raise _odd(name, str(exc)) from exc


def _open_as_here(disk: ET.Element, name: str, known: dict[str, DiskSource]) -> None:
    """Another host may know the cluster by other addresses, and the user's key under another uuid."""
    opened = disk.find("source")
    source = next((known[place] for place in domain_xml.places(opened) if place in known), None)
    if opened is None or source is None:
        places = " ".join(domain_xml.places(opened)) or "nothing"
        raise _odd(name, f"a disk of it opens {places}, which is no disk of {name} here")
    for gone in [opened, *disk.findall("auth")]:
        disk.remove(gone)
    put_source(disk, source)


def _check(element: ET.Element, name: str, folder: str, known: dict[str, DiskSource]) -> None:
    if element.tag not in _TAGS and element.tag != domain_xml.ELEMENT:
        raise _odd(name, f"it has an element {element.tag}")
    if element.tag in _KINDS and element.get("type") not in _KINDS[element.tag]:
        raise _odd(name, f"it has an element {element.tag} of the type {element.get('type')}")
    confs = {getattr(source, "conf", None) for source in known.values()}
    for value in (*element.attrib.values(), (element.text or "").strip()):
        inside = value.startswith(f"{folder}/") and "/.." not in value
        if value.startswith("/") and not (inside or value == _RANDOM or value in known or value in confs):
            raise _odd(name, f"it opens {value}, which is not of {name}")


def _odd(name: str, reason: str) -> errors.DiskError:
    return errors.DiskError(
        f"the domain that was left with the disks of {name} is not what imgbackend writes: {reason}; look who wrote to "
        "the store; to have the disks without it, use --take-over of instance spawn"
    )
