"""SIGKILL before every step of a pass and of a pin: no disk is hurt, and the same call again succeeds."""

import functools
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.conftest import DAY, age
from imgbackend import Engine
from imgbackend.state import manifests
from imgbackend.types import Mi
from labs.contents import bytes_of
from labs.crash import Operation, Server
from labs.engines import MakeEngine
from labs.templates import Template

pytestmark = pytest.mark.slow

_UNUSED = 3


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


def prune(instances: Path) -> None:
    with Engine.from_config([], {"instances_path": str(instances)}) as engine:
        done = engine.cache.prune()
        assert done.faults == []


def pin(instances: Path, name: str) -> None:
    with Engine.from_config([], {"instances_path": str(instances)}) as engine:
        engine.cache.pin(name, "able")


def unpin(instances: Path, name: str) -> None:
    with Engine.from_config([], {"instances_path": str(instances)}) as engine:
        engine.cache.unpin(name, "able")


def at_every_step(server: Server, operation: Operation, instances: Path, look: Callable[[bool], None]) -> int:
    """Kill before step 0, 1, ...; each time look, do it again, look, and put all back.  How many steps there are."""
    kept = instances.with_name("kept")
    shutil.copytree(instances, kept)
    for number in itertools.count():
        outcome = server.run(operation, kill_at=number)
        assert outcome.error is None, outcome.error
        if outcome.killed:
            look(False)
            again = server.run(operation)
            assert (again.error, again.killed) == (None, False)
        look(True)
        shutil.rmtree(instances)
        shutil.copytree(kept, instances)
        if not outcome.killed:
            return number
    raise AssertionError("never")


def test_killed_pass_hurts_no_disk_and_leaves_no_base_that_lacks_its_manifest(
    make_engine: MakeEngine, raw_image: Template, instances: Path, server: Server
) -> None:
    engine = make_engine({"images_type": "qcow2", "durable_disks": False})
    engine.disk("web1").cache(raw_image, raw_image.name, 9 * Mi)
    unused = [raw_image.but(image_id=f"unused {number}") for number in range(_UNUSED)]
    for image in unused:
        engine.disk("brief").cache(image, image.name)
        engine.disk("brief").remove()
    for image in (raw_image, *unused):
        age(engine.host.bases / image.name, 9 * DAY)
    content = raw_image.content.read_bytes() + bytes(Mi)

    def look(finished: bool) -> None:
        assert bytes_of(engine.disk("web1")) == content
        bases = {base.name for base in engine.bases()}
        assert all(manifests.read(engine.host.bases / name) is not None for name in bases)
        assert raw_image.name in bases
        if finished:
            assert bases == {raw_image.name}

    assert at_every_step(server, functools.partial(prune, instances), instances, look) > 2 * _UNUSED


@pytest.mark.parametrize("operation", [pin, unpin])
def test_killed_pin_is_there_or_not(
    make_engine: MakeEngine, raw_image: Template, instances: Path, server: Server, operation: Callable[..., None]
) -> None:
    engine = make_engine()
    if operation is unpin:
        engine.cache.pin(raw_image.name, "able")

    def look(finished: bool) -> None:
        found = {(pin.name, pin.store) for pin in engine.cache.pins()}
        assert found <= {(raw_image.name, "able")}
        if finished:
            assert bool(found) == (operation is pin)

    assert at_every_step(server, functools.partial(operation, instances, raw_image.name), instances, look) > 1
