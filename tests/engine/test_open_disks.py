"""A disk that a guest has open: what is refused, and what the guest is kept from meanwhile."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.system import image_lock
from imgbackend.testing import oracle
from imgbackend.types import FileSource, Mi
from labs.engines import MakeEngine
from labs.templates import Template


def _source(path: Path, images_type: str) -> FileSource:
    return FileSource(path=path, format=images_type)


def test_force_removes_the_disk_of_a_running_guest(engine: Engine, raw_image: Template, images_type: str) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    with oracle.guest_on(_source(engine.host.path(disk.id), images_type)):
        with pytest.raises(errors.DiskBusy, match="stop its guest"):
            disk.remove()
        assert disk.exists()
        disk.remove(force=True)
    assert not disk.exists()


VERBS: dict[str, Callable[[Any, Path], object]] = {
    "remove": lambda disk, _target: disk.remove(),
    "resize": lambda disk, _target: disk.resize(512 * Mi),
    "create_snap": lambda disk, _target: disk.create_snap("second"),
    "rollback_to_snap": lambda disk, _target: disk.rollback_to_snap("first"),
    "remove_snap": lambda disk, _target: disk.remove_snap("first"),
    "flatten": lambda disk, _target: disk.flatten(),
    "extract": lambda disk, target: disk.extract(target, "qcow2"),
    "expect_closed": lambda disk, _target: _expect_closed(disk),
}


def _expect_closed(disk: Any) -> None:
    with disk.locked():
        disk.expect_closed()


@pytest.mark.parametrize("verb", VERBS)
def test_disk_that_a_guest_has_open_is_named_with_the_command_that_helps(
    make_engine: MakeEngine, raw_image: Template, tmp_path: Path, verb: str
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    disk: Any = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    disk.create_snap("first")
    if verb == "flatten":
        disk.remove_snap("first")
    told = r"^web1/disk: the disk is open in another process.*imgbackend instance stop web1\)$"
    with oracle.guest_on(_source(disk.path, "qcow2")), pytest.raises(errors.DiskOpen, match=told):
        VERBS[verb](disk, tmp_path / "copy")


def test_disk_of_a_running_guest_is_not_grown_by_creating_it_again(
    engine: Engine, raw_image: Template, images_type: str
) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    before = disk.info().size
    with oracle.guest_on(_source(engine.host.path(disk.id), images_type)):
        with pytest.raises(errors.DiskBusy):
            disk.cache(raw_image, raw_image.name, before + 64 * Mi)
        assert disk.cache(raw_image, raw_image.name).way == "exists"
    assert disk.info().size == before


def test_guest_does_not_start_on_a_disk_that_is_being_exported(
    make_engine: MakeEngine, raw_image: Template, tmp_path: Path
) -> None:
    """Of a container qemu-img holds the same lock, for as long as it reads."""
    engine = make_engine({"images_type": "raw"})
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    path, refusals = engine.host.path(disk.id), list[str]()

    def start_a_guest(phase: str, _done: int, _total: int | None) -> None:
        if phase == "extract" and not refusals:
            command = ["qemu-io", "-f", "raw", "-c", "write -P 0x55 0 64k", str(path)]
            guest = subprocess.run(command, capture_output=True, text=True, timeout=60)
            refusals.append(guest.stderr + guest.stdout)

    disk.extract(tmp_path / "copy", "raw", progress=start_a_guest)
    assert len(refusals) == 1
    assert 'Failed to get "write" lock' in refusals[0]
    oracle.expect(oracle.file_bytes(tmp_path / "copy", "raw", tmp_path), raw_image.content.read_bytes(), "the export")


def test_guest_does_not_open_a_file_that_is_kept_closed(engine: Engine, raw_image: Template, images_type: str) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    path = engine.host.path(disk.id)
    for mode in ("-r", "-n"):  # to read alone, and to write
        command = ["qemu-io", mode, "-f", images_type, "-c", "read 0 512", str(path)]
        with image_lock.kept_closed(path):
            guest = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert "lock" in guest.stderr
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    assert os.path.exists(path)
