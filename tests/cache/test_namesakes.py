"""Two hosts of one name on one folder: the second changes nothing, and is told what to do."""

import json
import os
from pathlib import Path

import pytest

from cache.conftest import DAY, HOUR, age
from cache.test_wrong_clocks import options, unused
from imgbackend import Engine, errors
from imgbackend.cache.host_notes import NAME as NOTES
from imgbackend.system.process_identity import machine_id
from imgbackend.types import base_name
from labs.engines import MakeEngine
from labs.hosts import SharedFolder, SharingHost, shared_folder
from labs.templates import Template

__all__ = ["shared_folder"]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _has_machine_id() -> None:
    if machine_id() is None:
        pytest.skip("this machine has no machine id, so that none can be seen in its place")


@pytest.fixture
def engine(make_engine: MakeEngine, shared_folder: SharedFolder) -> Engine:
    """A host of another name, on the shared folder."""
    return make_engine({"instances_path": str(shared_folder.instances), "images_type": "qcow2", "host": "mine"})


def named(name: str, shared: SharedFolder) -> list[str]:
    return ["--set", f"host={name}", *options(shared)]


def pruned(host: SharingHost, shared: SharedFolder) -> None:
    done = host.run("cache", "prune", options=named(host.name, shared))
    assert done.returncode == 0, done.stderr


def noted(shared: SharedFolder) -> dict[str, dict[str, object]]:
    found = json.loads((shared.instances / NOTES).read_text())
    assert found["version"] == 1
    hosts: dict[str, dict[str, object]] = found["hosts"]
    return hosts


@pytest.mark.parametrize("words", [("cache", "prune"), ("cache", "leftovers", "--remove")])
def test_second_host_of_a_name_changes_nothing_and_is_told_to_take_another(
    shared_folder: SharedFolder, engine: Engine, raw_image: Template, words: tuple[str, ...]
) -> None:
    first, second = shared_folder.host("twin"), shared_folder.host("twin")
    pruned(first, shared_folder)
    base = unused(engine, raw_image, 9 * DAY)
    part = engine.host.bases / f"{base_name('dead')}.part"
    part.write_bytes(b"left")
    os.utime(part, (0, 0))
    before = (shared_folder.instances / "compute_nodes").read_bytes()
    done = second.run(*words, options=named("twin", shared_folder))
    assert done.returncode == 1
    for word in ("name twin", "host, in [DEFAULT]", "imgbackend cache hosts --forget twin", str(first.machine)):
        assert word in done.stderr
    assert base.exists()
    assert part.exists()
    assert (shared_folder.instances / "compute_nodes").read_bytes() == before
    assert second.run(*words, options=named("other", shared_folder)).returncode == 0
    assert not part.exists()


def test_fetch_of_a_second_host_of_a_name_makes_no_room(
    shared_folder: SharedFolder, engine: Engine, raw_image: Template
) -> None:
    pruned(shared_folder.host("twin"), shared_folder)
    base = unused(engine, raw_image, 9 * DAY)
    second = shared_folder.host("twin")
    words = ("disk", "create", "web1", "--image", str(raw_image.content))
    done = second.run(*words, options=["--set", "host=twin", *options(shared_folder, max_size=9 << 20)])
    assert done.returncode == 1
    assert "max_size" in done.stderr
    assert base.exists()


def test_host_that_was_installed_anew_is_forgotten_and_goes_on(shared_folder: SharedFolder) -> None:
    pruned(shared_folder.host("twin"), shared_folder)
    anew = shared_folder.host("twin")
    assert anew.run("cache", "prune", options=named("twin", shared_folder)).returncode == 1
    done = anew.run("cache", "hosts", "--forget", "twin", options=named("twin", shared_folder))
    assert done.returncode == 0, done.stderr
    pruned(anew, shared_folder)
    assert noted(shared_folder)["twin"]["machine"] == anew.machine


def test_name_is_free_a_week_after_its_host_fell_silent(shared_folder: SharedFolder, engine: Engine) -> None:
    first, second = shared_folder.host("twin"), shared_folder.host("twin")
    pruned(first, shared_folder)
    path = shared_folder.instances / NOTES
    found = json.loads(path.read_text())
    found["hosts"]["twin"]["last_pass"] -= 7 * DAY + HOUR
    path.write_text(json.dumps(found))
    pruned(second, shared_folder)


