"""What a folder asks for that is shared by CephFS: it tells no holes, each of its files has a name, clients die."""

import os
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.guest import settings
from imgbackend.system import files, holes
from imgbackend.types import Mi
from labs.ceph import Cluster, new_pool
from labs.cephfs import MakeClient, data_objects, evict
from labs.freezing import freeze
from labs.hosts import SECONDS
from labs.images import same_for_guest
from labs.shares import Share
from labs.templates import Template
from shares.promises import EngineOn, engine_on, sparse_image

__all__ = ["engine_on", "sparse_image"]

_WINDOW = 0.5
"""Seconds in which a call would end that does not wait."""


def test_raw_disk_takes_no_room_for_the_holes_of_its_image(
    cephfs_cluster: Cluster, cephfs_share: Share, engine_on: EngineOn, sparse_image: Template
) -> None:
    """The file system says of each file that it is data throughout; what it really keeps are objects of 4 MiB."""
    data = sparse_image.content.read_bytes()
    parts = sum(any(data[start : start + 4 * Mi]) for start in range(0, len(data), 4 * Mi))
    assert 0 < parts < 4
    engine_on(cephfs_share.a, {"images_type": "raw"}).disk("web1").cache(sparse_image, sparse_image.name)
    disk = cephfs_share.a / "web1/disk"
    with files.open_fd(disk, os.O_RDONLY) as fd:
        assert list(holes.told_ranges(fd, len(data))) == [(0, len(data))]
        os.fsync(fd)
    assert disk.read_bytes() == data
    assert len(data_objects(cephfs_cluster, disk)) == parts


def test_quota_that_is_used_up_is_told_as_such_and_leaves_nothing(
    cephfs_share: Share, engine_on: EngineOn, sparse_image: Template
) -> None:
    os.setxattr(cephfs_share.a, "ceph.quota.max_bytes", b"4194304")
    engine = engine_on(cephfs_share.a, {"images_type": "raw"})
    with pytest.raises(errors.StorageFull, match="a quota is used up"):
        engine.disk("web1").cache(sparse_image, sparse_image.name)
    assert not engine.disk("web1").exists()
    assert list(engine.bases()) == []
    os.setxattr(cephfs_share.a, "ceph.quota.max_bytes", b"0")
    engine.disk("web1").cache(sparse_image, sparse_image.name)
    assert (cephfs_share.b / "web1/disk").read_bytes() == sparse_image.content.read_bytes()


def test_guests_disks_are_opened_past_the_page_cache_though_no_file_can_be_without_a_name(cephfs_share: Share) -> None:
    with pytest.raises(OSError, match="not supported"):
        os.close(os.open(cephfs_share.a, os.O_TMPFILE | os.O_RDWR, 0o600))
    assert settings._takes_direct(cephfs_share.a)
    assert list(cephfs_share.b.iterdir()) == []


@pytest.fixture
def pool(cephfs_cluster: Cluster) -> Iterator[str]:
    with new_pool(cephfs_cluster) as name:
        yield name


def test_disk_of_a_pool_is_exported_into_a_folder_where_no_file_can_be_without_a_name(
    cephfs_cluster: Cluster, cephfs_share: Share, pool: str, engine_on: EngineOn, sparse_image: Template, tmp_path: Path
) -> None:
    told = {"rbd.pool": pool, "rbd.user": cephfs_cluster.user, "rbd.ceph_conf": str(cephfs_cluster.conf)}
    disk = engine_on(tmp_path / "instances", {"images_type": "rbd", **told}).disk("web1")
    disk.cache(sparse_image, sparse_image.name)
    for written in ("qcow2", "raw"):
        disk.extract(cephfs_share.a / f"export.{written}", written)
        assert same_for_guest(sparse_image.content, "raw", cephfs_share.b / f"export.{written}", written)
    assert {path.name for path in cephfs_share.b.iterdir()} == {"export.qcow2", "export.raw"}


class _Away:
    """An engine with the disk ``web1`` on a mount that is about to go."""

    def __init__(self, engine: Engine, image: Template, scratch: Path) -> None:
        self.engine, self.image, self.scratch = engine, image, scratch
        engine.disk("web1").cache(image, image.name)
        self.held = engine.disk("web1")
        """From before it went."""


