"""A disk of a guest that runs is grown, and the guest's hypervisor shows it larger at once; and of one that is off."""

from collections.abc import Iterator

import pytest

from imgbackend import errors
from imgbackend.types import Mi
from labs.libvirt import Guests, Libvirt, MakeGuests


@pytest.fixture(params=["qcow2", "raw"])
def grown(request: pytest.FixtureRequest, make_guests: MakeGuests, libvirt_daemon: Libvirt) -> Iterator[Guests]:
    """An instance that runs, of each driver that keeps files."""
    guests = make_guests(libvirt_daemon, overrides={"images_type": request.param})
    guests.instances().spawn(guests.spec())
    guests.until("BOOT OK")
    yield guests
    guests.instances().destroy(guests.name())
    assert guests.left() == set()


def seen(guests: Guests) -> int:
    """How large the hypervisor shows the disk to the guest."""
    lines = guests.lab.virsh("domblkinfo", guests.name(), "vda").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Capacity"))


def test_disk_of_a_guest_that_runs_is_grown_and_the_guest_sees_it(grown: Guests) -> None:
    engine = grown.engine()
    engine.instances.grow(grown.name(), 64 * Mi)
    assert seen(grown) == 64 * Mi
    assert engine.disk(grown.name()).info().size == 64 * Mi
    engine.instances.grow(grown.name(), 64 * Mi)
    with pytest.raises(errors.DiskError, match="not shrunk"):
        engine.instances.grow(grown.name(), 32 * Mi)
    engine.instances.reboot(grown.name(), hard=True)
    grown.until("sectors=0x00020000")


def test_disk_of_an_instance_that_is_off_is_grown_by_its_storage(grown: Guests) -> None:
    engine = grown.engine()
    engine.instances.stop(grown.name(), seconds=0)
    engine.instances.grow(grown.name(), 64 * Mi, "disk")
    assert engine.disk(grown.name()).info().size == 64 * Mi
    engine.instances.start(grown.name())
    assert grown.sectors() == 64 * Mi // 512


def test_disk_that_the_guest_does_not_have_is_told(grown: Guests) -> None:
    engine = grown.engine()
    image = engine.image(str(grown.image))
    engine.disk(grown.name(), "disk.local").cache(image, image.filename)
    with pytest.raises(errors.DiskError, match=r"runs, and does not have the disk disk\.local"):
        engine.instances.grow(grown.name(), 64 * Mi, "disk.local")
    with pytest.raises(errors.DiskNotFound):
        engine.instances.grow(grown.name(), 64 * Mi, "disk.eph0")
