"""Pins: they hold for the folder and for any store, and survive whatever kills their maker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.conftest import DAY, actions, age
from imgbackend import Engine, errors
from imgbackend.state.pins import Pin, Pins
from imgbackend.types import base_name
from labs.able import AbleBackend
from labs.templates import Template

NAME = base_name("an image")


def test_pin_is_there_until_it_is_cleared_and_twice_is_no_error(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "_base")
    assert pins.all() == frozenset()
    for _ in range(2):
        pins.set(NAME)
        assert pins.has(NAME)
    assert not pins.has(NAME, "rbd")
    for _ in range(2):
        pins.clear(NAME)
        assert not pins.has(NAME)
    assert list((tmp_path / "_base" / ".pins").iterdir()) == []


@settings(deadline=None, max_examples=50)  # each flushes files
@given(store=st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()))
def test_any_name_of_a_backend_can_be_told_from_the_folder_and_from_others(
    tmp_path_factory: pytest.TempPathFactory, store: str
) -> None:
    pins = Pins(tmp_path_factory.mktemp("pins"))
    pins.set(NAME, store)
    assert pins.all() == {Pin(name=NAME, store=store)}
    assert not pins.has(NAME)
    pins.set(NAME)
    pins.clear(NAME, store)
    assert pins.all() == {Pin(name=NAME, store=None)}


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "A" * 40, f"{NAME}@rbd", f"{NAME}/x", "web1"])
def test_what_is_no_name_of_a_base_is_not_pinned(tmp_path: Path, engine: Engine, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        Pins(tmp_path).set(name)
    with pytest.raises(errors.ConfigError, match="not a name"):
        engine.cache.pin(name)
    with pytest.raises(ValueError, match="not a name"):
        Pins(tmp_path).set(NAME, "x" * 300)
    assert [path.name for path in tmp_path.iterdir()] == ["instances"]


def test_pin_survives_a_kill_as_soon_as_it_is_reported(instances: Path) -> None:
    program = (
        "import sys, time; from imgbackend import Engine\n"
        "with Engine.from_config([], {'instances_path': sys.argv[1]}) as engine:\n"
        "    engine.cache.pin(sys.argv[2]); print('pinned', flush=True); time.sleep(60)\n"
    )
    argv = [sys.executable, "-c", program, str(instances), NAME]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"pinned\n"
        os.kill(process.pid, signal.SIGKILL)
    with Engine.from_config([], {"instances_path": str(instances)}) as engine:
        assert engine.cache.pins() == {Pin(name=NAME, store=None)}


def test_pinned_base_of_the_folder_stays_and_goes_once_it_is_unpinned(engine: Engine, raw_image: Template) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    engine.disk("web1").remove()
    engine.cache.pin(raw_image.name)
    [base] = engine.cache.bases().bases
    assert base.pinned
    assert base.path is not None
    age(base.path, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "kept"}
    age(base.path, 9 * DAY)  # the pass noted a use
    engine.cache.unpin(raw_image.name)
    assert actions(engine) == {("local", raw_image.name): "removed"}


def test_pinned_base_of_a_store_stays_and_a_pin_on_the_folder_is_not_one_on_the_store(
    able_engine: Engine, raw_image: Template
) -> None:
    able_engine.disk("web1").cache(raw_image, raw_image.name)
    able_engine.disk("web1").remove()
    backend = able_engine.backend("able")
    assert isinstance(backend, AbleBackend)
    path = backend.bases / raw_image.name
    able_engine.cache.pin(raw_image.name, "able")
    age(path, 9 * DAY)
    assert actions(able_engine) == {("able", raw_image.name): "kept"}
    able_engine.cache.unpin(raw_image.name, "able")
    able_engine.cache.pin(raw_image.name)
    age(path, 9 * DAY)
    assert actions(able_engine) == {("able", raw_image.name): "removed"}


def test_pin_on_a_shared_store_is_seen_by_other_hosts_as_a_use(able_engine: Engine, raw_image: Template) -> None:
    """They have another instances_path; what they see is the store's own note of the last use."""
    able_engine.disk("web1").cache(raw_image, raw_image.name)
    able_engine.disk("web1").remove()
    able_engine.cache.pin(raw_image.name, "able")
    backend = able_engine.backend("able")
    assert isinstance(backend, AbleBackend)
    age(backend.bases / raw_image.name, 9 * DAY)
    able_engine.cache.prune()
    found = backend.find_base(raw_image.name)
    assert found is not None
    [base] = able_engine.cache.bases().bases
    assert base.last_used == pytest.approx(found.touched)
    assert able_engine.cache.prune().outcomes[0].action == "kept"
    able_engine.cache.unpin(raw_image.name, "able")  # as it is for another host
    assert actions(able_engine) == {("able", raw_image.name): "kept"}


def test_local_copy_that_is_pinned_stays_when_it_is_imported_into_a_store(
    able_engine: Engine, raw_image: Template, instances: Path
) -> None:
    able_engine.cache.pin(raw_image.name)
    able_engine.disk("web1").cache(raw_image, raw_image.name)
    assert {(base.store, base.name) for base in able_engine.cache.bases().bases} == {
        (None, raw_image.name),
        ("able", raw_image.name),
    }
    assert (instances / "_base" / f"{raw_image.name}.json").exists()
