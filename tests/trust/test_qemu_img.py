"""qemu-img is told every format, has limits, is nobody, and does not outlive what it is allowed."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine
from imgbackend.driver.abilities import Flattenable, Snapshottable
from imgbackend.errors import CommandFailed, ConfigError
from imgbackend.types import Mi
from labs.corpus import filled
from trust.conftest import MakeEngine, assert_nothing_left, assert_one_line
from trust.fake import Call, FakeQemuImg, fake_qemu_img

_KNOWN = {"raw", "qcow2", "vmdk", "vpc", "vhdx", "vdi"}


@pytest.fixture
def fake() -> Iterator[FakeQemuImg]:
    with fake_qemu_img() as made:
        yield made


def _life(engine: Engine, instance: str, image_file: Path) -> None:
    """All that qemu-img is ever asked to do."""
    image = engine.image(str(image_file))
    disk = engine.disk(instance)
    size = disk.cache(image, image.filename).size
    disk.resize(size + Mi)
    disk.extract(engine.host.instances / f"{instance}.out.raw", "raw")
    disk.extract(engine.host.instances / f"{instance}.out.qcow2", "qcow2", compress=True)
    if isinstance(disk, Snapshottable):
        disk.create_snap("before")
        disk.rollback_to_snap("before")
        disk.remove_snap("before")
    if isinstance(disk, Flattenable):
        disk.flatten()
    disk.remove()


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Call]:
    """Of whole lives of disks: both drivers, bases raw and qcow2, containers of all kinds."""
    root = tmp_path_factory.mktemp("lives")
    kinds = {"a.qcow2": "qcow2", "a.vmdk": "vmdk", "a.vhd": "vpc", "a.vhdx": "vhdx", "a.vdi": "vdi"}
    for file, kind in kinds.items():
        filled(root / file, kind)
    with fake_qemu_img() as fake:
        fake.records()
        for images_type, force_raw, files in (
            ("qcow2", True, ["a.vmdk", "a.vhd"]),
            ("qcow2", False, ["a.qcow2"]),
            ("raw", True, ["a.vhdx", "a.vdi"]),
            ("raw", False, ["a.qcow2"]),
        ):
            told = {"images_type": images_type, "force_raw_images": force_raw, "durable_disks": False}
            place = root / f"{images_type}-{force_raw}"
            with Engine.from_config([], {**told, "instances_path": str(place)}) as engine:
                for file in files:
                    _life(engine, file, root / file)
        return fake.calls


def test_every_format_is_told(calls: list[Call]) -> None:
    assert {call.argv[0] for call in calls} == {"info", "check", "convert", "create", "resize", "snapshot", "rebase"}
    for call in calls:
        for spec in call.specs:
            _assert_explicit(spec)
        words = iter(call.argv[1:])
        for word in words:
            if word in {"-f", "-F", "-O"}:
                assert next(words) in _KNOWN
            elif word == "-b":
                assert next(words) == "" or ("-u" in call.argv and "-F" in call.argv)
            elif word.startswith("/"):
                assert word.startswith("/proc/self/fd/")
                assert call.argv[0] == ("create" if "-f" in call.argv else "convert")
                assert "-f" in call.argv or "-O" in call.argv
        if call.argv[0] not in {"create"}:
            assert call.specs, call.argv


def _assert_explicit(spec: dict[str, Any]) -> None:
    """Each layer names its driver, its file by a descriptor, and what is behind it, if only nothing."""
    assert spec["driver"] in _KNOWN
    assert spec["file"]["driver"] == "file"
    assert spec["file"]["filename"].startswith("/proc/self/fd/")
    if spec["driver"] in {"qcow2", "vmdk"}:
        assert "backing" in spec
        if spec["backing"] is not None:
            _assert_explicit(spec["backing"])


def test_every_call_has_limits(calls: list[Call]) -> None:
    for call in calls:
        assert call.facts["Max cpu time"][0] != "unlimited"
        assert call.facts["Max address space"][0] != "unlimited"
        assert call.facts["Max core file size"][0] == "0"
        if call.argv[0] == "convert":
            assert int(call.facts["Max file size"][0]) <= 2 * Mi + 128 * Mi


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_never_reads_a_container_as_root(calls: list[Call]) -> None:
    nobody = pwd.getpwnam("nobody")
    for call in calls:
        assert call.facts["Uid"] == [str(nobody.pw_uid)] * 4
        assert call.facts["Gid"] == [str(nobody.pw_gid)] * 4
        assert call.facts["CapEff"] == ["0" * 16]
        assert call.facts["NoNewPrivs"] == ["1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_foreign_image_is_read_without_any_group(calls: list[Call]) -> None:
    for call in calls:
        if call.argv[0] in {"info", "check"}:
            assert [group for groups in call.facts["Groups"] for group in groups.split()] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("user", ["root", "no-such-user-here"])
def test_unprivileged_user_must_be_another(user: str, make_engine: MakeEngine, images: Path, instances: Path) -> None:
    filled(images / "a.qcow2", "qcow2")
    engine = make_engine(unprivileged_user=user)
    image = engine.image("a.qcow2")
    with pytest.raises(ConfigError, match="unprivileged_user"):
        engine.disk("web1").cache(image, image.filename)
    assert_nothing_left(instances)


_CALLS_REAL = 'exec "{real}" "$@"\n'
_LIMITS = {
    "cpu": ("info", "while :; do :; done", "limit of 1 s of CPU time"),
    "memory": ("info", "exec perl -e '$n = 8 << 30; $x = chr(1) x $n'", "limit of 1073741824 bytes of memory"),
    "size": ("convert", 'for file; do :; done; exec head -c 300M /dev/zero >"$file"', "bytes in a file"),
    "stall": ("info", "exec sleep 600", "did nothing for 1 s"),
    "output": ("info", "exec yes", "printed more than"),
    "complaints": ("check", "exec yes >&2", "printed more than"),
}


@pytest.mark.parametrize("limit", _LIMITS)
def test_limit_that_fires_is_named(
    limit: str, fake: FakeQemuImg, make_engine: MakeEngine, images: Path, instances: Path
) -> None:
    filled(images / "a.qcow2", "qcow2")
    command, script, told = _LIMITS[limit]
    fake.does(f'#!/bin/sh\n[ "$1" = {command} ] || exec "{fake.real}" "$@"\n{script}\n')
    engine = make_engine(qemu_img_cpu_seconds=1, qemu_img_address_space=1, qemu_img_stall_seconds=1)
    image = engine.image("a.qcow2")
    with pytest.raises(CommandFailed) as caught:
        engine.disk("web1").cache(image, image.filename)
    assert caught.value.reason is not None
    assert told in caught.value.reason
    assert_one_line(caught.value)
    assert_nothing_left(instances)
