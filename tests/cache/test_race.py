"""Passes race creations, in other processes and threads; every disk is whole afterwards.

Bases grow old only while nobody is making a disk of them, as in life; from then on a creation
and a pass run as they like.  What each does is drawn from a fixed seed.
"""

import contextlib
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.conftest import DAY, age
from imgbackend import Engine, errors
from imgbackend.state import manifests
from imgbackend.types import Mi
from labs.able import AbleBackend
from labs.able_site import able_site
from labs.contents import bytes_of
from labs.images import scattered, sparse_raw
from labs.templates import Template, in_threads

pytestmark = pytest.mark.slow

IMAGES, WORKERS, ROUNDS = 6, 3, 20

_PRUNER = """
import pickle, random, sys, time
from imgbackend import Engine
from imgbackend.cache.evict import Removal
from imgbackend.cache.usage import Use

real, chance, wrong = Removal.remove, random.Random(7), []

def remove(self, verdict):
    time.sleep(chance.random() / 20)  # whatever else happens between a look at all disks and a removal
    outcome = real(self, verdict)
    if outcome.action == "removed" and sys.argv[1] == "strict":
        base = outcome.base
        disks = Use(engine.host).disks(base.name, base.store)
        store = engine.backend(base.store) if base.store else None
        there = store.find_base(base.name) if store else engine.host.bases.joinpath(base.name).exists()
        if disks and not there:
            wrong.append(f"{base.name} was removed under {disks}")
    return outcome

Removal.remove = remove
with Engine.from_config([], pickle.load(sys.stdin.buffer)) as engine:
    for line in sys.stdin.buffer:
        done = engine.cache.prune()
        removed = sum(each.action == "removed" for each in done.outcomes)
        print(removed, *done.faults, *wrong, sep="; ", flush=True)
"""
"""Makes a pass for each line that it reads.  No pass may remove what a disk hangs on: a later fetch would hide it."""


class Pruner:
    """A process that makes a pass whenever it is told to."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._lock = threading.Lock()
        self.removed = 0

    def run(self) -> None:
        """One pass, which must see everything and fail at nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            removed, *faults = self._process.stdout.readline().decode().strip().split("; ")
        assert faults == []
        self.removed += int(removed)


@contextlib.contextmanager
def pruner(overrides: dict[str, Any], tmp_path: Path, how: str = "strict") -> Iterator[Pruner]:
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path), "PYTHONPATH": able_site(tmp_path / "site")}
    argv = [sys.executable, "-c", _PRUNER, how]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(overrides))
        process.stdin.flush()
        yield Pruner(process)
        process.stdin.close()
        assert process.wait(60) == 0


