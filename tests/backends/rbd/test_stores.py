"""A pool that was made anew under its name, or another that options lead to, has none of the disks: none is lost."""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, emptied
from imgbackend import Engine, errors
from imgbackend.types import DiskId
from labs.ceph import Cluster, new_pool
from labs.templates import Template
from labs.verbs import CHANGES, FLATTEN, LOOKS, SNAPSHOTS, Verbs

DISK = DiskId(instance="web1", name="disk")

TO_IMAGE = "2b0f6a4c-4d6b-4c0e-9c5d-5d3b1c0e7a11"
VERBS: Verbs = {**CHANGES, **LOOKS, **SNAPSHOTS, **FLATTEN, "to_image": lambda disk, _image: disk.to_image(TO_IMAGE)}
"""What changes a disk, or tells of it."""


@contextlib.contextmanager
def remade(cluster: Cluster) -> Iterator[tuple[str, Callable[[], None]]]:
    """A pool, and how to make it anew: with nothing in it."""
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(new_pool(cluster))

        def anew() -> None:
            with cluster.admin() as admin:
                admin.remove_pool(name)
            with cluster.admin() as admin:  # the other connection may know the former pool still
                admin.declare_pool(name)
                admin.ready_pool(name)

        yield name, anew


def records_of(engine: Engine) -> bytes:
    return (engine.host.instances / "web1" / "disks.json").read_bytes()


def made_old(engine: Engine) -> None:
    then = time.time() - 30 * 86400
    os.utime(engine.host.instances / "web1" / "disks.json", (then, then))


@pytest.mark.parametrize("verb", VERBS)
def test_verb_on_a_disk_of_another_pool_is_refused_with_both(
    hosts: Hosts, rbd_cluster: Cluster, raw_image: Template, verb: str
) -> None:
    """The option names another pool of the cluster by now."""
    engine = hosts()
    disk = disk_of(engine, "web1")
    disk.cache(raw_image, raw_image.name)
    disk.create_snap("kept")
    before, here = records_of(engine), backend_of(engine).store_identity()
    with new_pool(rbd_cluster) as pool:
        other = hosts(pool=pool)
        there = backend_of(other).store_identity()
        with pytest.raises(errors.WrongStore) as caught:
            VERBS[verb](disk_of(other, "web1"), raw_image)
        for told in (here, there, "see to pool and ceph_conf in [rbd]"):
            assert told in str(caught.value)
        made_old(engine)
        other.cache.leftovers(remove=True)
        assert list(backend_of(other).list_disks()) == []
    assert records_of(engine) == before
    assert disk.cache(raw_image, raw_image.name).way == "exists"
    assert [snap.name for snap in disk.snaps()] == ["kept"]
    emptied(engine)


def test_pool_that_is_made_anew_under_its_name_is_another(
    hosts: Hosts, rbd_cluster: Cluster, raw_image: Template
) -> None:
    with remade(rbd_cluster) as (pool, anew):
        first = hosts(pool=pool)
        disk_of(first, "web1").cache(raw_image, raw_image.name)
        made_old(first)
        before, told = records_of(first), backend_of(first).store_identity()
        anew()
        second = hosts(pool=pool)
        assert backend_of(second).store_identity() != told
        for call in (disk_of(second, "web1").exists, disk_of(second, "web1").remove):
            with pytest.raises(errors.WrongStore):
                call()
        found = second.cache.leftovers(remove=True)
        assert any("web1/disk" in line and "was made in another store" in line for line in found.unknown)
        assert records_of(first) == before


def test_pool_that_is_made_anew_while_it_is_open_has_lost_no_disk(
    hosts: Hosts, rbd_cluster: Cluster, raw_image: Template
) -> None:
    """As a service has it, which is not started again for months."""
    with remade(rbd_cluster) as (pool, anew):
        engine = hosts(pool=pool)
        disk = disk_of(engine, "web1")
        disk.cache(raw_image, raw_image.name)
        made_old(engine)
        before = records_of(engine)
        anew()
        for call in (disk.exists, disk.remove, lambda: disk.cache(raw_image, raw_image.name)):
            with pytest.raises(errors.StorageUnavailable, match="was removed, renamed or made anew"):
                call()
        engine.cache.leftovers(remove=True)
        assert records_of(engine) == before


def test_store_of_a_further_disk_is_noted_without_a_request(
    hosts: Hosts, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ids are known over the connection: nothing is asked of monitors or OSDs."""
    engine = hosts()
    backend = backend_of(engine)
    told = backend.store_identity()
    monkeypatch.setattr(type(backend.cluster), "monitor", None)
    monkeypatch.setattr(type(backend.cluster), "has", None)
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    assert json.loads(records_of(engine))["stores"] == {"disk": told}
    assert told.endswith(f"of the Ceph cluster {backend.cluster.fsid}")
    monkeypatch.undo()
    emptied(engine)


def test_forgotten_disk_of_a_lost_pool_is_made_anew(hosts: Hosts, rbd_cluster: Cluster, raw_image: Template) -> None:
    from imgbackend.disks import record_stores

    with remade(rbd_cluster) as (pool, anew):
        disk_of(hosts(pool=pool), "web1").cache(raw_image, raw_image.name)
        anew()
        engine = hosts(pool=pool)
        record_stores.forget(disk_of(engine, "web1"))
        assert disk_of(engine, "web1").cache(raw_image, raw_image.name).way == "clone"


def test_store_is_the_same_for_every_host_and_user_of_it(hosts: Hosts, rbd_cluster: Cluster, tmp_path: Path) -> None:
    copy = tmp_path / "another.conf"
    copy.write_text(rbd_cluster.conf.read_text())
    told = {backend_of(hosts(name)).store_identity() for name in ("one", "two")}
    told.add(backend_of(hosts("three", ceph_conf=str(copy))).store_identity())
    assert len(told) == 1
