"""The XML of a domain that came with disks from a store: others can write there, so that nothing in it is believed.

A new tree is made, of the elements and attributes that imgbackend writes and of nothing else, each with a value of its
kind alone.  How the disks are opened, and in which format, is what this host knows; whatever is a path is this host's.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Final
from xml.etree import ElementTree as ET

from imgbackend import errors
from imgbackend.guest import console
from imgbackend.guest.disk_xml import CACHE_MODES, kind_of, put_source
from imgbackend.guest.spec import IoLimits
from imgbackend.state import domain_xml
from imgbackend.types import DiskSource, Owner

_WORD: Final = r"[A-Za-z0-9_.:+-]{1,64}"
_NUMBER: Final = r"[0-9]{1,18}"
_LINK: Final = r"[^/\s\x00-\x1f\x7f]{1,64}"
"""The name of a bridge or a network."""
_TEXT: Final = r"[\x20-\x7e]{0,4096}"
_NOTHING: Final = r"\s*"


@dataclasses.dataclass(frozen=True, slots=True)
class _Rule:
    """What an element may have; it is there once at most, unless it is among :data:`_SEVERAL`."""

    text: str = _NOTHING
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)


_DISK: Final = "domain/devices/disk"
_SERIAL: Final = "domain/devices/serial"
_CONSOLE: Final = "domain/devices/console"
_NIC: Final = "domain/devices/interface"
_DRIVER: Final = {
    "name": "qemu",
    "type": _WORD,
    "cache": "|".join(CACHE_MODES),
    "io": "native|threads",
    "discard": "unmap|ignore",
}
_RULES: Final[Mapping[str, _Rule]] = {
    "domain": _Rule(attributes={"type": "kvm|qemu"}),
    "domain/name": _Rule(_WORD),
    "domain/uuid": _Rule(r"[0-9a-fA-F-]{36}"),
    "domain/memory": _Rule(_NUMBER, {"unit": "KiB"}),
    "domain/vcpu": _Rule(_NUMBER),
    "domain/os": _Rule(attributes={"firmware": "efi"}),
    "domain/os/type": _Rule("hvm", {"arch": _WORD, "machine": _WORD}),
    "domain/os/kernel": _Rule(_TEXT),
    "domain/os/initrd": _Rule(_TEXT),
    "domain/os/cmdline": _Rule(_TEXT),
    "domain/features": _Rule(),
    "domain/features/acpi": _Rule(),
    "domain/features/apic": _Rule(),
    "domain/cpu": _Rule(attributes={"mode": _WORD}),
    "domain/clock": _Rule(attributes={"offset": "utc"}),
    "domain/clock/timer": _Rule(attributes={"name": _WORD, "tickpolicy": _WORD, "present": "yes|no"}),
    **{f"domain/{event}": _Rule(_WORD) for event in ("on_poweroff", "on_reboot", "on_crash")},
    "domain/devices": _Rule(),
    _DISK: _Rule(attributes={"type": "file|block|network", "device": "disk|cdrom"}),
    f"{_DISK}/driver": _Rule(attributes=_DRIVER),
    f"{_DISK}/target": _Rule(attributes={"dev": _WORD, "bus": _WORD}),
    f"{_DISK}/serial": _Rule(_WORD),
    f"{_DISK}/readonly": _Rule(),
    f"{_DISK}/boot": _Rule(attributes={"order": _NUMBER}),
    f"{_DISK}/address": _Rule(
        attributes={"type": "drive"} | dict.fromkeys(("controller", "bus", "target", "unit"), _NUMBER)
    ),
    f"{_DISK}/iotune": _Rule(),
    **{f"{_DISK}/iotune/{limit.name}": _Rule(_NUMBER) for limit in dataclasses.fields(IoLimits)},
    "domain/devices/controller": _Rule(attributes={"type": "scsi", "index": "0", "model": _WORD}),
    _NIC: _Rule(attributes={"type": "bridge|network|user"}),
    f"{_NIC}/mac": _Rule(attributes={"address": "[0-9a-fA-F:]{17}"}),
    f"{_NIC}/source": _Rule(attributes={"bridge": _LINK, "network": _LINK}),
    f"{_NIC}/model": _Rule(attributes={"type": _WORD}),
    _SERIAL: _Rule(attributes={"type": "pty"}),
    f"{_SERIAL}/log": _Rule(attributes={"file": _TEXT, "append": "on"}),
    f"{_SERIAL}/target": _Rule(attributes={"port": "0"}),
    _CONSOLE: _Rule(attributes={"type": "pty"}),
    f"{_CONSOLE}/log": _Rule(attributes={"file": _TEXT, "append": "on"}),
    f"{_CONSOLE}/target": _Rule(attributes={"type": "serial", "port": "0"}),
    "domain/devices/rng": _Rule(attributes={"model": "virtio"}),
    "domain/devices/rng/backend": _Rule("/dev/urandom", {"model": "random"}),
    "domain/devices/memballoon": _Rule(attributes={"model": "virtio|none"}),
}
"""What imgbackend writes, by the elements' places: see :mod:`imgbackend.guest.domain`."""
_SEVERAL: Final = frozenset({_DISK, _NIC, "domain/clock/timer"})
_OWN: Final = frozenset({"domain/metadata", f"{_DISK}/source", f"{_DISK}/auth"})
"""What is not copied, but written as this host has it."""


