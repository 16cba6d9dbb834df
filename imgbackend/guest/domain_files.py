"""The files that a domain opens, by its XML: its disks, what they hang on, and what it boots from.

The format is libvirt's (https://libvirt.org/formatdomain.html); it states backing files of domains that run.
"""

from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree as ET

from imgbackend.cache.usage import DomainFile

_BELOW: Final = ("backingStore", "mirror")
"""Elements of a disk that name a further file, with its format."""
_BOOT_FILES: Final = ("kernel", "initrd", "dtb", "loader", "nvram")


def files_of(domain: str, xml: str) -> Iterator[DomainFile]:
    """All files of one domain, each with the format that it is opened as."""
    root = ET.fromstring(xml)  # noqa: S314 - libvirt's own answer
    for disk in root.iter("disk"):
        yield from _named(domain, disk, "driver")
        for tag in _BELOW:
            for below in disk.iter(tag):
                yield from _named(domain, below, "format")
    for tag in _BOOT_FILES:
        for element in root.iterfind(f"os/{tag}"):
            if element.text:
                yield DomainFile(domain=domain, path=element.text.strip())


def _named(domain: str, element: ET.Element, stated_by: str) -> Iterator[DomainFile]:
    source, stated = element.find("source"), element.find(stated_by)
    path = source.get("file") if source is not None else None
    if path:
        yield DomainFile(domain=domain, path=path, format=stated.get("type") if stated is not None else None)
