"""What the options say of all instances of a host."""

import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from guest.test_generated import seen
from imgbackend import Engine, errors
from imgbackend.guest.spec import ConfigDrive, Ephemeral, Hardware, InstanceSpec
from imgbackend.types import Mi
from labs import mounts
from labs.engines import MakeEngine
from labs.images import qcow2
from labs.require import require

_ARCH = os.uname().machine


@pytest.fixture
def image(tmp_path: Path) -> str:
    return str(qcow2(tmp_path / "image.qcow2", Mi))


def domain(engine: Engine, image: str, **values: Any) -> ET.Element:
    """The XML of an instance with a root disk and a config drive."""
    spec = InstanceSpec(id="web1", image=image, config_drive=ConfigDrive(), **values)
    return ET.fromstring(engine.instances.to_xml(spec))  # noqa: S314 - our own text


def drivers(root: ET.Element, attribute: str) -> list[str | None]:
    """What the root disk and the config drive have, in this order."""
    return [element.get(attribute) for element in root.iterfind("devices/disk/driver")]


def test_machine_is_the_specs_else_the_options(make_engine: MakeEngine, image: str) -> None:
    engine = make_engine({"libvirt.hw_machine_type": ["other=virt", f"{_ARCH}=q35"]})
    for hardware, wanted in ((Hardware(), "q35"), (Hardware(machine="pc-q35-7.2"), "pc-q35-7.2")):
        found = domain(engine, image, hardware=hardware).find("os/type")
        assert found is not None
        assert (found.get("machine"), found.get("arch")) == (wanted, _ARCH)


def test_cache_mode_is_the_option_s(make_engine: MakeEngine, image: str) -> None:
    engine = make_engine({"libvirt.disk_cachemodes": ["file=writethrough", "block=none"]})
    assert drivers(domain(engine, image), "cache") == ["writethrough", "writethrough"]


def test_cache_is_bypassed_where_the_file_system_can(make_engine: MakeEngine, image: str, instances: Path) -> None:
    try:
        os.close(os.open(instances, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("the file system of temporary files knows no O_DIRECT")
    assert drivers(domain(make_engine(), image), "cache") == ["none", "none"]
    assert list(instances.iterdir()) == []


def test_cache_is_used_where_the_file_system_cannot_bypass_it(
    make_engine: MakeEngine, image: str, tmp_path: Path
) -> None:
    try:
        with mounts.ramfs(tmp_path / "ramfs") as place:
            engine = make_engine({"instances_path": str(place / "instances")})
            assert drivers(domain(engine, image), "cache") == ["writeback", "writeback"]
            assert list(place.iterdir()) == []
            engine.close()
    except mounts.MountError as exc:
        require("libvirt", str(exc))


def test_discard_is_the_option_s_and_no_cdrom_has_it(make_engine: MakeEngine, image: str) -> None:
    assert drivers(domain(make_engine({"libvirt.hw_disk_discard": "unmap"}), image), "discard") == ["unmap", None]
    assert drivers(domain(make_engine(), image), "discard") == [None, None]


def test_no_more_disks_than_the_option_says(make_engine: MakeEngine, image: str) -> None:
    engine = make_engine({"compute.max_disk_devices_to_attach": 2})
    domain(engine, image)
    with pytest.raises(errors.ConfigError, match="2 disks at most"):
        domain(engine, image, swap=Mi)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            {"default_ephemeral_format": "ext3"},
            [("ext3", "ephemeral0"), ("ext3", "ephemeral0"), ("ext2", "ephemeral1")],
        ),
        (
            {"virt_mkfs": ["default=mkfs.ext4 -q -F -L own-%(fs_label)s %(target)s"]},
            [("ext4", "own-ephemeral0"), ("ext4", "own-ephemeral0"), ("ext2", "ephemeral1")],
        ),
    ],
    ids=["format", "command"],
)
def test_file_system_is_the_specs_else_the_options(
    make_engine: MakeEngine, image: str, options: dict[str, Any], wanted: list[tuple[str, str]]
) -> None:
    engine = make_engine({"images_type": "raw"} | options)
    ephemerals = (Ephemeral(size=16 * Mi), Ephemeral(size=16 * Mi, format="ext2"))
    spec = InstanceSpec(id="web1", image=image, local=Ephemeral(size=16 * Mi), ephemerals=ephemerals)
    found = []
    for making in engine.instances.layout(spec).makings[1:]:
        making.disk.cache(making.template, making.filename, making.size)
        found.append(seen(engine.host.path(making.disk.id)))
    assert found == wanted


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("virt_type", "xen"),
        ("hw_disk_discard", "perhaps"),
        ("hw_machine_type", ["q35"]),
        ("disk_cachemodes", ["none"]),
        ("disk_cachemodes", ["file=fast"]),
    ],
)
def test_option_that_cannot_be_is_refused_by_its_name(
    make_engine: MakeEngine, image: str, option: str, value: object
) -> None:
    with pytest.raises(errors.ConfigError, match=option):
        domain(make_engine({f"libvirt.{option}": value}), image)
