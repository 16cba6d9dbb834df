"""Hosts that keep their disks in one pool of a real Ceph."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from imgbackend import Engine
from imgbackend.testing import oracle
from imgbackend_rbd import RbdBackend
from imgbackend_rbd.disk import RbdDisk
from labs.ceph import Cluster


class Hosts(Protocol):
    """Makes engines; each name of a host is an ``instances_path`` of its own."""

    def __call__(self, name: str = "one", pool: str | None = None, **own: object) -> Engine: ...


def options(cluster: Cluster, folder: Path, pool: str, own: dict[str, Any]) -> dict[str, Any]:
    """The overrides of an engine whose disks are in a pool."""
    told: dict[str, Any] = {"images_type": "rbd", "instances_path": str(folder), "rbd.pool": pool}
    told |= {"rbd.user": cluster.user, "rbd.ceph_conf": str(cluster.conf)}
    told |= {"rbd.destroy_volume_retries": 20, "rbd.destroy_volume_retry_interval": 0.5}
    return told | {f"rbd.{key}": value for key, value in own.items()}


@pytest.fixture
def hosts(rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path) -> Iterator[Hosts]:
    """In the test's own pool unless another is named; closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(name: str = "one", pool: str | None = None, **own: object) -> Engine:
            told = options(rbd_cluster, tmp_path / name, pool or rbd_pool, own)
            return stack.enter_context(Engine.from_config([], told))

        yield make


@pytest.fixture
def engine(hosts: Hosts) -> Engine:
    """Of the host ``one``."""
    return hosts()


def backend_of(engine: Engine) -> RbdBackend:
    """The backend of an engine's disks."""
    found = engine.backend()
    assert isinstance(found, RbdBackend)
    return found


def emptied(engine: Engine) -> None:
    """Remove all disks and bases of an engine's pool, other hosts' too."""
    backend = backend_of(engine)
    for disk in list(backend.list_disks()):
        with backend.disk(disk).locked(changing=False):
            backend.disk(disk).remove_image()
    for base in list(backend.list_bases()):
        backend.remove_base(base.name)


def disk_of(engine: Engine, instance: str, name: str = "disk") -> RbdDisk:
    """A disk of an engine."""
    found = engine.disk(instance, name)
    assert isinstance(found, RbdDisk)
    return found


def read(disk: RbdDisk, scratch: Path) -> bytes:
    """All bytes that a guest reads, by QEMU's own driver."""
    return oracle.read(disk.source(), scratch)
