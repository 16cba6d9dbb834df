"""A disk that is broken is listed, can be removed, and stops nobody else."""

import os
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from labs.engines import MakeEngine
from labs.templates import Template


@pytest.fixture
def broken(make_engine: MakeEngine, raw_image: Template) -> Engine:
    """``web1`` has lost its header, ``web2`` is well."""
    engine = make_engine({"images_type": "qcow2", "image_cache.remove_unused_original_minimum_age_seconds": 0})
    for name in ("web1", "web2"):
        engine.disk(name).cache(raw_image, raw_image.name)
    with (engine.host.instances / "web1" / "disk").open("r+b") as file:
        file.write(bytes(4096))
    return engine


def test_disk_with_a_broken_header_is_listed_and_its_fault_is_told(broken: Engine) -> None:
    assert [str(disk.id) for disk in broken.disks()] == ["web1/disk", "web2/disk"]
    with pytest.raises(errors.DiskError, match="web1/disk"):
        broken.disk("web1").info()


def test_disk_with_a_broken_header_is_removed(broken: Engine) -> None:
    broken.disk("web1").remove()
    assert [str(disk.id) for disk in broken.disks()] == ["web2/disk"]
    assert not (broken.host.instances / "web1" / "disk").exists()


def test_disk_with_a_broken_header_holds_the_base_on_its_record_and_no_other(
    broken: Engine, raw_image: Template, qcow2_image: Template
) -> None:
    broken.disk("web3").cache(qcow2_image, qcow2_image.name)
    broken.disk("web3").remove()
    broken.disk("web2").remove()
    for path in broken.host.bases.iterdir():
        _age(path)
    done: Any = broken.cache.prune()
    assert done.faults == []
    assert {each.base.name: each.action for each in done.outcomes} == {
        raw_image.name: "kept",
        qcow2_image.name: "removed",
    }


def _age(path: Path) -> None:

    if path.is_file():
        os.utime(path, (0, 0))
