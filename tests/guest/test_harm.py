"""What a spawn meets: a full disk, a libvirtd that is killed; it says so, and nothing is left in the end."""

import contextlib
import functools
import itertools
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.guest.hypervisor import DomainState, Hypervisor
from imgbackend.guest.instances import Instances
from imgbackend.types import Mi, Progress
from labs.libvirt import Guests, Libvirt, MakeGuests


def _fill(guests: Guests, size: int) -> None:
    """Have the image be raw, with data all over it."""
    guests.image.unlink()
    guests.image = guests.image.with_name("full.raw")
    with guests.image.open("wb") as file:
        file.write(random.Random(0).randbytes(size))


@pytest.mark.parametrize(("room", "fits"), [(12 * Mi, "nothing"), (24 * Mi, "the base")])
def test_spawn_on_a_full_disk_says_so_and_leaves_nothing(
    make_guests: MakeGuests,
    libvirt_daemon: Libvirt,
    small_tmpfs: Callable[[int], Path],
    room: int,
    fits: str,
) -> None:
    guests = make_guests(libvirt_daemon, path=small_tmpfs(room), overrides={"images_type": "raw"})
    _fill(guests, 16 * Mi)
    with pytest.raises(errors.StorageFull, match="no space on"):
        guests.instances().spawn(guests.spec(swap=Mi))
    assert (guests.domains(), guests.left()) == (set(), set())
    kept = {path.suffix for path in (guests.instances_path / "_base").iterdir()}
    assert kept <= {"", ".json"}, "nothing unfinished is among the bases"
    image = guests.engine().image(str(guests.image))
    assert (guests.instances_path / "_base" / image.filename).exists() == (fits == "the base")


def test_disk_that_is_full_when_the_domain_is_to_be_defined_leaves_nothing(
    make_guests: MakeGuests, libvirt_daemon: Libvirt, small_tmpfs: Callable[[int], Path]
) -> None:
    guests = make_guests(libvirt_daemon, path=small_tmpfs(24 * Mi))
    filler = guests.instances_path / "filler"

    def fill(_root: object) -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    with pytest.raises(errors.StorageFull, match="no space on"):
        guests.instances().spawn(guests.spec(), alter=fill)
    assert (guests.domains(), guests.left()) == (set(), {filler.name})


class Mortal(Hypervisor):
    """A libvirtd that is killed just before one of our calls reaches it."""

    def __init__(self, lab: Libvirt, call: str) -> None:
        super().__init__(lab.uri)
        self._lab, self._call_to = lab, call
        self.killed = False

    def meet(self, call: str) -> None:
        if call == self._call_to and not self.killed:
            self.killed = True
            self._lab.kill()

    def define(self, xml: str) -> None:
        self.meet("define")
        super().define(xml)

    def start(self, name: str) -> None:
        self.meet("start")
        super().start(name)
        self.meet("started")

    def force_off(self, name: str) -> None:
        self.meet("force_off")
        super().force_off(name)

    def forget(self, name: str) -> None:
        self.meet("forget")
        super().forget(name)
        self.meet("forgotten")


@pytest.fixture
def own_guests(libvirt_own_daemon: Callable[..., Libvirt], make_guests: MakeGuests) -> Guests:
    return make_guests(libvirt_own_daemon())


@pytest.mark.parametrize("again", ["spawn", "destroy"])
def test_libvirtd_killed_during_a_spawn_is_told_and_the_next_call_finishes(own_guests: Guests, again: str) -> None:
    guests = own_guests
    for call in ("disk", "define", "start", "started"):
        with contextlib.closing(Mortal(guests.lab, call)) as mortal:
            instances = Instances(guests.engine(), mortal)
            with pytest.raises(errors.HypervisorUnavailable, match="libvirt"):
                instances.spawn(guests.spec(swap=16 * Mi), progress=functools.partial(_meet, mortal))
            assert mortal.killed
            guests.lab.start()
            if again == "spawn":
                instances.spawn(guests.spec(swap=16 * Mi))
                assert instances.show(guests.name()).state is DomainState.RUNNING, call
                assert guests.sectors() == 16 * Mi // 512
                assert {disk.id.name for disk in instances.disks(guests.name())} == {"disk", "disk.swap"}
            instances.destroy(guests.name())
        assert (guests.domains(), guests.left()) == (set(), set()), call


