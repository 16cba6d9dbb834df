"""Passes of two processes, one of which is killed now and then, race creations in others; no lease holds."""

import itertools
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from cache.conftest import DAY, age
from imgbackend import Engine
from imgbackend.types import Mi
from labs.able_site import able_site
from labs.racing import AT_ONCE, Creations, Racers, content_of, small_images
from labs.templates import Template

pytestmark = pytest.mark.slow

_IMAGES, _CREATORS, _ROUNDS, _KILLS = 12, 3, 60, 3
_PASSES = 40


@pytest.fixture
def images(tmp_path: Path) -> list[Template]:
    return small_images(tmp_path, _IMAGES)


@pytest.mark.parametrize("images_type", ["qcow2", "raw", "able"])
def test_passes_and_creations_of_many_processes_leave_every_disk_whole(
    images: list[Template], instances: Path, tmp_path: Path, images_type: str, able_driver: None
) -> None:
    told: dict[str, Any] = {"instances_path": str(instances), "images_type": images_type, **AT_ONCE}
    told |= {"able.folder": str(tmp_path / "able")} if images_type == "able" else {}
    chance = random.Random(5)
    with Racers(tmp_path, able_site(tmp_path / "site")) as racers:
        for _ in range(2):
            racers.prune(told)
        racers.wait(passes=4)
        creating = [
            racers.create(Creations(overrides=told, images=images, size=2 * Mi, seed=seed, rounds=_ROUNDS))
            for seed in range(_CREATORS)
        ]
        for _ in range(_KILLS):
            racers.kill_a_pass(chance, told)
        kept = {instance: image for each in creating for instance, image in racers.made(each).items()}
        removed, faults = racers.stop()
    assert faults == []
    assert removed > 0
    assert sum(image.fetches for image in images) > _IMAGES
    _each_is_whole(told, kept, images, tmp_path)


def _each_is_whole(told: dict[str, Any], kept: dict[str, str], images: list[Template], scratch: Path) -> None:
    contents = {image.image_id: image.content.read_bytes() + bytes(Mi) for image in images}
    assert kept
    with Engine.from_config([], told) as engine:
        for instance, image in kept.items():
            assert content_of(engine, instance, scratch) == contents[image], instance
        for instance in kept:
            engine.disk(instance).remove()
        assert [each.action for each in engine.cache.prune().outcomes if each.action == "kept"] == []
        assert engine.cache.bases().bases == []
        assert list(engine.disks()) == []


def test_base_stays_while_the_folders_of_its_disks_change_their_names_all_the_time(
    engine: Engine, images: list[Template], instances: Path
) -> None:
    """As Nova renames them for a resize and back; and files in them, as whoever publishes them does."""
    image = images[0]
    for number in range(4):
        engine.disk(f"web{number}").cache(image, image.name)
    base, ends = engine.host.bases / image.name, threading.Event()

    def change() -> None:
        for number in itertools.cycle(range(4)):
            if ends.is_set():
                return
            folder, away = instances / f"web{number}", instances / f"web{number}_resize"
            folder.rename(away)
            (away / "disk").rename(away / ".disk.part")
            (away / ".disk.part").rename(away / "disk")
            away.rename(folder)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(_PASSES):
            age(base, 9 * DAY)
            done = engine.cache.prune()
            assert [each.action for each in done.outcomes] == ["kept"], done
            assert all("too fast" in fault for fault in done.faults), done.faults
    finally:
        ends.set()
        changing.join(60)
    assert engine.disk("web0").cache(image, image.name).way == "exists"
    assert base.exists()
