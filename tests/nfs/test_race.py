"""Passes of one host race creations of another, on one folder, and every disk is compared; no lease holds."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from imgbackend.types import Mi
from labs.nfs import Share, as_host
from labs.racing import AT_ONCE, Creations, Racers, small_images
from labs.templates import Template

_IMAGES: Final = 6
_ROUNDS: Final = 12


@pytest.mark.parametrize("images_type", ["qcow2", "raw"])
def test_passes_of_one_host_and_creations_of_two_leave_every_disk_whole(
    images_type: str, nfs_share: Share, instances: Path, tmp_path: Path
) -> None:
    images = small_images(tmp_path, _IMAGES)
    told: dict[str, Any] = {"instances_path": str(instances), "images_type": images_type, **AT_ONCE}
    hosts = {"a": as_host(nfs_share.a, instances), "b": as_host(nfs_share.b, instances)}
    with Racers(tmp_path) as racers:
        racers.prune({**told, "host": "a"}, hosts["a"])
        racers.wait(passes=2)
        creating = [
            racers.create(
                Creations(
                    overrides={**told, "host": name},
                    images=images,
                    size=2 * Mi,
                    seed=seed,
                    rounds=_ROUNDS,
                    scratch=tmp_path,
                ),
                hosts[name],
            )
            for seed, name in enumerate(hosts)
        ]
        kept = {instance: image for each in creating for instance, image in racers.made(each).items()}
        removed, faults = racers.stop()
    assert faults == []
    assert removed > 0
    assert kept
    for within in (as_host(nfs_share.server, instances), *hosts.values()):
        assert _broken(kept, images, instances, images_type, within) == []


def _broken(
    kept: Mapping[str, str], images: Sequence[Template], instances: Path, format: str, within: Sequence[str]
) -> list[str]:
    """The disks that are not what they were made of, as one host sees them."""
    contents = {image.image_id: image.content for image in images}
    broken = []
    for instance, image in kept.items():
        disk = str(instances / instance / "disk")
        command = [*within, "qemu-img", "compare", "-f", "raw", "-F", format, str(contents[image]), disk]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            broken.append(f"{within[-2]} {instance}: {done.stdout}{done.stderr}")
    return broken