VERBS: dict[str, Callable[[_Away], Any]] = {
    "create": lambda on: on.engine.disk("web2").cache(on.image, on.image.name),
    "create again": lambda on: on.held.cache(on.image, on.image.name),
    "explain": lambda on: on.held.explain(on.image, on.image.name),
    "info": lambda on: on.held.info(),
    "exists": lambda on: on.held.exists(),
    "resize": lambda on: on.held.resize(64 * Mi),
    "extract": lambda on: on.held.extract(on.scratch / "copy", "raw"),
    "remove": lambda on: on.held.remove(),
    "disk": lambda on: on.engine.disk("web1"),
    "disks": lambda on: list(on.engine.disks()),
    "disks of an instance": lambda on: list(on.engine.disks("web1", all_hosts=True)),
    "bases": lambda on: list(on.engine.bases()),
    "users": lambda on: on.engine.users(),
    "cache list": lambda on: on.engine.cache.bases(),
    "cache hosts": lambda on: on.engine.cache.hosts(),
    "cache verify": lambda on: on.engine.cache.verify(),
    "prune": lambda on: on.engine.cache.prune(),
    "make room": lambda on: on.engine.cache.make_room(1),
    "leftovers": lambda on: on.engine.cache.leftovers(remove=True),
    "destroy": lambda on: on.engine.instances.destroy("web1"),
}


def _said_else(on: _Away) -> dict[str, str]:
    """What each verb said or did that did not tell that its storage does not answer."""
    said = {}
    for name, verb in VERBS.items():
        try:
            said[name] = f"returned {verb(on)}"
        except errors.StorageUnavailable:
            continue
        except Exception as exc:
            said[name] = f"{type(exc).__name__}: {exc}"
    return said


def test_every_verb_tells_that_a_mount_is_gone_whose_client_died(
    cephfs_own_client: MakeClient, engine_on: EngineOn, sparse_image: Template, tmp_path: Path
) -> None:
    client, folder = cephfs_own_client()
    on = _Away(engine_on(folder), sparse_image, tmp_path)
    client.kill()
    assert _said_else(on) == {}


def test_every_verb_tells_that_a_mount_is_gone_whose_client_was_evicted(
    cephfs_cluster: Cluster,
    cephfs_own_client: MakeClient,
    engine_on: EngineOn,
    sparse_image: Template,
    tmp_path: Path,
) -> None:
    """As a metadata server does with a client that it has not heard of for some minutes."""
    client, folder = cephfs_own_client()
    on = _Away(engine_on(folder), sparse_image, tmp_path)
    evict(cephfs_cluster, client.place)
    assert _said_else(on) == {}


def test_client_that_dies_while_a_call_holds_locks_is_told_as_such(
    cephfs_own_client: MakeClient, engine_on: EngineOn, sparse_image: Template, caplog: pytest.LogCaptureFixture
) -> None:
    client, folder = cephfs_own_client()
    engine = engine_on(folder)
    image = sparse_image.but(before=lambda _target, _progress: client.kill())
    with pytest.raises(errors.StorageUnavailable):
        engine.disk("web1").cache(image, image.name)
    assert image.fetches == 1
    assert "Could not unlock" not in caplog.text, "the lock is gone, and nobody need be told"


def test_call_that_waits_for_a_client_which_dies_ends_and_what_it_began_is_done_again_on_the_other_host(
    cephfs_cluster: Cluster,
    cephfs_share: Share,
    cephfs_own_client: MakeClient,
    engine_on: EngineOn,
    sparse_image: Template,
) -> None:
    client, folder = cephfs_own_client()
    engine = engine_on(folder, {"images_type": "raw"})
    disk = engine.disk("web1")
    with futures.ThreadPoolExecutor(1) as pool:
        freeze([client.process.pid])
        waiting = pool.submit(disk.cache, sparse_image, sparse_image.name)
        assert not futures.wait([waiting], timeout=_WINDOW).done
        client.kill()
        with pytest.raises(errors.StorageUnavailable):
            waiting.result(SECONDS)
    evict(cephfs_cluster, client.place)
    other = engine_on(cephfs_share.b, {"images_type": "raw", "host": "b"}).disk("web1")
    other.cache(sparse_image, sparse_image.name)
    assert (cephfs_share.a / "web1/disk").read_bytes() == sparse_image.content.read_bytes()
