"""What the XML of a domain says of its instance: whose it is, its uuid, its disks.  libvirt is not needed."""

from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree as ET

from imgbackend.types import BlockSource, DiskSource, FileSource, Owner

NAMESPACE: Final = "urn:imgbackend:instance:1"
"""Of the element in a domain's metadata that names its instance, and whose that is."""
_PLACES: Final = ("file", "dev", "name")
"""Attributes of a disk's source, one of which says where it is."""
ELEMENT: Final = f"{{{NAMESPACE}}}instance"
"""The name of that element."""


def instance_element(instance: str, owner: Owner | None) -> ET.Element:
    """The element of the metadata; without attributes where nobody knows whose the instance is."""
    ET.register_namespace("imgbackend", NAMESPACE)
    element = ET.Element(ELEMENT, {"host": owner.host, "folder": owner.folder} if owner is not None else {})
    element.text = instance
    return element


def read_element(element: ET.Element) -> tuple[str | None, Owner | None]:
    """The instance, and whose it is; None: that was not noted."""
    host, folder = element.get("host"), element.get("folder")
    return element.text, Owner(host=host, folder=folder) if host and folder else None


def owner_in(xml: str) -> Owner | None:
    """Whose the instance of a domain is; None: the XML does not say, or is none."""
    root = _parsed(xml)
    element = root.find(f"metadata/{ELEMENT}") if root is not None else None
    return read_element(element)[1] if element is not None else None


def uuid_in(xml: str) -> str | None:
    """The uuid of a domain; None: the XML does not say, or is none."""
    root = _parsed(xml)
    return root.findtext("uuid") if root is not None else None


def with_owner(xml: str, owner: Owner) -> str:
    """The same domain, as another's; an XML without our element, or that is none, stays as it is."""
    root = _parsed(xml)
    element = root.find(f"metadata/{ELEMENT}") if root is not None else None
    if root is None or element is None:
        return xml
    element.set("host", owner.host)
    element.set("folder", owner.folder)
    ET.register_namespace("imgbackend", NAMESPACE)
    return ET.tostring(root, encoding="unicode") + "\n"


def moved(xml: str, folder: str) -> str:
    """The same domain where the instance's folder has another path: that of its console tells the former one.

    An XML without a console's log, or that is none, stays as it is.
    """
    root = _parsed(xml)
    log = root.find("devices/serial/log") if root is not None else None
    former = (log.get("file", "") if log is not None else "").rpartition("/")[0]
    if root is None or not former or former == folder:
        return xml
    for element in root.iter():
        for key, value in element.attrib.items():
            if value.startswith(f"{former}/"):
                element.set(key, folder + value[len(former) :])
        if element.text is not None and element.text.startswith(f"{former}/"):
            element.text = folder + element.text[len(former) :]
    ET.register_namespace("imgbackend", NAMESPACE)
    return ET.tostring(root, encoding="unicode") + "\n"


def names_disk(xml: str, source: DiskSource) -> bool:
    """Whether a domain opens what ``source`` tells."""
    root = _parsed(xml)
    return root is not None and place(source) in _opened(root)


def opened(xml: str) -> set[str]:
    """All paths, and names of images in pools, that a domain opens."""
    root = _parsed(xml)
    return set(_opened(root)) if root is not None else set()


def target_of(xml: str, source: DiskSource) -> str | None:
    """The name that a domain's guest has for the disk that ``source`` tells, such as ``vda``; None: it has none."""
    wanted = place(source)
    root = _parsed(xml)
    for disk in root.iterfind("devices/disk") if root is not None else ():
        opened, target = disk.find("source"), disk.find("target")
        if opened is not None and target is not None and wanted in map(opened.get, _PLACES):
            return target.get("dev")
    return None


def place(source: DiskSource) -> str:
    """Where a disk is, as the XML of a domain has it: a path, or a pool's and an image's name."""
    return str(source.path) if isinstance(source, FileSource | BlockSource) else source.name


def places(source: ET.Element | None) -> Iterator[str]:
    """What the ``source`` element of a disk opens; nothing where there is none."""
    if source is not None:
        yield from filter(None, map(source.get, _PLACES))


def _opened(root: ET.Element) -> Iterator[str]:
    for source in root.iterfind("devices/disk/source"):
        yield from places(source)
    for tag in ("kernel", "initrd"):
        yield from filter(None, [root.findtext(f"os/{tag}")])


def _parsed(xml: str) -> ET.Element | None:
    if not xml:
        return None
    try:
        return ET.fromstring(xml)  # noqa: S314 - we wrote the file, or libvirt did
    except ET.ParseError:
        return None
