"""Passes race creations in one thin pool: every disk is whole, whatever goes meanwhile."""

import random
from pathlib import Path
from typing import Any

from imgbackend import Engine
from imgbackend.types import Mi
from labs.lvm import Group
from labs.racing import AT_ONCE, Creations, Racers, content_of, small_images
from labs.volumes import options

_IMAGES, _ROUNDS, _CREATORS = 4, 4, 2


def test_passes_and_creations_of_several_processes_leave_every_disk_whole(
    lvm_group: Group, instances: Path, tmp_path: Path
) -> None:
    """A pass is killed once."""
    images = small_images(tmp_path, _IMAGES)
    told: dict[str, Any] = {"instances_path": str(instances), "images_type": "lvm", **options(lvm_group), **AT_ONCE}
    with Racers(tmp_path) as racers:
        racers.prune(told)
        racers.wait(passes=1)
        creating = [
            racers.create(Creations(overrides=told, images=images, size=8 * Mi, seed=seed, rounds=_ROUNDS))
            for seed in range(_CREATORS)
        ]
        racers.kill_a_pass(random.Random(3), told)
        kept = {instance: image for each in creating for instance, image in racers.made(each).items()}
        removed, faults = racers.stop()
    assert faults == []
    assert removed > 0
    contents = {image.image_id: image.content.read_bytes() + bytes(7 * Mi) for image in images}
    assert kept
    with Engine.from_config([], told) as engine:
        for instance, image in kept.items():
            assert content_of(engine, instance, tmp_path) == contents[image], instance
            engine.disk(instance).remove()
        engine.cache.prune()
        assert engine.cache.bases().bases == []
    assert lvm_group.volumes() == set()
