"""Hosts that share one ``instances_path``: who is known, what a pass of one may remove, and one that dies in a pass."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.conftest import DAY, HOUR, actions, age, names
from imgbackend import Engine
from imgbackend.testing import children
from imgbackend.types import Mi
from labs.contents import bytes_of
from labs.engines import MakeEngine
from labs.images import scattered, sparse_raw
from labs.templates import Template

pytestmark = pytest.mark.slow

MakeHost = Callable[..., Engine]


@pytest.fixture
def make_host(make_engine: MakeEngine) -> MakeHost:
    """Engines of hosts by name, on one folder."""

    def make(name: str, **options: object) -> Engine:
        told: dict[str, Any] = {f"image_cache.{key}": value for key, value in options.items()}
        engine = make_engine({"images_type": "qcow2", "host": name} | told)
        engine.owners.me()  # the folder is in use: a pass over an empty one tells nobody
        return engine

    return make


def told(engine: Engine) -> dict[str, float]:
    """What a Nova reads there, by json alone as it does."""
    found = json.loads((engine.host.instances / "compute_nodes").read_text())
    assert isinstance(found, dict)
    return found


def seen(engine: Engine, **hosts: float) -> None:
    """Hosts made their last pass so many seconds ago."""
    now = time.time()
    (engine.host.instances / "compute_nodes").write_text(json.dumps({name: now - ago for name, ago in hosts.items()}))


def unused(engine: Engine, image: Template, ago: float) -> Path:
    engine.disk("brief").cache(image, image.name)
    engine.disk("brief").remove()
    path = engine.host.bases / image.name
    age(path, ago)
    return path


def test_each_pass_registers_its_host_in_nova_s_form(make_host: MakeHost) -> None:
    before = int(time.time())
    first, second = make_host("a"), make_host("b.example.org")
    for engine in (first, second, first):
        actions(engine)
    assert set(told(first)) == {"a", "b.example.org"}
    assert all(before <= each <= time.time() for each in told(first).values())
    assert [(each.name, each.alive, each.here) for each in second.cache.hosts()] == [
        ("a", True, False),
        ("b.example.org", True, True),
    ]


def test_pass_over_a_folder_in_which_nothing_was_ever_made_writes_nothing(
    make_engine: MakeEngine, instances: Path
) -> None:
    """It may be a mount point on which nothing is mounted."""
    instances.mkdir(exist_ok=True)
    assert make_engine({"host": "a"}).cache.prune().faults == []
    assert list(instances.iterdir()) == []


def test_dry_run_registers_nobody(make_host: MakeHost) -> None:
    engine = make_host("a")
    actions(engine, dry_run=True)
    assert engine.cache.hosts() == []


def test_pass_that_saw_not_everything_or_was_stopped_registers_nobody(make_host: MakeHost, raw_image: Template) -> None:
    engine = make_host("a")
    engine.disk("web1").cache(raw_image, raw_image.name)
    assert engine.cache.prune(stop=lambda: True).stopped
    (engine.host.instances / "web2").mkdir()
    (engine.host.instances / "web2" / "disks.json").write_text("{")
    assert engine.cache.prune().faults
    assert engine.cache.hosts() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": "b"}', "\0"])
def test_record_that_nova_left_broken_begins_anew(make_host: MakeHost, text: str) -> None:
    engine = make_host("a")
    (engine.host.instances / "compute_nodes").write_text(text)
    assert engine.cache.hosts() == []
    actions(engine)
    assert set(told(engine)) == {"a"}


def test_record_stays_the_owner_s(make_host: MakeHost, instances: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to have a file of another user's")
    os.chown(instances, 4242, 4243)
    engine = make_host("a")
    actions(engine)
    for mode in (0o644, 0o600):
        status = (instances / "compute_nodes").stat()
        assert (status.st_uid, status.st_gid) == (4242, 4243)
        os.chmod(instances / "compute_nodes", mode)
        actions(engine)
        assert (instances / "compute_nodes").stat().st_mode & 0o777 == mode


def _register_and_die(engine: Engine) -> None:
    engine.cache._hosts.register(time.time())


@pytest.mark.parametrize("owner", ["ours", "another's"])
def test_registration_that_is_killed_at_any_step_leaves_every_host_on_record(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    """Another user's file is written in place, for it has to stay that user's."""
    engine, before = make_host("a"), {"b" * 40: 1e9, "c": 2e9}
    path = engine.host.instances / "compute_nodes"
    if owner == "another's":
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
    work = functools.partial(_register_and_die, engine)

    def put_back() -> None:
        path.write_text(json.dumps(before))

    work()  # makes the folder of the locks
    count = len(children.seen(work))
    assert count > 2
    for point in range(count):
        put_back()
        assert children.run(work, point).killed
        assert told(engine).items() >= before.items(), point
    put_back()
    inode = path.stat().st_ino
    work()
    assert set(told(engine)) == {*before, "a"}
    assert (path.stat().st_ino == inode) == (owner == "another's")


@pytest.mark.parametrize(
    ("last_pass", "action"),
    [(600, "removed"), (23 * HOUR, "removed"), (23.9 * HOUR, "kept"), (2 * DAY, "removed"), (30 * DAY, "removed")],
)
def test_base_goes_when_every_live_host_made_a_pass_since_its_lease_ended(
    make_host: MakeHost, raw_image: Template, last_pass: float, action: str
) -> None:
    """Beyond a day a host is no user any more, as in Nova."""
    engine = make_host("a", remove_unused_original_minimum_age_seconds=2 * HOUR)
    unused(engine, raw_image, 24.5 * HOUR)
    seen(engine, b=last_pass, a=9 * DAY)
    [outcome] = engine.cache.prune().outcomes
    assert outcome.action == action
    assert action == "removed" or "the host b" in outcome.reason


def test_room_is_not_made_of_what_a_late_host_may_use(make_host: MakeHost, raw_image: Template) -> None:
    unused(make_host("a"), raw_image, 5 * HOUR)
    engine = make_host("a", max_size=0)
    seen(engine, b=6 * HOUR)
    assert [each.action for each in engine.cache.prune().outcomes] == ["kept"]
    seen(engine, b=HOUR)
    assert [each.action for each in engine.cache.prune().outcomes] == ["removed"]


def test_host_that_fell_silent_is_told_and_can_be_forgotten(make_host: MakeHost) -> None:
    engine = make_host("a")
    seen(engine, a=9 * DAY, b=2 * DAY, c=60, d=30 * DAY)
    done = engine.cache.prune()
    assert done.faults == []
    [line] = done.missing
    assert "the host b made no pass for 2 days" in line
    engine.cache.forget_host("b")
    engine.cache.forget_host("b")
    assert engine.cache.prune().missing == []
    assert set(told(engine)) == {"a", "c", "d"}


def test_disks_of_every_host_count_its_being_silent_or_not(make_host: MakeHost, raw_image: Template) -> None:
    one, other = make_host("a"), make_host("b")
    other.disk("web1").cache(raw_image, raw_image.name)
    age(one.host.bases / raw_image.name, 9 * DAY)
    seen(one, b=9 * DAY)
    assert actions(one) == {("local", raw_image.name): "kept"}


_HOST = """
import random, sys, time
from imgbackend import Engine
from imgbackend.cache.evict import Removal

