"""Passes of two hosts race creations of both in one pool: every disk is whole, whatever goes meanwhile."""

import random
from pathlib import Path
from typing import Any

from backends.rbd.conftest import options
from imgbackend import Engine
from imgbackend.types import Mi
from labs.ceph import Cluster
from labs.racing import AT_ONCE, Creations, Racers, content_of, small_images

_IMAGES, _ROUNDS = 4, 12


def test_passes_and_creations_of_two_hosts_leave_every_disk_whole(
    rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path
) -> None:
    """Neither sees the other's records.  One host's pass is killed once."""
    images = small_images(tmp_path, _IMAGES)
    hosts: list[dict[str, Any]] = [options(rbd_cluster, tmp_path / name, rbd_pool, {}) | AT_ONCE for name in "ab"]
    with Racers(tmp_path) as racers:
        for told in hosts:
            racers.prune(told)
        racers.wait(passes=4)
        creating = [
            racers.create(Creations(overrides=told, images=images, size=2 * Mi, seed=seed, rounds=_ROUNDS))
            for seed, told in enumerate(hosts)
        ]
        racers.kill_a_pass(random.Random(3), hosts[1])
        kept = [racers.made(each) for each in creating]
        removed, faults = racers.stop()
    assert faults == []
    assert removed > 0
    assert sum(image.fetches for image in images) > _IMAGES
    contents = {image.image_id: image.content.read_bytes() + bytes(Mi) for image in images}
    for told, disks in zip(hosts, kept, strict=True):
        assert disks
        with Engine.from_config([], told) as engine:
            for instance, image in disks.items():
                assert content_of(engine, instance, tmp_path) == contents[image], instance
    for told, disks in zip(hosts, kept, strict=True):
        with Engine.from_config([], told) as engine:
            for instance in disks:
                engine.disk(instance).remove()
            engine.cache.prune()
    with Engine.from_config([], hosts[0]) as engine:
        assert engine.cache.bases().bases == []
        backend: Any = engine.backend()
        assert [image["name"] for image in backend.cluster.rbd().list2(backend.ioctx)] == []
