"""The cache's passes over the bases in a pool that two hosts share, which see no records of each other."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, options, read
from imgbackend import Engine
from imgbackend_rbd import headers
from imgbackend_rbd.bases import image_of
from labs.ceph import Cluster
from labs.templates import Template

_DAY = 86400
AT_ONCE = {"image_cache.lease_seconds": 0, "image_cache.remove_unused_original_minimum_age_seconds": 0}


@pytest.fixture
def two(rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """Hosts on which whatever is not used goes at once."""
    told = [options(rbd_cluster, tmp_path / name, rbd_pool, {}) | AT_ONCE for name in ("one", "two")]
    with Engine.from_config([], told[0]) as one, Engine.from_config([], told[1]) as two:
        yield one, two


def acted(engine: Engine) -> list[str]:
    done = engine.cache.prune()
    assert done.faults == []
    return [each.action for each in done.outcomes]


def test_base_that_another_host_s_disk_hangs_on_stays_until_that_is_gone(
    two: tuple[Engine, Engine], raw_image: Template, tmp_path: Path
) -> None:
    one, other = two
    for engine, instance in ((one, "web1"), (other, "web2"), (other, "web3")):
        engine.disk(instance).cache(raw_image, raw_image.name)
    for engine in two:
        [base] = engine.cache.bases().bases
        assert (base.store, base.name, base.image_id, base.users) == ("rbd", raw_image.name, raw_image.image_id, 3)
    one.disk("web1").remove()
    assert acted(one) == ["kept"]
    assert read(disk_of(other, "web2"), tmp_path) == raw_image.content.read_bytes()
    for instance in ("web2", "web3"):
        other.disk(instance).remove()
    one.cache.pin(raw_image.name, "rbd")
    assert acted(one) == ["kept"]
    one.cache.unpin(raw_image.name, "rbd")
    assert acted(one) == ["removed"]
    assert one.cache.bases().bases == other.cache.bases().bases == []
    assert other.disk("web4").cache(raw_image, raw_image.name).fetched
    other.disk("web4").remove()
    assert acted(other) == ["removed"]


@pytest.mark.parametrize("ahead", ["the note of its use", "its import", "both"])
def test_base_that_was_used_in_the_future_stays_and_begins_to_age_now(
    hosts: Hosts,
    rbd_cluster: Cluster,
    rbd_pool: str,
    raw_image: Template,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ahead: str,
) -> None:
    """A clock was set back: what it told before must not keep the base until then."""
    engine, real, future = hosts(), time.time, time.time() + 400 * _DAY
    backend = backend_of(engine)
    with monkeypatch.context() as clock:
        if ahead != "the note of its use":
            clock.setattr(time, "time", lambda: real() + 400 * _DAY)
        engine.disk("web1").cache(raw_image, raw_image.name)
        engine.disk("web1").remove()
    if ahead != "its import":
        image_id = headers.identity(backend.ioctx, image_of(raw_image.name))
        headers.set_metadata(backend.ioctx, image_id, "imgbackend.touched", str(future))
    other = hosts("two")
    assert acted(other) == ["kept"]
    found = backend_of(other).find_base(raw_image.name)
    assert found is not None
    assert abs(found.touched - time.time()) < 600
    with Engine.from_config([], options(rbd_cluster, tmp_path / "three", rbd_pool, {}) | AT_ONCE) as hasty:
        assert acted(hasty) == ["removed"]
