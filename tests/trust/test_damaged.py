"""Whatever a few bytes of a container are, the answer is a disk, or one line that blames the image."""

import os
import random
import shutil
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.types import Gi, Ki
from labs.corpus import filled
from labs.require import FULL
from trust.conftest import MakeEngine, assert_nothing_left, assert_one_line

KINDS = {
    "qcow2": ("qcow2",),
    "qcow2-512": ("qcow2", "cluster_size=512"),
    "qcow2-extended": ("qcow2", "extended_l2=on"),
    "vmdk": ("vmdk",),
    "vmdk-stream": ("vmdk", "subformat=streamOptimized"),
    "vhd": ("vpc",),
    "vhdx": ("vhdx",),
    "vdi": ("vdi",),
}
_ROUNDS = 150 if FULL else 8


def _damaged(data: bytes, chance: random.Random) -> bytes:
    """Some bytes are changed, more often near the beginning; one in five is cut off too."""
    made = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        reach = min(chance.choice([120, 600, 4 * Ki, 66 * Ki, len(made)]), len(made))
        at, length = chance.randrange(reach), chance.choice([1, 1, 4, 8])
        made[at : at + length] = chance.choice([chance.randbytes(length), b"\xff" * length, bytes(length)])
    if chance.random() < 0.2:
        del made[chance.randrange(len(made)) :]
    return bytes(made)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_container_is_a_disk_or_one_line(
    kind: str, make_engine: MakeEngine, images: Path, instances: Path, tmp_path: Path
) -> None:
    driver, *options = KINDS[kind]
    image, out = images / f"a.{'vhd' if driver == 'vpc' else driver}", tmp_path / "out"
    filled(image, driver, 256 * Ki, *options)
    data, chance = image.read_bytes(), random.Random(kind)
    for at in range(_ROUNDS):
        image.write_bytes(_damaged(data, chance))
        engine = make_engine(
            images_type=chance.choice(["raw", "qcow2"]),
            force_raw_images=chance.random() < 0.5,
            durable_disks=False,
            max_image_virtual_size=Gi,
            qemu_img_cpu_seconds=5,
        )
        try:
            found = engine.image(image.name)
            engine.disk("web1").cache(found, found.filename)
            engine.disk("web1").extract(out, "raw")
        except errors.TemplateError as exc:
            assert_one_line(exc)
            assert_nothing_left(instances)
        else:
            assert out.stat().st_size <= Gi, at
            os.unlink(out)
        for folder in filter(Path.is_dir, instances.iterdir()):
            shutil.rmtree(folder)
