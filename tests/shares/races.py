"""Passes of two hosts race creations and removals of two others, on one folder; no lease holds, all disks are compared.

The classes here are promises; ``test_races.py`` in the folder of each file system has them run on it, with a
fixture ``share``.  What each process does is drawn from the seed in the test's name.
"""

import random
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from imgbackend.types import Mi
from labs.racing import AT_ONCE, Creations, Racers, small_images
from labs.require import FULL
from labs.shares import Share, broken_disks

_IMAGES: Final = 6
_MAKING, _PASSING = ("a", "b"), ("c", "d")
_SEEDS: Final = range(4) if FULL else range(1)
_KILLS: Final = 3 if FULL else 1
"""Of the host ``d``, in the middle of its passes; then it is there again."""


class Races:
    """What holds on each file system."""

    rounds: ClassVar[int] = 60 if FULL else 12
    """Disks that each of the two processes makes."""

    @pytest.mark.parametrize("seed", _SEEDS, ids=lambda seed: f"seed{seed}")
    @pytest.mark.parametrize("images_type", ["qcow2", "raw"])
    def test_passes_and_creations_of_several_hosts_leave_every_disk_whole(
        self, images_type: str, seed: int, share: Share, instances: Path, tmp_path: Path
    ) -> None:
        images = small_images(tmp_path, _IMAGES)
        told: dict[str, Any] = {"instances_path": str(instances), "images_type": images_type, **AT_ONCE}
        hosts = share.hosts(tmp_path, instances)
        with Racers(tmp_path) as racers:
            for name in _PASSING:
                racers.prune({**told, "host": name}, hosts[name].enter())
            racers.wait(passes=4)
            creating = [
                racers.create(
                    Creations(
                        overrides={**told, "host": name},
                        images=images,
                        size=2 * Mi,
                        seed=2 * seed + number,
                        rounds=self.rounds,
                        scratch=tmp_path,
                    ),
                    hosts[name].enter(),
                )
                for number, name in enumerate(_MAKING)
            ]
            for _ in range(_KILLS):
                racers.kill_a_pass(random.Random(seed), {**told, "host": "d"}, hosts["d"].enter())
            kept = {instance: image for each in creating for instance, image in racers.made(each).items()}
            removed, faults = racers.stop()
        assert faults == []
        assert removed > 0
        assert kept
        for host in hosts.values():
            assert list(broken_disks(kept, images, instances, images_type, host)) == []
