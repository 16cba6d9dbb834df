"""A host whose clock is wrong by more than a day: it loses nothing, and nobody loses anything for it.

The folder's times come from its file system, whose clock is right; that of the host alone is wrong.
"""

import json
import os
import time
from pathlib import Path
from typing import Final

import pytest

from cache.conftest import DAY, HOUR, age
from imgbackend import Engine
from imgbackend.cache.host_notes import NAME as NOTES
from imgbackend.state import manifests
from imgbackend.types import DiskId, Mi, Record, base_name
from labs.engines import MakeEngine
from labs.hosts import SharedFolder, SharingHost, shared_folder
from labs.images import scattered, sparse_raw
from labs.templates import Template

__all__ = ["shared_folder"]

pytestmark = pytest.mark.slow

_AWAY: Final = 25 * HOUR
_BRIEFLY: Final = 300.0
"""Seconds for which things were left alone: far less than any lease."""

wrong = pytest.mark.parametrize("clock", [_AWAY, -_AWAY], ids=["ahead", "behind"])


@pytest.fixture
def engine(make_engine: MakeEngine, shared_folder: SharedFolder) -> Engine:
    """This host, whose clock is right, on the shared folder."""
    return make_engine({"instances_path": str(shared_folder.instances), "images_type": "qcow2", "host": "right"})


def options(shared: SharedFolder, **limits: float) -> list[str]:
    """Those of every host: unused bases go as soon as their lease has ended."""
    told = {"instances_path": shared.instances, "images_type": "qcow2"}
    cache = {"remove_unused_original_minimum_age_seconds": 0} | limits
    words = [f"{name}={value}" for name, value in told.items()]
    words += [f"image_cache.{name}={value}" for name, value in cache.items()]
    return [word for setting in words for word in ("--set", setting)]


def unused(engine: Engine, image: Template, seconds: float) -> Path:
    """A base on which no disk hangs, last used so long ago."""
    engine.disk("brief").cache(image, image.name)
    engine.disk("brief").remove()
    path = engine.host.bases / image.name
    age(path, seconds)
    return path