real = Removal._taken_away

def slow(self, base):
    print("holds", flush=True)
    time.sleep(float(sys.argv[3]))
    return real(self, base)

Removal._taken_away = slow
with Engine.from_config([], {"instances_path": sys.argv[1], "images_type": "qcow2", "host": sys.argv[2]}) as engine:
    done = engine.cache.prune()
    print(*sorted(f"{each.base.name}:{each.action}" for each in done.outcomes), *done.faults, flush=True)
"""


def host(engine: Engine, name: str, seconds: float) -> "subprocess.Popen[str]":
    """A host that makes a pass, and takes so long about each base under its lock."""
    argv = [sys.executable, "-c", _HOST, str(engine.host.instances), name, str(seconds)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def test_host_that_dies_holding_a_lock_stops_nobody(make_host: MakeHost, raw_image: Template) -> None:
    engine = make_host("a")
    path = unused(engine, raw_image, 9 * DAY)
    with host(engine, "b", 600) as dying:
        assert dying.stdout is not None
        assert dying.stdout.readline() == "holds\n"
        with host(engine, "c", 0) as living:
            told_by, _ = living.communicate(timeout=60)
        assert told_by == f"{raw_image.name}:kept\n"  # its lock is held
        assert path.exists()
        dying.send_signal(signal.SIGKILL)
    assert set(told(engine)) == {"c"}
    with host(engine, "c", 0) as living:
        told_by, _ = living.communicate(timeout=60)
    assert told_by == f"holds\n{raw_image.name}:removed\n"
    assert engine.disk("web1").cache(raw_image, raw_image.name).fetched


def test_passes_of_several_hosts_and_kills_lose_no_base_that_is_used_and_no_host(
    make_host: MakeHost, tmp_path: Path
) -> None:
    engine, chance = make_host("a"), random.Random(11)
    images = [
        Template(
            content=sparse_raw(tmp_path / f"{number}.raw", Mi, data=scattered(Mi, 0.25, extent=64 << 10)),
            image_id=f"image {number}",
            format="raw",
        )
        for number in range(6)
    ]
    for turn in range(4):
        for image in images:
            unused(engine, image, 9 * DAY)
        hosts = [host(engine, name, 0.02) for name in ("b", "c", "d")]
        made: list[str] = []

        def create(turn: int = turn, made: list[str] = made) -> None:
            for number, image in enumerate(images[:3]):
                engine.disk(f"web{turn}-{number}").cache(image, image.name)
                made.append(f"web{turn}-{number}")

        creating = threading.Thread(target=create)
        creating.start()
        time.sleep(chance.random())
        hosts[turn % 3].send_signal(signal.SIGKILL)
        for each in hosts:
            out, _ = each.communicate(timeout=60)
            assert each.returncode == -signal.SIGKILL or "cannot" not in out
        creating.join(60)
        for number, name in enumerate(made):
            assert engine.host.bases.joinpath(images[number].name).exists()
            assert bytes_of(engine.disk(name)) == images[number].content.read_bytes()
            engine.disk(name).remove()
        assert len(made) == 3
    actions(engine)
    assert set(told(engine)) == {"a", "b", "c", "d"}
    assert names(engine) >= {image.name for image in images[:3]}
