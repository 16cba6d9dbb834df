"""Instances whose disks are logical volumes: a real Glance, libvirt and QEMU, all of them inside the lab of LVM."""

from collections.abc import Iterator
from typing import Any

import pytest

from imgbackend.guest.spec import ConfigDrive, InstanceSpec
from imgbackend.types import Mi
from labs.glance import Glance
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.lvm import Group
from labs.volumes import emptied, options


@pytest.fixture
def lvm_guests(
    request: pytest.FixtureRequest, lvm_group: Group, libvirt_daemon: Libvirt, glance: Glance, make_guests: MakeGuests
) -> Iterator[Guests]:
    own: dict[str, Any] = request.param
    told = {"images_type": "lvm", "glance.auth_type": "none", "glance.endpoint_override": glance.url}
    guests = make_guests(libvirt_daemon, overrides=told | options(lvm_group, **own))
    yield guests
    emptied(guests.engine())


in_pool = pytest.mark.parametrize("lvm_guests", [{}], ids=["pool"], indirect=True)
without_pool = pytest.mark.parametrize("lvm_guests", [{"thin_pool": ""}], ids=["group"], indirect=True)


def _spec(guests: Guests, glance: Glance, **values: Any) -> InstanceSpec:
    image_id = glance.add("boots", guests.image, disk_format="qcow2")
    return guests.spec(image=f"glance:{image_id}", root_size=64 * Mi, config_drive=ConfigDrive(), **values)


def _boots_and_goes(guests: Guests, group: Group, spec: InstanceSpec, volumes: dict[str, str]) -> None:
    """``volumes`` are the ways of its disks that are no files."""
    instances, name = guests.instances(), spec.id
    made = instances.spawn(spec).disks
    assert {disk: cached.way for disk, cached in made.items() if disk in volumes} == volumes
    assert guests.sectors() == 64 * Mi // 512
    assert f"dev='/dev/{group.name}/{name}_disk'" in instances.xml(name)
    assert {volume for volume in group.volumes() if name in volume} == {f"{name}_{disk}" for disk in volumes}
    assert (guests.instances_path / name / "disk.config").stat().st_mode & 0o777 == 0o600
    instances.destroy(name)
    assert (guests.domains(), guests.left()) == (set(), set())
    assert not [volume for volume in group.volumes() if name in volume]


@in_pool
def test_instance_boots_from_a_snapshot_and_leaves_nothing(
    lvm_guests: Guests, lvm_group: Group, glance: Glance
) -> None:
    _boots_and_goes(lvm_guests, lvm_group, _spec(lvm_guests, glance), {"disk": "snapshot"})


@without_pool
def test_instance_boots_from_a_thick_volume_and_leaves_nothing(
    lvm_guests: Guests, lvm_group: Group, glance: Glance
) -> None:
    spec = _spec(lvm_guests, glance, swap=4 * Mi)
    _boots_and_goes(lvm_guests, lvm_group, spec, {"disk": "copy", "disk.swap": "generate"})
