"""An instance is named by its name or by its uuid, in every verb."""

from collections.abc import Callable
from typing import Any

import pytest

from imgbackend import errors
from imgbackend.guest.hypervisor import DomainState
from labs.libvirt import Guests


def test_every_verb_takes_the_uuid_of_an_instance(guests: Guests) -> None:
    instances = guests.instances()
    uuid, name = instances.spawn(guests.spec()).uuid, guests.name()
    guests.until("BOOT OK")
    assert instances.show(uuid).id == name
    assert instances.show(uuid.replace("-", "").upper()).id == name
    assert [disk.id.instance for disk in instances.disks(uuid)] == [name]
    assert f"<name>{name}</name>" in instances.xml(uuid)
    assert b"BOOT OK" in b"".join(instances.console(uuid))
    instances.reboot(uuid, hard=True)
    instances.grow(uuid, 32 << 20)
    instances.stop(uuid, seconds=0)
    instances.take_over(uuid)
    with instances.snapshot(uuid, "raw") as path:
        assert path.is_file()
    guests.lab.virsh("undefine", name)
    instances.start(uuid)
    assert instances.show(name).state is DomainState.RUNNING
    instances.destroy(uuid)
    assert (guests.domains(), guests.left()) == (set(), {"snapshots"})


def test_uuid_that_no_instance_has_is_told(guests: Guests) -> None:
    instances, uuid = guests.instances(), "4dd0b8ae-f2ff-4b02-91d5-2d1f8f1c1234"
    verbs: list[Callable[[str], Any]] = [instances.show, instances.start, instances.stop, instances.destroy]
    for verb in verbs:
        with pytest.raises(errors.InstanceNotFound, match=uuid):
            verb(uuid)


def test_instance_that_has_a_uuid_as_its_name_is_meant_by_it(guests: Guests) -> None:
    instances = guests.instances()
    uuid = instances.spawn(guests.spec()).uuid
    image = guests.engine().image(str(guests.image))
    guests.engine().disk(uuid).cache(image, image.filename)
    assert instances.show(uuid).id == uuid
    instances.destroy(uuid)
    assert instances.show(guests.name()).state is DomainState.RUNNING
    instances.destroy(guests.name())