def _meet(mortal: Mortal, _disk: str) -> Progress:
    return lambda _phase, _done, _total: mortal.meet("disk")


def test_guest_that_runs_keeps_its_disks_where_libvirtd_went_away(own_guests: Guests) -> None:
    """They cannot be taken away under it: nobody can end it."""
    guests = own_guests
    with contextlib.closing(Mortal(guests.lab, "started")) as mortal:
        with pytest.raises(errors.HypervisorUnavailable):
            Instances(guests.engine(), mortal).spawn(guests.spec())
        guests.lab.start()
        assert mortal.find(guests.name()) is not None
        assert (guests.instances_path / guests.name() / "disk").is_file()
    guests.instances().destroy(guests.name())


def test_instance_that_was_there_is_off_again_where_its_spawn_fails(guests: Guests) -> None:
    """Also with a disk that this call made: nothing runs on what is taken away."""
    instances = guests.instances()
    instances.spawn(guests.spec())
    instances.stop(guests.name(), seconds=0)
    kept = guests.instances_path / guests.name() / "libvirt.xml"
    before = kept.read_text()

    class Lost(Exception):
        pass

    class Losing(Hypervisor):
        def start(self, name: str) -> None:
            super().start(name)
            raise Lost

    with contextlib.closing(Instances(guests.engine(), Losing(guests.lab.uri))) as losing, pytest.raises(Lost):
        losing.spawn(guests.spec(swap=16 * Mi))
    assert instances.show(guests.name()).state is DomainState.OFF
    assert {disk.id.name for disk in instances.disks(guests.name())} == {"disk"}
    assert kept.read_text() == before
    instances.start(guests.name())
    assert guests.sectors() == 16 * Mi // 512
    instances.destroy(guests.name())
    assert (guests.domains(), guests.left()) == (set(), set())


def test_instance_that_runs_on_unlinked_files_is_not_called_spawned(guests: Guests) -> None:
    instances = guests.instances()
    instances.spawn(guests.spec())
    (guests.instances_path / guests.name() / "disk").unlink()
    with pytest.raises(errors.InstanceError, match=r"runs, and has no disk; destroy it"):
        instances.spawn(guests.spec())
    instances.destroy(guests.name())
    assert (guests.domains(), guests.left()) == (set(), set())


def test_libvirtd_killed_during_a_destroy_is_told_and_the_next_call_finishes(own_guests: Guests) -> None:
    guests = own_guests
    for call in ("force_off", "forget", "forgotten"):
        guests.instances().spawn(guests.spec(swap=16 * Mi))
        with contextlib.closing(Mortal(guests.lab, call)) as mortal:
            instances = Instances(guests.engine(), mortal)
            if call == "forgotten":  # libvirt has done its part
                instances.destroy(guests.name())
            else:
                with pytest.raises(errors.HypervisorUnavailable, match="libvirt"):
                    instances.destroy(guests.name())
            assert mortal.killed
            guests.lab.start()
            if call == "forget":  # a spawn finishes it too
                instances.spawn(guests.spec(swap=16 * Mi))
                assert guests.sectors() == 16 * Mi // 512
            with contextlib.suppress(errors.InstanceNotFound):
                instances.destroy(guests.name())
        assert (guests.domains(), guests.left()) == (set(), set()), call


class Busy(threading.Thread):
    """Somebody who goes on to put files into a folder for a while, as a network file system seems to."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.begun = threading.Event()

    def run(self) -> None:
        end = time.monotonic() + 0.7
        for number in itertools.count():
            with contextlib.suppress(OSError):
                (self._folder / f".nfs{number:016}").touch()
            self.begun.set()
            if time.monotonic() > end:
                return


def test_folder_that_does_not_go_at_once_is_removed_again(guests: Guests) -> None:
    instances = guests.instances()
    instances.spawn(guests.spec())
    instances.stop(guests.name(), seconds=0)
    busy = Busy(guests.instances_path / f"{guests.name()}_del")
    busy.start()
    busy.begun.wait()
    instances.destroy(guests.name())
    busy.join()
    assert (guests.domains(), guests.left()) == (set(), set())
