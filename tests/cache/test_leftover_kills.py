"""SIGKILL before every step of a creation and of a removal: what is left goes, and nothing else does."""

import functools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.conftest import HOUR
from cache.test_leftovers import looked
from engine import operations
from imgbackend import Engine
from labs.contents import bytes_of, entries, partial
from labs.crash import Server
from labs.engines import MakeEngine
from labs.require import FULL
from labs.templates import Template

pytestmark = pytest.mark.slow

_OLD = 2 * HOUR


def _age_all(instances: Path) -> None:
    """Two hours pass."""
    then = time.time() - _OLD
    for path in instances.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (then, then))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.mark.parametrize("images_type", ["raw", "qcow2"])
@pytest.mark.parametrize("operation", ["create", "remove"])
def test_whatever_a_kill_leaves_goes_and_nothing_else(
    make_engine: MakeEngine, raw_image: Template, server: Server, images_type: str, operation: str
) -> None:
    """SIGKILL before each step of a call; hours later passes leave what was there before, or the whole disk."""
    engine = make_engine({"images_type": images_type})
    instances = engine.host.instances
    keeper = raw_image.but(image_id="keeper")
    engine.disk("kept").cache(keeper, keeper.name, operations.SIZE * 3)
    if operation == "remove":
        engine.disk("web1").cache(raw_image, raw_image.name)
    content, left = bytes_of(engine.disk("kept")), set()
    call: Callable[[], None] = functools.partial(_create, instances, images_type, raw_image.but(image_id="other"))
    if operation == "remove":
        call = functools.partial(operations.remove, instances, images_type)
    kept = instances.with_name("kept-folder")
    shutil.copytree(instances, kept, symlinks=True)
    for number in range(0, 400, 1 if FULL or operation == "remove" else 2):
        outcome = server.run(call, kill_at=number)
        assert outcome.error is None, outcome.error
        if not outcome.killed:
            break
        left |= _cleared(engine)
        assert not partial(instances)
        _nothing_lost(engine, content)
        shutil.rmtree(instances)
        shutil.copytree(kept, instances, symlinks=True)
        engine = make_engine({"images_type": images_type})  # its folder is another one now
    else:
        pytest.fail("it has more steps than that")
    assert left >= ({"fetch", "file", "record"} if operation == "create" else {"record", "instance", "lock"}), left


def _cleared(engine: Engine) -> set[str]:
    """Passes, two hours apart, until nothing is left: a folder that one of them emptied goes with the next."""
    kinds: set[str] = set()
    for _ in range(3):
        _age_all(engine.host.instances)
        found = looked(engine, remove=True)
        if not found:
            return kinds
        assert all(each.removed for each in found.values()), found
        kinds |= {each.kind for each in found.values()}
    raise AssertionError(f"this is left still: {found}")


def _create(instances: Path, images_type: str, image: Template) -> None:
    with operations.opened(instances, images_type) as engine:
        engine.disk("web2").cache(image, image.name)


def _nothing_lost(engine: Engine, content: bytes) -> None:
    assert bytes_of(engine.disk("kept")) == content
    names = entries(engine.host.instances)
    for folder in ("web1", "web2"):
        disks = engine.host.records.all(folder)
        assert all(engine.disk(folder, name).exists() for name in disks)
        assert not any(name.startswith(f"{folder}/") for name in names) or disks
    for path in engine.host.bases.glob("*.json"):
        assert path.with_suffix("").exists()