def put(path: Path, seconds: float = _BRIEFLY) -> Path:
    """A file that was last changed so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"being made")
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def being_made(engine: Engine) -> list[Path]:
    """What another host is at, of each kind, whose locks do not reach us."""
    instances = engine.host.instances
    made = [
        put(engine.host.bases / f"{base_name('coming')}.part"),
        put(engine.host.bases / f".{base_name('coming')}.json.tmp"),
        put(engine.host.bases / f"{base_name('put aside')}.bad-{int(time.time() - _BRIEFLY)}"),
        put(instances / "web2" / ".disk.part"),
        put(instances / "locks" / f"{'a' * 40}.reserved"),
        put(instances / ".direct-4711"),
    ]
    record = Record(backend="qcow2", driver="qcow2", format="qcow2", way="overlay", time=time.time() - _AWAY)
    engine.host.records.write(DiskId(instance="web3", name="disk"), record, as_file=True, durable=False)
    going = put(instances / "web4_del" / "disks.json")
    going.write_text("{}")
    return [*made, instances / "web3" / "disks.json", going]


def run(host: SharingHost, shared: SharedFolder, *words: str, status: int = 0, **limits: float) -> str:
    """What the command prints on a host."""
    done = host.run(*words, options=options(shared, **limits))
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def is_now(seconds: float) -> bool:
    return abs(seconds - time.time()) < 600


@wrong
@pytest.mark.parametrize("words", [("cache", "prune"), ("cache", "leftovers", "--remove")])
def test_pass_of_a_host_with_a_wrong_clock_takes_nothing_that_is_made_used_or_leased(
    shared_folder: SharedFolder, engine: Engine, raw_image: Template, clock: float, words: tuple[str, ...]
) -> None:
    leased = unused(engine, raw_image.but(image_id="leased"), _BRIEFLY)
    engine.disk("web1").cache(raw_image, raw_image.name)
    used = engine.host.bases / raw_image.name
    age(used, 9 * DAY)
    made = being_made(engine)
    host = shared_folder.host("wrong", clock=clock)
    run(host, shared_folder, *words, remove_unused_original_minimum_age_seconds=3 * HOUR)
    assert leased.exists()
    assert used.exists()
    assert [path for path in made if not path.exists()] == []
    if words[1] == "prune":
        assert is_now(used.stat().st_mtime), "the use of a base was noted by the wrong clock"
        assert is_now(json.loads((shared_folder.instances / "compute_nodes").read_text())["wrong"])


@wrong
def test_pass_of_a_host_with_a_wrong_clock_removes_what_is_old(
    shared_folder: SharedFolder, engine: Engine, raw_image: Template, clock: float
) -> None:
    old = unused(engine, raw_image, 2 * HOUR)
    part = put(engine.host.bases / f"{base_name('dead')}.part", 2 * HOUR)
    run(shared_folder.host("wrong", clock=clock), shared_folder, "cache", "prune")
    assert not old.exists()
    assert not part.exists()


@wrong
def test_fetch_of_a_host_with_a_wrong_clock_makes_no_room_of_what_is_leased(
    shared_folder: SharedFolder, engine: Engine, raw_image: Template, tmp_path: Path, clock: float
) -> None:
    leased = unused(engine, raw_image, _BRIEFLY)
    image = sparse_raw(tmp_path / "new.raw", 8 * Mi, data=scattered(8 * Mi, 0.5, extent=64 << 10))
    host = shared_folder.host("wrong", clock=clock)
    words = ("disk", "create", "web9", "--image", str(image))
    host.run(*words, options=options(shared_folder, max_size=9 * Mi))
    assert leased.exists()
    age(leased, 2 * HOUR)
    assert host.run(*words, options=options(shared_folder, max_size=9 * Mi)).returncode == 0
    assert not leased.exists()


@wrong
def test_base_that_a_host_with_a_wrong_clock_fetched_is_leased_for_the_others(
    shared_folder: SharedFolder, engine: Engine, tmp_path: Path, clock: float
) -> None:
    image = sparse_raw(tmp_path / "new.raw", Mi, data={0: b"new"})
    host = shared_folder.host("wrong", clock=clock)
    run(host, shared_folder, "cache", "prefetch", str(image))
    run(host, shared_folder, "cache", "prefetch", str(image))  # is there: its use is noted
    [base] = engine.bases()
    assert is_now(base.last_used)
    run(shared_folder.host("other"), shared_folder, "cache", "prune")
    assert [each.name for each in engine.bases()] == [base.name]


@wrong
def test_verification_by_a_host_with_a_wrong_clock_tells_the_true_time_and_takes_no_lease(
    shared_folder: SharedFolder, engine: Engine, raw_image: Template, clock: float
) -> None:
    path = unused(engine, raw_image, _BRIEFLY)
    before = path.stat().st_mtime
    run(shared_folder.host("wrong", clock=clock), shared_folder, "cache", "verify", "--all")
    manifest = manifests.read(path)
    assert manifest is not None
    assert manifest.verified_at is not None
    assert is_now(manifest.verified_at)
    assert abs(manifests.last_used(path) - before) < 1


@wrong
def test_bad_base_that_a_host_with_a_wrong_clock_put_aside_is_kept_for_its_time(
    shared_folder: SharedFolder, engine: Engine, raw_image: Template, clock: float
) -> None:
    path = unused(engine, raw_image, _BRIEFLY)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(Mi)
        file.write(b"not what was fetched")
    run(shared_folder.host("wrong", clock=clock), shared_folder, "cache", "verify", "--all", status=1)
    [aside] = engine.host.bases.glob("*.bad-*")
    assert is_now(float(aside.name.rpartition("-")[2]))
    engine.cache.leftovers(remove=True)
    assert aside.exists()


@wrong
def test_hosts_see_each_other_alive_though_the_clock_of_one_is_wrong(
    shared_folder: SharedFolder, engine: Engine, clock: float
) -> None:
    host = shared_folder.host("wrong", clock=clock)
    assert engine.cache.prune().faults == []
    run(host, shared_folder, "cache", "prune")
    found = json.loads(run(host, shared_folder, "cache", "hosts", "-f", "json"))
    assert {row["host"]: row["alive"] for row in found} == {"right": True, "wrong": True}
    assert [(each.name, each.alive, each.clock_is_wrong) for each in engine.cache.hosts()] == [
        ("right", True, False),
        ("wrong", True, False),
    ]
    assert engine.cache.prune().missing == []


# A Nova beside us, which tells its passes by its host's clock


def nova_tells(engine: Engine, last_pass: float) -> None:
    path = engine.host.instances / "compute_nodes"
    hosts = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(hosts | {"nova": last_pass}))


def a_day_later(engine: Engine) -> None:
    """All that was noted of the hosts was noted so long ago."""
    path = engine.host.instances / NOTES
    notes = json.loads(path.read_text())
    for host in notes["hosts"].values():
        host["seen"] -= DAY + HOUR
    path.write_text(json.dumps(notes))


@wrong
def test_no_base_goes_that_a_nova_may_use_whose_clock_is_wrong(
    make_engine: MakeEngine, shared_folder: SharedFolder, raw_image: Template, clock: float
) -> None:
    settings = {"instances_path": str(shared_folder.instances), "images_type": "qcow2", "host": "right"}
    engine = make_engine(settings | {"image_cache.remove_unused_original_minimum_age_seconds": HOUR})
    base = unused(engine, raw_image.but(image_id="other"), 60)
    assert engine.cache.prune().faults == []  # its entry changes after this look
    age(base, 5 * HOUR)
    nova_tells(engine, time.time() + clock)
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    [line] = done.missing
    assert "the clock of the host nova" in line
    assert ("ahead of" in line) == (clock > 0)


def test_nova_whose_last_pass_is_in_the_future_counts_for_a_day_and_no_longer(
    shared_folder: SharedFolder, engine: Engine
) -> None:
    nova_tells(engine, time.time() + 9 * DAY)
    assert engine.cache.prune().faults == []
    assert [each.name for each in engine.cache.hosts() if each.alive] == ["nova", "right"]
    a_day_later(engine)
    assert [each.name for each in engine.cache.hosts() if each.alive] == ["right"]
    nova_tells(engine, time.time() + 9 * DAY + 60)
    assert [each.name for each in engine.cache.hosts() if each.alive] == ["nova", "right"]
