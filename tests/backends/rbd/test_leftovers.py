"""What killed calls left in a pool that hosts share: told to all of them, removed when nobody can be at it."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, options, read
from backends.rbd.test_bases import _expire
from imgbackend import Engine
from imgbackend.cache.garbage.collect import Leftover
from imgbackend.testing.children import Child
from imgbackend.types import Mi
from imgbackend_rbd import RbdBackend, images, lock
from imgbackend_rbd.bases import image_of
from imgbackend_rbd.disk import RbdDisk
from labs.ceph import Cluster, new_pool
from labs.templates import Template


@pytest.fixture
def killed(rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path) -> Callable[..., None]:
    """Does something as the host ``two``, in a process that kills itself."""

    def do(work: Callable[[Engine], object]) -> None:
        def make() -> None:
            with Engine.from_config([], options(rbd_cluster, tmp_path / "two", rbd_pool, {})) as engine:
                work(engine)

        assert Child(make, watched=False).outcome().killed

    return do


def die(*_arguments: object) -> None:
    os.kill(os.getpid(), 9)


def stored(engine: Engine, *, remove: bool = False) -> list[Leftover]:
    """Of the pool."""
    found = engine.cache.leftovers(remove=remove)
    assert (found.faults, found.unknown) == ([], [])
    return [each for each in found.leftovers if each.store is not None]


def at_once(engine: Engine) -> None:
    """As if an hour had passed."""
    engine.cache.policy = type(engine.cache.policy)(lease=0)


def test_broken_import_goes_with_the_next_pass_of_any_host_once_its_lock_has_expired(
    hosts: Hosts, killed: Callable[..., None], raw_image: Template
) -> None:
    def importing(phase: str, done: int, total: int | None) -> None:
        if phase == "import" and done == total:
            die()

    killed(lambda engine: engine.disk("web1").cache(raw_image, raw_image.name, progress=importing))
    engine = hosts("one")
    [left] = stored(engine, remove=True)
    assert (left.kind, left.store, left.dead) == ("base", "rbd", False)
    assert left.size > 0
    assert image_of(raw_image.name) in left.name
    at_once(engine)
    [left] = stored(engine, remove=True)
    assert not left.removed, "the importer's lock on the pool has not expired"
    _expire(backend_of(engine).pool, engine, raw_image.name)
    [left] = stored(engine, remove=True)
    assert left.removed
    assert stored(engine) == []


def test_unfinished_disk_of_another_host_stays_while_its_lease_is_held_and_is_cleared_by_its_own_at_once(
    hosts: Hosts, killed: Callable[..., None], raw_image: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = hosts("one")
    engine.disk("kept").cache(raw_image, raw_image.name)

    def work(engine: Engine) -> None:
        monkeypatch.setattr(RbdDisk, "_mark", die)
        engine.disk("web1").cache(raw_image, raw_image.name)

    killed(work)
    at_once(engine)
    [left] = stored(engine, remove=True)
    assert (left.kind, left.dead, left.removed) == ("disk", False, False)
    assert left.reason == "somebody is making or removing it"
    other = hosts("two")
    at_once(other)
    done = other.cache.leftovers(remove=True)
    assert [each.removed for each in done.leftovers if each.kind == "record"] == [True], "it goes with its record"
    assert stored(other) == stored(engine) == []
    assert other.host.records.all("web1") == {}
    assert read(disk_of(engine, "kept"), tmp_path) == raw_image.content.read_bytes()
    engine.disk("kept").remove()
    backend_of(engine).remove_base(raw_image.name)


def test_image_of_a_disk_whose_making_was_killed_is_told_and_removed(
    hosts: Hosts,
    killed: Callable[..., None],
    raw_image: Template,
    rbd_cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is in another pool than the disk, and the disk has a snapshot for it."""
    monkeypatch.setattr(lock, "_LEASE_SECONDS", 2)  # of the child too
    with new_pool(rbd_cluster) as glance:

        def copying(_phase: str, done: int, _total: int | None) -> None:
            if done:
                die()

        def work(engine: Engine) -> None:
            engine.disk("web1").cache(raw_image, raw_image.name)
            disk_of(engine, "web1").to_image("copy", glance, progress=copying)

        killed(work)
        engine, backend = hosts("two"), backend_of(hosts("one"))
        [left] = stored(engine, remove=True)
        assert (left.kind, left.dead) == ("disk", False)
        assert left.name.startswith(f"{glance}/copy ")
        time.sleep(2.5)
        [left] = stored(hosts("one"), remove=True)
        assert left.removed
        assert stored(engine) == []
        assert list(backend.cluster.rbd().list2(backend.cluster.pool(glance))) == []
        with backend.cluster.image(backend.pool, "web1_disk", read_only=True) as image:
            assert images.snapshots(image) == []
        disk_of(engine, "web1").remove()
        backend.remove_base(raw_image.name)


def test_unfinished_disk_is_told_with_what_it_takes(
    hosts: Hosts, killed: Callable[..., None], raw_image: Template
) -> None:
    """A config drive that was being written: no clone, whose bytes are its base's."""
    secret = raw_image.but(role="private")

    def importing(phase: str, done: int, total: int | None) -> None:
        if phase == "import" and done == total:
            die()

    killed(lambda engine: engine.disk("web1", "disk.config").cache(secret, "", 16 * Mi, progress=importing))
    other = hosts("two")
    [left] = stored(other)
    assert (left.kind, left.dead) == ("disk", False)
    assert Mi <= left.size <= 16 * Mi
    at_once(other)
    other.cache.leftovers(remove=True)
    assert stored(other) == []


def test_whole_disk_whose_record_was_lost_is_told_to_the_host_that_made_it_and_stays(
    hosts: Hosts, raw_image: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, two = hosts("one"), hosts("two")
    for instance in ("web1", "web2"):
        one.disk(instance).cache(raw_image, raw_image.name)
    shutil.rmtree(one.host.instances / "web1")
    at_once(one)
    [left] = stored(one, remove=True)
    assert (left.kind, left.name, left.dead, left.removed) == ("disk", "web1/disk", False, False)
    assert stored(two) == []
    monkeypatch.setattr(
        RbdBackend, "made_here", lambda _backend: pytest.fail("a pass asks for every image of the pool")
    )
    assert one.cache.prune().leftovers == []
    monkeypatch.undo()
    assert read(disk_of(one, "web1"), tmp_path) == raw_image.content.read_bytes()
    for instance in ("web1", "web2"):
        one.disk(instance).remove()
    assert stored(one) == []
    one.cache.prune()
    backend_of(one).remove_base(raw_image.name)


def test_whole_images_of_others_in_the_pool_are_no_leftovers(hosts: Hosts, raw_image: Template) -> None:
    one, two = hosts("one"), hosts("two")
    two.disk("web2").cache(raw_image, raw_image.name)
    backend = backend_of(one)
    backend.cluster.rbd().create(backend.ioctx, "theirs_disk", 1 << 20, old_format=False)
    backend.cluster.rbd().create(backend.ioctx, "imgbackend-base.notes", 1 << 20, old_format=False)
    at_once(one)
    assert stored(one, remove=True) == []
    names = {image["name"] for image in backend.cluster.rbd().list2(backend.ioctx)}
    assert names == {"theirs_disk", "imgbackend-base.notes", "web2_disk", image_of(raw_image.name)}
    for name in ("theirs_disk", "imgbackend-base.notes"):
        backend.cluster.rbd().remove(backend.ioctx, name)
    two.disk("web2").remove()
    backend.remove_base(raw_image.name)