class Ages:
    """Lets a base grow old while no disk is being made of it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._making, self._guard = folder, dict[str, int](), threading.Lock()

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[None]:
        with self._guard:
            self._making[name] = self._making.get(name, 0) + 1
        try:
            yield
        finally:
            with self._guard:
                self._making[name] -= 1

    def pass_over(self, name: str) -> None:
        with self._guard:
            if not self._making.get(name):
                age(self._folder / name, 9 * DAY)


@pytest.fixture
def images(tmp_path: Path) -> list[Template]:
    made = []
    for number in range(IMAGES):
        data = scattered(Mi, 0.5, extent=64 << 10, seed=number)
        content = sparse_raw(tmp_path / f"image{number}.raw", Mi, data=data)
        made.append(Template(content=content, image_id=f"image {number}", format="raw"))
    return made


Contents = Callable[[Engine, str], bytes]


def _of_file(engine: Engine, instance: str) -> bytes:
    return bytes_of(engine.disk(instance))


def _of_store(engine: Engine, instance: str) -> bytes:
    backend = engine.backend("able")
    assert isinstance(backend, AbleBackend)
    return backend.disk_type(backend, engine.disk(instance).id).path.read_bytes()


def race(engine: Engine, folder: Path, images: list[Template], pruning: Pruner, contents: Contents) -> int:
    """How many disks there are in the end, each compared with its image."""
    ages, kept = Ages(folder), dict[str, Template]()

    def work(worker: int) -> None:
        chance, mine = random.Random(worker), list[str]()
        for number in range(ROUNDS):
            image, instance = chance.choice(images), f"vm-{worker}-{number}"
            with ages.making(image.name):
                engine.disk(instance).cache(image, image.name, 2 * Mi)
            kept[instance] = image
            mine.append(instance)
            while len(mine) > 1 and chance.random() < 0.7:
                gone = mine.pop(chance.randrange(len(mine)))
                del kept[gone]
                engine.disk(gone).remove()
            for other in images:
                ages.pass_over(other.name)
            if chance.random() < 0.5:
                pruning.run()

    assert in_threads(WORKERS, work) == [None] * WORKERS
    for image in images:
        ages.pass_over(image.name)
    pruning.run()
    for instance, image in kept.items():
        assert contents(engine, instance) == image.content.read_bytes() + bytes(Mi), instance
    return len(kept)


def test_passes_and_creations_leave_every_overlay_whole(
    engine: Engine, images: list[Template], instances: Path, tmp_path: Path
) -> None:
    with pruner({"instances_path": str(instances)}, tmp_path) as pruning:
        assert race(engine, engine.host.bases, images, pruning, _of_file) >= WORKERS
    _some_were_removed_and_fetched_again(pruning, images)


def test_passes_and_creations_leave_every_disk_of_a_store_whole(
    able_engine: Engine, images: list[Template], instances: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "able"
    told = {"instances_path": str(instances), "images_type": "able", "able.folder": str(folder)}
    with pruner(told, tmp_path) as pruning:
        assert race(able_engine, folder / "bases", images, pruning, _of_store) >= WORKERS
    _some_were_removed_and_fetched_again(pruning, images)


def _some_were_removed_and_fetched_again(pruning: Pruner, images: list[Template]) -> None:
    """Else there was no race."""
    fetches = sum(image.fetches for image in images)
    assert pruning.removed > 0
    assert fetches > len(images)


def test_creation_without_any_lease_makes_a_whole_disk_or_none(
    engine: Engine, images: list[Template], instances: Path, tmp_path: Path
) -> None:
    """Where an operator switched the lease off, a base may go at the worst moment; no disk is made that lacks it."""
    told = {"instances_path": str(instances), "image_cache.lease_seconds": 0}
    told["image_cache.remove_unused_original_minimum_age_seconds"] = 0
    made = dict[str, Template]()
    with pruner(told, tmp_path, "lenient") as pruning:
        ends = threading.Event()

        def prune() -> None:
            while not ends.is_set():
                pruning.run()

        pass_after_pass = threading.Thread(target=prune)
        pass_after_pass.start()
        try:
            for number in range(ROUNDS):
                image = images[number % IMAGES]
                try:
                    engine.disk(f"vm-{number}").cache(image, image.name)
                except errors.BaseMissing:
                    assert not engine.disk(f"vm-{number}").exists()
                else:
                    made[f"vm-{number}"] = image
        finally:
            ends.set()
            pass_after_pass.join(60)
    assert made
    for instance, image in made.items():
        assert bytes_of(engine.disk(instance)) == image.content.read_bytes()


def test_disk_that_is_made_between_a_pass_s_last_look_and_the_removal_is_whole(
    make_engine: Callable[..., Engine], images: list[Template], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass holds the base's lock, saw no disk, and takes a while to remove the base."""
    engine, image = make_engine({"images_type": "qcow2"}), images[0]
    engine.disk("first").cache(image, image.name)
    disk, base, looked = engine.disk("second"), engine.host.bases / image.name, threading.Event()
    create = type(disk).create_image

    def pass_that_looked() -> None:
        with engine.host.locks.base(image.name):
            looked.set()
            time.sleep(0.3)
            base.unlink()
            manifests.path_of(base).unlink()

    passing = threading.Thread(target=pass_that_looked)

    def create_after_the_look(*arguments: Any) -> str:
        way: str = create(*arguments)
        passing.start()
        assert looked.wait(30)
        return way

    monkeypatch.setattr(type(disk), "create_image", create_after_the_look)
    disk.cache(image, image.name)
    passing.join()
    assert bytes_of(disk) == image.content.read_bytes()
