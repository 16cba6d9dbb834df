"""Two hosts, each with a libvirtd of its own, spawn and destroy one name: on one folder, and on one pool."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from guest.conftest import on_pool, told_key
from guest.test_other_hosts import host_a, host_b, second_libvirt
from guest.test_rbd import clear, images
from imgbackend import errors
from imgbackend.guest.hypervisor import DomainState
from labs.ceph import Cluster
from labs.guest_racing import Turns
from labs.hosts import SharingHost, expect_hosts
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.racing import Racers
from labs.require import FULL

__all__ = ["host_a", "host_b", "second_libvirt"]

_TURNS: Final = 15 if FULL else 3
"""Of each host."""
_SEEDS: Final = range(3) if FULL else range(1)


@pytest.mark.parametrize("seed", _SEEDS, ids=lambda seed: f"seed{seed}")
@pytest.mark.parametrize("images_type", ["qcow2", "raw"])
def test_name_that_two_hosts_spawn_and_destroy_on_one_folder_is_one_hosts_at_a_time(
    images_type: str, seed: int, host_b: Guests, host_a: Guests, tmp_path: Path
) -> None:
    for guests in (host_a, host_b):
        guests.overrides["images_type"] = images_type
    _race(host_a, host_b, seed, tmp_path)
    assert (host_a.left(), host_b.left()) == (set(), set())


@pytest.mark.parametrize("seed", _SEEDS, ids=lambda seed: f"seed{seed}")
def test_name_that_two_hosts_take_from_each_other_on_one_folder_is_kept_by_a_guest_that_runs(
    seed: int, host_b: Guests, host_a: Guests, tmp_path: Path
) -> None:
    _race(host_a, host_b, seed, tmp_path, take_over=True)
    assert (host_a.left(), host_b.left()) == (set(), set())


def _race(host_a: Guests, host_b: Guests, seed: int, scratch: Path, *, take_over: bool = False) -> None:
    """In the end there is nothing of the instance."""
    expect_hosts()
    with Racers(scratch) as racers:
        racing = [
            racers.create(
                Turns(
                    overrides=guests.options(),
                    spec=guests.spec(),
                    other=other.lab.uri,
                    seed=2 * seed + number,
                    turns=_TURNS,
                    take_over=take_over,
                ),
                SharingHost.new(guests.overrides["host"], scratch, {}).enter(),
            )
            for number, (guests, other) in enumerate([(host_a, host_b), (host_b, host_a)])
        ]
        done = [Counter({what: int(count) for what, count in racers.made(each).items()}) for each in racing]
    assert [each["destroyed"] for each in done] == [_TURNS, _TURNS]
    assert sum(done, Counter())["refused"] > 0
    assert (host_a.domains(), host_b.domains()) == (set(), set())


@pytest.fixture
def pool_hosts(
    rbd_cluster: Cluster,
    rbd_pool: str,
    libvirt_daemon: Libvirt,
    second_libvirt: Libvirt,
    make_guests: MakeGuests,
    tmp_path: Path,
) -> Iterator[tuple[Guests, Guests]]:
    """On one pool, with a folder of their own each."""
    with ExitStack() as stack:
        made = []
        for name, libvirt in (("a", libvirt_daemon), ("b", second_libvirt)):
            own = tmp_path / f"host-{name}"
            (own / "instances").mkdir(parents=True, mode=0o711)
            own.chmod(0o755)
            secret = stack.enter_context(told_key(libvirt, rbd_cluster, own))
            overrides = {**on_pool(rbd_cluster, rbd_pool, secret), "host": name}
            made.append(make_guests(libvirt, path=own / "instances", overrides=overrides))
        a, b = made
        b.word = a.word
        yield a, b
        clear(a.engine())


@pytest.mark.parametrize("seed", _SEEDS, ids=lambda seed: f"seed{seed}")
def test_name_that_two_hosts_spawn_and_destroy_on_one_pool_is_one_hosts_at_a_time(
    seed: int, pool_hosts: tuple[Guests, Guests], rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path
) -> None:
    host_a, host_b = pool_hosts
    _race(host_a, host_b, seed, tmp_path)
    assert images(rbd_cluster, rbd_pool) == set()
    assert (host_a.left(), host_b.left()) == (set(), set())


def test_guest_that_runs_on_a_disk_in_a_pool_keeps_it_from_the_other_host(
    pool_hosts: tuple[Guests, Guests], rbd_cluster: Cluster, rbd_pool: str
) -> None:
    host_a, host_b = pool_hosts
    host_a.instances().spawn(host_a.spec())
    host_a.until("BOOT OK")
    theirs, name = host_b.instances(), host_a.name()
    verbs: dict[type[errors.Error], list[Callable[[], object]]] = {
        errors.DiskElsewhere: [lambda: theirs.spawn(host_b.spec()), host_b.engine().disk(name).remove],
        errors.DiskBusy: [lambda: theirs.take_over(name), lambda: theirs.spawn(host_b.spec(), take_over=True)],
        errors.InstanceNotFound: [lambda: theirs.destroy(name), lambda: theirs.start(name)],
    }
    for error, calls in verbs.items():
        for call in calls:
            with pytest.raises(error):
                call()
    assert images(rbd_cluster, rbd_pool) == {f"{name}_disk"}
    assert (host_b.domains(), (host_b.instances_path / name).exists()) == (set(), False)
    assert host_a.instances().show(name).state is DomainState.RUNNING
    host_a.instances().destroy(name)
    assert images(rbd_cluster, rbd_pool) == set()
