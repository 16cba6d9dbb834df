"""Many spawns at once."""

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from imgbackend import errors
from imgbackend.guest.hypervisor import DomainState
from imgbackend.guest.spec import Ephemeral
from imgbackend.system import parallel
from imgbackend.types import Mi, Progress, ignore
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.webserver import File, Site

_MANY = 20


def test_twenty_spawns_of_one_uncached_image_fetch_it_once(guests: Guests) -> None:
    with contextlib.closing(Site()) as site:
        site.files["/tiny.qcow2"] = File(guests.image.read_bytes())
        instances = guests.instances()
        specs = [guests.spec(str(number), image=site.url("/tiny.qcow2"), swap=16 * Mi) for number in range(_MANY)]
        with ThreadPoolExecutor(_MANY) as pool:
            spawned = list(pool.map(instances.spawn, specs))
        assert len(site.asked("GET", "/tiny.qcow2")) == 1
    assert sum(each.disks["disk"].fetched for each in spawned) == 1
    assert sum(each.disks["disk.swap"].fetched for each in spawned) == 1
    for number in range(_MANY):
        assert instances.show(guests.name(str(number))).state is DomainState.RUNNING
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(instances.destroy, [spec.id for spec in specs]))
    assert (guests.domains(), guests.left()) == (set(), set())


def test_spawn_and_destroy_of_one_instance_take_turns(guests: Guests) -> None:
    """Whatever their order, what is left is an instance that runs, or nothing."""
    instances, spec = guests.instances(), guests.spec()

    def destroy(_: object) -> None:
        with contextlib.suppress(errors.InstanceNotFound):
            instances.destroy(spec.id)

    with ThreadPoolExecutor(4) as pool:
        for work in [pool.submit(instances.spawn, spec) for _ in range(2)] + [
            pool.submit(destroy, 0) for _ in range(2)
        ]:
            work.result()
    if guests.domains():
        assert instances.show(spec.id).state is DomainState.RUNNING
        assert [disk.id.name for disk in instances.disks(spec.id)] == ["disk"]
    destroy(0)
    assert (guests.domains(), guests.left()) == (set(), set())


def test_disks_of_one_instance_are_made_side_by_side(guests: Guests) -> None:
    """Each waits in its making until the others are at it too."""
    disks = {"disk", "disk.swap", "disk.eph0"}
    meeting, came = threading.Barrier(len(disks)), set[str]()

    def progress_of(name: str) -> Progress:
        def progress(_phase: str, _done: int, _total: int | None) -> None:
            if name in disks - came:
                came.add(name)
                meeting.wait(60)

        return progress

    instances = guests.instances()
    instances.spawn(guests.spec(swap=16 * Mi, ephemerals=(Ephemeral(size=16 * Mi),)), progress=progress_of)
    assert came == disks
    instances.destroy(guests.name())


def test_no_more_disks_at_once_than_the_option_says(make_guests: MakeGuests, libvirt_daemon: Libvirt) -> None:
    guests = make_guests(libvirt_daemon, overrides={"max_concurrent_disk_ops": 1})
    instances, seen = guests.instances(), list[str]()

    def progress_of(name: str) -> Progress:
        def progress(phase: str, _done: int, _total: int | None) -> None:
            if phase != "wait":
                seen.append(name)

        return progress

    instances.spawn(guests.spec(swap=16 * Mi, ephemerals=(Ephemeral(size=16 * Mi),)), progress=progress_of)
    turns = [name for name, _ in itertools.groupby(seen)]
    assert sorted(turns) == ["disk", "disk.eph0", "disk.swap"], "each disk's work is done before the next one's begins"
    instances.destroy(guests.name())


class Broken(Exception):
    pass


def test_first_failure_ends_the_others_and_is_what_is_raised() -> None:
    def work(progress: Progress) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            progress("copy", 0, None)
            time.sleep(0.001)

    def fail(_progress: Progress) -> None:
        raise Broken

    with pytest.raises(Broken):
        parallel.all_at_once([work, fail, work], [ignore] * 3)


def test_results_come_in_the_order_of_the_jobs() -> None:
    assert parallel.all_at_once([lambda _: 1, lambda _: 2, lambda _: 3], [ignore] * 3) == [1, 2, 3]
    assert parallel.all_at_once([lambda _: 1], [ignore]) == [1]
    assert parallel.all_at_once([], []) == []
