"""The administrator's page on lvm: each command that it shows does what it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from imgbackend.types import Mi
from labs import bootsector, pages
from labs.lvm import Group, lvm
from labs.pages import Reader

_UUID: Final = "8d1c1f4e-2d5d-4c1e-9f7c-0a9a4a4f3a11"


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[list[str]]:
    """Two empty disks of 256 MiB."""
    found = []
    try:
        for name in ("sdb", "sdc"):
            with (tmp_path / name).open("xb") as file:
                file.truncate(256 * Mi)
            found.append(lvm("losetup", "--find", "--show", str(tmp_path / name)).strip())
        yield found
    finally:
        lvm("vgremove", "-q", "-f", "-y", "vms")
        for device in found:
            lvm("losetup", "-d", device)


@pytest.fixture
def reader(tmp_path: Path, devices: list[str]) -> Reader:
    bootsector.write_disk(tmp_path / "debian-12.qcow2", 8 * Mi, format="qcow2")
    instead = {
        "# apt install": "# true",
        "# systemctl": "# true",
        "/dev/sdb": devices[0],
        "/dev/sdc": devices[1],
        "--poolmetadatasize 1G": "--poolmetadatasize 4M",
        "--poolmetadatasize +256M": "--poolmetadatasize +4M",
        "--size +10G": "--size +8M",
        "--extents 90%FREE": "--extents 50%FREE",
        "--size 20G": "--size 64M",
        "[DEFAULT]": f"[DEFAULT]\ninstances_path = {tmp_path}/instances",
    }
    return Reader(tmp_path, pages.blocks("admin/lvm", "ini")[0], instead, {"LVM_SUPPRESS_FD_WARNINGS": "1"})


def test_commands_of_the_page_do_what_it_says(lvm_group: Group, reader: Reader) -> None:
    assert lvm_group.name != "vms"
    group = Group(name="vms", pool="thin")
    first, disks, looks, aside, *others = pages.blocks("admin/lvm", "console")
    reader.types(first)
    told = reader.types(disks)
    assert "lvm: thin pool" in told
    assert {group.field(f"web{number}_disk", "lv_size") for number in (1, 2)} == {str(64 * Mi)}
    origins = {group.field(f"web{number}_disk", "origin") for number in (1, 2)}
    assert len(origins) == 1
    assert origins.pop().startswith("base_")
    assert "imgbackend.disk=web1/disk" in reader.types(looks)
    assert "vms/web1_disk.before-upgrade" in reader.types(aside)
    reader.types("# imgbackend disk delete web1; imgbackend disk delete web2\n")
    lvm("lvcreate", "-q", "-y", "-L", "4m", "-n", f"{_UUID}_disk", "vms")
    last = [reader.types(block) for block in others][-1]
    assert _UUID in last
    assert group.field("thin", "zero") == "zero"
    _sees_both_of_its_sections(reader, group)


def _sees_both_of_its_sections(reader: Reader, group: Group) -> None:
    """With the page's second configuration old disks are where they were, and new ones are thin."""
    reader.configure(pages.blocks("admin/lvm", "ini")[-1])
    reader.types("# imgbackend disk create web3 --image ./debian-12.qcow2\n")
    listed = reader.types("# imgbackend disk list -f value -c instance -c images_type\n").splitlines()
    assert sorted(listed) == [f"{_UUID} lvm", "web3 fast"]
    assert group.field("web3_disk", "pool_lv") == "thin"
