"""A pool that is full is told in time, and nothing of what did not fit stays."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.rbd.conftest import backend_of, disk_of, options, read
from imgbackend import Engine, errors
from imgbackend.types import Mi
from labs.ceph import Cluster
from labs.templates import Template


@pytest.fixture
def cluster(rbd_own_cluster: Callable[..., Cluster]) -> Cluster:
    return rbd_own_cluster(pools="vms", size=192 * Mi)


@pytest.fixture
def engine(cluster: Cluster, tmp_path: Path) -> Iterator[Engine]:
    told = options(cluster, tmp_path / "one", "vms", {"operation_timeout": 20})
    with Engine.from_config([], told) as engine:
        yield engine


@pytest.fixture
def image(tmp_path: Path) -> Template:
    """So much that the cluster is more than a tenth full with it."""
    content = tmp_path / "image.raw"
    content.write_bytes(os.urandom(32 * Mi))
    return Template(content=content, image_id="image", format="raw")


def _full(cluster: Cluster, *, full: bool) -> None:
    """Have the cluster count as full at a tenth, or not; it takes seconds until all know."""
    with cluster.admin() as admin:
        for number, name in enumerate(("nearfull", "backfillfull", "full")):
            admin.ask(f"osd set-{name}-ratio", ratio=(0.08 if full else 0.9) + number / 100)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            [pool] = admin.ask("osd dump")["pools"]
            if ("full" in pool["flags_names"].split(",")) == full:
                return
            time.sleep(0.1)
    raise AssertionError("the cluster does not tell that it is full, or not")


def test_manager_tells_what_the_pool_could_take(rbd_own_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = rbd_own_cluster(pools="vms", size=512 * Mi, manager=True)
    with Engine.from_config([], options(cluster, tmp_path / "one", "vms", {})) as engine:
        capacity = backend_of(engine).capacity()
    assert 256 * Mi < capacity.free <= capacity.total <= 512 * Mi


def test_full_pool_is_told_in_time_and_nothing_stays_of_what_did_not_fit(
    cluster: Cluster, engine: Engine, tmp_path: Path, image: Template
) -> None:
    disk, backend = disk_of(engine, "web1"), backend_of(engine)
    disk.cache(image, image.name)
    other = image.but(image_id="other")
    _full(cluster, full=True)
    for wanted in (image, other):
        with pytest.raises(errors.StorageFull, match="pool vms"):
            disk_of(engine, "web2").cache(wanted, wanted.name)
    assert not disk_of(engine, "web2").exists()
    disk.extract(tmp_path / "export", "raw")  # not by QEMU: librbd notes the time of a read, and would wait for room
    assert (tmp_path / "export").read_bytes() == image.content.read_bytes()
    disk.resize(64 * Mi)  # a header that changes takes no room
    with pytest.raises(errors.StorageError, match="could not be removed"):
        disk.remove()  # to be seen as removed it would have to be
    _full(cluster, full=False)
    disk.remove()
    assert not disk.exists()
    assert backend.find_base(other.name) is None
    assert disk_of(engine, "web2").cache(other, other.name).way == "clone"
    assert read(disk_of(engine, "web2"), tmp_path) == image.content.read_bytes()
    _full(cluster, full=True)
    disk_of(engine, "web2").remove()  # once the pool has a trash, which librbd removes by way of
    backend.remove_base(image.name)
    assert list(backend.list_disks()) == []
    assert [base.name for base in backend.list_bases()] == [other.name]