def test_name_that_another_host_took_meanwhile_is_not_registered(shared_folder: SharedFolder, engine: Engine) -> None:
    """Both began their first passes at the same time."""
    pruned(shared_folder.host("mine"), shared_folder)
    before = noted(shared_folder)["mine"]
    with pytest.raises(errors.ConfigError, match="host, in"):
        engine.cache._hosts.register(1.0)
    assert noted(shared_folder)["mine"] == before


def test_host_without_a_machine_id_is_refused_by_nobody(shared_folder: SharedFolder) -> None:
    """What cannot be told apart is left to the locks."""
    first, second = shared_folder.host("twin", machine=""), shared_folder.host("twin")
    unset = SharingHost(name="twin", folder=first.folder, mounts=first.mounts, boot=first.boot, machine="uninitialized")
    pruned(unset, shared_folder)
    assert noted(shared_folder)["twin"]["machine"] is None
    pruned(second, shared_folder)


def test_notes_of_a_newer_version_are_left_as_they_are(shared_folder: SharedFolder, engine: Engine) -> None:
    path = shared_folder.instances / NOTES
    path.write_text('{"version": 2, "hosts": []}')
    done = engine.cache.prune()
    assert done.faults == []
    assert path.read_text() == '{"version": 2, "hosts": []}'
    assert [each.name for each in engine.cache.hosts()] == ["mine"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 1, "looked": 1, "hosts": {"a": 1}}'])
def test_notes_that_are_broken_begin_anew(shared_folder: SharedFolder, engine: Engine, text: str) -> None:
    (shared_folder.instances / NOTES).write_text(text)
    assert engine.cache.prune().faults == []
    assert set(noted(shared_folder)) == {"mine"}


# What the doctor says


def checked(host: SharingHost, words: list[str]) -> dict[str, list[dict[str, str]]]:
    """The doctor's findings, by check."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in json.loads(host.run("doctor", "-f", "json", options=words).stdout):
        found.setdefault(row["check"], []).append(row)
    return found


def test_doctor_tells_a_second_host_of_a_name_what_to_do(shared_folder: SharedFolder) -> None:
    first, second = shared_folder.host("twin"), shared_folder.host("twin")
    pruned(first, shared_folder)
    [finding] = checked(first, named("twin", shared_folder))["host"]
    assert finding["verdict"] == "ok"
    [finding] = checked(second, named("twin", shared_folder))["host"]
    assert finding["verdict"] == "error"
    assert "two hosts" in finding["found"]
    assert "host, in [DEFAULT]" in finding["advice"]


def test_doctor_warns_of_the_name_localhost(shared_folder: SharedFolder) -> None:
    [finding] = checked(shared_folder.host("localhost"), named("localhost", shared_folder))["host"]
    assert (finding["verdict"], "localhost" in finding["found"]) == ("warning", True)


@pytest.mark.parametrize(("clock", "word"), [(25 * HOUR, "ahead of"), (-25 * HOUR, "behind")])
def test_doctor_warns_of_a_clock_that_differs_from_the_file_system_s(
    shared_folder: SharedFolder, clock: float, word: str
) -> None:
    [finding] = checked(shared_folder.host("wrong", clock=clock), named("wrong", shared_folder))["clock"]
    assert finding["verdict"] == "warning"
    assert word in finding["found"]
    [finding] = checked(shared_folder.host("right"), named("right", shared_folder))["clock"]
    assert finding["verdict"] == "ok"


def test_doctor_warns_where_hosts_have_the_folder_at_different_paths(shared_folder: SharedFolder) -> None:
    place = shared_folder.folder / "elsewhere"
    other = shared_folder.host("other", place=place)
    words = ["--set", "host=other", "--set", f"instances_path={place}"]
    assert other.run("cache", "prune", options=words).returncode == 0
    found = checked(shared_folder.host("one"), named("one", shared_folder))["instances_path"]
    assert [row["verdict"] for row in found] == ["ok", "warning"]
    assert str(place) in found[1]["found"]


def test_base_used_by_a_twin_stays(shared_folder: SharedFolder, engine: Engine, raw_image: Template) -> None:
    """Whatever its name, a host's disks in the folder are seen by all."""
    engine.disk("web1").cache(raw_image, raw_image.name)
    base: Path = engine.host.bases / raw_image.name
    age(base, 9 * DAY)
    pruned(shared_folder.host("twin"), shared_folder)
    assert base.exists()