def adopted(xml: str, name: str, folder: str, disks: Iterable[DiskSource], owner: Owner) -> str:
    """The XML of the domain as this host would have it; ``folder`` is the instance's own, ``disks`` are all of its.

    :raises DiskError: if it is not what imgbackend writes for this instance and these disks.
    """
    former = _parsed(xml, name)
    made = _Copy(name, folder, {domain_xml.place(source): source for source in disks}).of(former, former.tag)
    if made.findtext("name") != name:
        raise _odd(name, f"it is the domain {made.findtext('name')!r}")
    metadata = ET.Element("metadata")
    metadata.append(domain_xml.instance_element(name, owner))
    made.insert(2, metadata)
    ET.indent(made)
    return ET.tostring(made, encoding="unicode") + "\n"


def _parsed(xml: str, name: str) -> ET.Element:
    if "<!" in xml:
        raise _odd(name, "it has declarations")
    try:
        return ET.fromstring(xml)  # noqa: S314 - it declares no entities
    except (ET.ParseError, ValueError) as exc:
        raise _odd(name, str(exc)) from exc


class _Copy:
    """Copies the elements that there is a rule for."""

    def __init__(self, name: str, folder: str, known: Mapping[str, DiskSource]) -> None:
        self._name, self._folder, self._known = name, folder, known

    def of(self, element: ET.Element, place: str) -> ET.Element:
        rule = _RULES.get(place)
        if rule is None:
            raise _odd(self._name, f"it has an element {place!r}")
        made = ET.Element(element.tag)
        for key, value in element.attrib.items():
            made.set(key, self._expected(value, rule.attributes.get(key), f"{place} {key}"))
        text = self._expected(element.text or "", rule.text, place)
        made.text = text if text.strip() else None
        seen = set[str]()
        for child in element:
            below = f"{place}/{child.tag}"
            if below in _OWN:
                continue
            if below in seen and below not in _SEVERAL:
                raise _odd(self._name, f"it has {below!r} twice")
            seen.add(below)
            made.append(self.of(child, below))
        self._finish(made, element, place)
        return made

    def _expected(self, value: str, pattern: str | None, what: str) -> str:
        if pattern is None or not re.fullmatch(pattern, value):
            raise _odd(self._name, f"{what} is {value!r}")
        return value

    def _finish(self, made: ET.Element, element: ET.Element, place: str) -> None:
        """What is this host's: paths, and how the disks are opened."""
        if place == _DISK:
            self._open(made, element.findall("source"))
        elif made.tag == "log":
            made.set("file", f"{self._folder}/{console.NAME}")
        elif made.tag in ("kernel", "initrd") and made.text not in self._known:
            raise _odd(self._name, f"its {made.tag} is {made.text!r}, which is no disk of {self._name} here")

    def _open(self, disk: ET.Element, sources: list[ET.Element]) -> None:
        """Another host may know the cluster by other addresses, and the user's key under another uuid."""
        places = [place for source in sources for place in domain_xml.places(source)]
        source = self._known.get(places[0]) if len(places) == 1 else None
        driver = disk.find("driver")
        if source is None or driver is None:
            opened = " and ".join(map(repr, places)) or "nothing"
            raise _odd(self._name, f"a disk of it opens {opened}, which is no disk of {self._name} here")
        disk.set("type", kind_of(source))
        driver.set("type", source.format)
        put_source(disk, source)


def _odd(name: str, reason: str) -> errors.DiskError:
    return errors.DiskError(
        f"the domain that was left with the disks of {name} is not what imgbackend writes: {reason}; look who wrote to "
        "the store; to have the disks without it, use --take-over of instance spawn"
    )
