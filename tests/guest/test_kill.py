"""SIGKILL at the steps of a spawn and of a destroy, libvirt calls among them: the next call finishes them."""

import functools
import random
from collections.abc import Callable
from typing import Any

from imgbackend import Engine
from imgbackend.guest.hypervisor import DomainState
from imgbackend.guest.spec import ConfigDrive, InstanceSpec
from imgbackend.testing import children
from imgbackend.types import Mi
from labs.libvirt import Guests, Libvirt
from labs.require import FULL

_POINTS = 6
"""How many points are tried where not all are: the first, the last, and some between."""


def _spawn(options: dict[str, Any], spec: InstanceSpec) -> None:
    with Engine.from_config([], options) as engine:
        engine.instances.spawn(spec)


def _destroy(options: dict[str, Any], name: str) -> None:
    with Engine.from_config([], options) as engine:
        engine.instances.destroy(name)


def _points(count: int, seed: str) -> list[int]:
    if FULL or count <= _POINTS:
        return list(range(count))
    chosen = random.Random(seed).sample(range(1, count - 1), _POINTS - 2)
    return [0, *sorted(chosen), count - 1]


def _steps(operation: Callable[[], object]) -> int:
    return len(children.seen(operation, libraries=("libvirt",)))


def _killed(operation: Callable[[], object], point: int, count: int) -> children.ChildOutcome:
    """Threads and polls make a few steps more or less: the last ones may not come."""
    done = children.run(operation, point, libraries=("libvirt",))
    assert done.killed or (point > count * 0.9 and done.error is None), (point, count, done.error)
    return done


def _spec(guests: Guests) -> InstanceSpec:
    return guests.spec(root_size=32 * Mi, swap=16 * Mi, config_drive=ConfigDrive())


def test_killed_spawn_is_done_by_the_next_and_destroyed_whole(guests: Guests) -> None:
    spec, name = _spec(guests), guests.name()
    spawn = functools.partial(_spawn, guests.options(), spec)
    instances = guests.instances()
    instances.spawn(spec)  # its bases are made, which is killed elsewhere
    instances.destroy(name)
    count = _steps(spawn)
    instances.destroy(name)
    for point in _points(count, "spawn"):
        killed = _killed(spawn, point, count)
        instances.spawn(spec)
        assert instances.show(name).state is DomainState.RUNNING, f"killed before {killed.steps[-1:]}"
        assert guests.sectors() == 32 * Mi // 512
        instances.destroy(name)
        assert (guests.domains(), guests.left()) == (set(), set()), f"killed before {killed.steps[-1:]}"


def test_killed_spawn_is_taken_away_by_destroy(guests: Guests) -> None:
    spec, name = _spec(guests), guests.name()
    spawn = functools.partial(_spawn, guests.options(), spec)
    instances = guests.instances()
    instances.spawn(spec)
    instances.destroy(name)
    count = _steps(spawn)
    instances.destroy(name)
    for point in _points(count, "spawn, then destroy")[1:]:
        killed = _killed(spawn, point, count)
        if (guests.instances_path / name).exists():
            instances.destroy(name)
        assert guests.domains() == set(), f"killed before {killed.steps[-1:]}"
        assert guests.left() - _locks(guests) == set()


def test_killed_destroy_is_finished_by_the_next_call(guests: Guests) -> None:
    spec, name = _spec(guests), guests.name()
    destroy = functools.partial(_destroy, guests.options(), name)
    instances = guests.instances()
    instances.spawn(spec)
    count = _steps(destroy)
    for number, point in enumerate(_points(count, "destroy")):
        instances.spawn(spec)
        killed = _killed(destroy, point, count)
        if number % 2:  # a spawn goes on with it too
            instances.spawn(spec)
            assert instances.show(name).state is DomainState.RUNNING
            instances.destroy(name)
        elif guests.domains() or (guests.left() - _locks(guests)):
            instances.destroy(name)
        assert guests.domains() == set(), f"killed before {killed.steps[-1:]}"
        assert guests.left() - _locks(guests) == set(), f"killed before {killed.steps[-1:]}"


def _locks(guests: Guests) -> set[str]:
    """Lock files of an instance that a killed call took away but for these; nobody holds them."""
    return {left for left in guests.left() if left.startswith("locks/")}


def test_lost_libvirtd_is_met_again(libvirt_own_daemon: Callable[..., Libvirt], make_guests: Any) -> None:
    lab = libvirt_own_daemon()
    guests: Guests = make_guests(lab)
    instances = guests.instances()
    instances.spawn(guests.spec("a"))
    lab.kill()
    lab.start()
    assert instances.show(guests.name("a")).state is DomainState.RUNNING
    instances.spawn(guests.spec("b"))
    lab.kill()
    lab.start()
    for label in ("a", "b"):
        instances.destroy(guests.name(label))
    assert (guests.domains(), guests.left()) == (set(), set())
