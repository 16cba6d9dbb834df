"""What made the last pass of each host that shares the folder: this version, an older one, or a Nova."""

import functools
import json
import time
from collections.abc import Callable

import pytest

from imgbackend import Engine
from imgbackend.cache.host_notes import NAME as NOTES
from imgbackend.cache.sharing_hosts import SeenHost
from imgbackend.state import folder_marker
from imgbackend.testing import children
from labs.engines import MakeEngine
from labs.older import older_pass

MakeHost = Callable[[str], Engine]


@pytest.fixture
def make_host(make_engine: MakeEngine) -> MakeHost:
    """Engines of hosts by name, on one folder that is in use."""

    def make(name: str) -> Engine:
        engine = make_engine({"images_type": "qcow2", "host": name})
        engine.owners.me()
        return engine

    return make


def nova_pass(engine: Engine, name: str) -> None:
    """As nova.virt.storage_users registers a host: what it reads it writes again, and adds its time."""
    path = engine.host.instances / "compute_nodes"
    hosts = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(hosts | {name: time.time()}))


def seen(engine: Engine) -> dict[str, SeenHost]:
    return {host.name: host for host in engine.cache.hosts()}


def makers(engine: Engine) -> dict[str, str]:
    return {name: host.made_by for name, host in seen(engine).items()}


def test_pass_of_this_version_tells_its_format(make_host: MakeHost) -> None:
    one, two = make_host("one"), make_host("two")
    for engine in (one, two, one):
        engine.cache.prune()
    assert makers(two) == {"one": "imgbackend", "two": "imgbackend"}
    assert {host.format for host in seen(one).values()} == {folder_marker.FORMAT}


def test_pass_of_an_older_version_is_told_and_stays_told(make_host: MakeHost) -> None:
    one = make_host("one")
    one.cache.prune()
    older_pass(one.host.instances, "older")
    told = {"one": "imgbackend", "older": "older version"}
    assert makers(one) == told
    assert seen(one)["older"].format is None
    for _ in range(2):
        one.cache.prune()
        assert makers(make_host("two")) == told


def test_pass_of_a_nova_is_no_older_version_s(make_host: MakeHost) -> None:
    one = make_host("one")
    one.cache.prune()
    nova_pass(one, "nova")
    assert makers(one) == {"one": "imgbackend", "nova": "Nova"}
    one.cache.prune()
    older_pass(one.host.instances, "older")
    assert makers(one) == {"one": "imgbackend", "nova": "Nova", "older": "older version"}
    one.cache.prune()
    nova_pass(one, "nova")
    assert makers(one) == {"one": "imgbackend", "nova": "Nova", "older": "older version"}


def test_what_was_told_once_stays_told_where_it_cannot_be_told_again(make_host: MakeHost) -> None:
    one = make_host("one")
    one.cache.prune()
    for register in (lambda: nova_pass(one, "nova"), lambda: older_pass(one.host.instances, "older")):
        register()
        one.cache.prune()
    told = makers(one)
    assert told == {"one": "imgbackend", "nova": "Nova", "older": "older version"}
    nova_pass(one, "nova")
    older_pass(one.host.instances, "older")
    assert makers(one) == told


def test_what_an_older_version_did_to_all_entries_is_told_of_it_alone(make_host: MakeHost) -> None:
    one, two = make_host("one"), make_host("two")
    two.cache.prune()
    one.cache.prune()
    older_pass(one.host.instances, "older")
    one.cache.prune()
    nova_pass(one, "nova")
    assert makers(one)["nova"] == "Nova"


def test_what_cannot_be_told_is_not_taken_for_a_nova(make_host: MakeHost) -> None:
    """Before our first pass there is nothing to go by; where both came between two passes, one wrote over the other."""
    one = make_host("one")
    nova_pass(one, "nova")
    older_pass(one.host.instances, "older")
    assert set(makers(one).values()) == {"older version or Nova"}
    one.cache.prune()
    assert makers(one) == {"one": "imgbackend", "nova": "older version or Nova", "older": "older version or Nova"}
    nova_pass(one, "nova")
    older_pass(one.host.instances, "older")
    assert makers(one) == {"one": "imgbackend", "nova": "older version or Nova", "older": "older version or Nova"}


def test_host_that_was_updated_or_went_back_is_told_by_its_last_pass(make_host: MakeHost) -> None:
    one, two = make_host("one"), make_host("two")
    one.cache.prune()
    older_pass(one.host.instances, "two")
    assert makers(one)["two"] == "older version"
    two.cache.prune()
    assert makers(one)["two"] == "imgbackend"
    older_pass(one.host.instances, "two")
    assert makers(one) == {"one": "imgbackend", "two": "older version"}
    assert makers(two) == {"one": "imgbackend", "two": "older version"}


def test_older_version_takes_a_host_of_this_one_for_alive(make_host: MakeHost) -> None:
    one = make_host("one")
    one.cache.prune()
    before = seen(one)["one"].last_pass
    assert older_pass(one.host.instances, "older")["one"] == before
    assert seen(one)["one"].alive
    assert seen(one)["one"].last_pass == before


def test_pass_that_is_killed_at_any_step_makes_nobody_an_older_version(make_host: MakeHost) -> None:
    one = make_host("one")
    files = [one.host.instances / name for name in ("compute_nodes", NOTES)]
    one.cache.prune()
    before = [path.read_bytes() for path in files]
    work = functools.partial(one.cache._hosts.register, time.time() + 5)
    count = len(children.seen(work))
    assert count > 4
    for point in range(count):
        for path, content in zip(files, before, strict=True):
            path.write_bytes(content)
        assert children.run(work, point).killed
        assert makers(one) == {"one": "imgbackend"}, point
        assert not seen(one)["one"].clock_is_wrong
        nova_pass(one, "nova")
        assert makers(one) == {"one": "imgbackend", "nova": "Nova"}, point


@pytest.mark.parametrize("notes", ["{", '{"version": 99}', '{"version": 1, "hosts": {"one": 7}}'])
def test_notes_that_cannot_be_understood_make_nobody_an_older_version(make_host: MakeHost, notes: str) -> None:
    one = make_host("one")
    one.cache.prune()
    (one.host.instances / NOTES).write_text(notes)
    assert makers(one) == {"one": "unknown"}


def test_fields_that_later_versions_note_are_passed_over(make_host: MakeHost) -> None:
    one = make_host("one")
    one.cache.prune()
    path = one.host.instances / NOTES
    content = json.loads(path.read_text())
    content["hosts"]["one"] |= {"format": 3, "colour": "green"}
    path.write_text(json.dumps(content))
    assert (seen(one)["one"].format, makers(one)) == (3, {"one": "imgbackend"})


def test_host_that_is_forgotten_leaves_the_others_told(make_host: MakeHost) -> None:
    one = make_host("one")
    make_host("two").cache.prune()
    one.cache.prune()
    one.cache.forget_host("two")
    nova_pass(one, "nova")
    assert makers(one) == {"one": "imgbackend", "nova": "Nova"}
