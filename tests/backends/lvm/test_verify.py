"""Bases in a thin pool, compared with what was imported: read from their devices, put aside with their snapshots."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine
from imgbackend.cache.verify.of_folder import Verified
from imgbackend.types import Mi
from imgbackend_lvm.driver import ThinBackend
from labs.engines import MakeEngine
from labs.images import sparse_raw
from labs.lvm import Group, lvm
from labs.templates import Template
from labs.volumes import KilledError, emptied, options


def _only(done: list[Verified]) -> Verified:
    [found] = done
    return found


def _backend(engine: Engine) -> ThinBackend:
    found = engine.backend("lvm")
    assert isinstance(found, ThinBackend)
    return found


def _bytes(disk: Any) -> bytes:
    return bytes(disk.source().path.read_bytes())


def _damage(engine: Engine, image: Template, at: int) -> None:
    """One bit, as failing storage does."""
    backend = _backend(engine)
    volume = backend.bases.volume_of(image.name)
    name = f"{backend.group}/{volume}"
    lvm("lvchange", "-prw", name)
    lvm("lvchange", "-ay", "-K", name)
    fd = os.open(backend.device(volume), os.O_RDWR)
    try:
        byte = os.pread(fd, 1, at)[0]
        os.pwrite(fd, bytes([byte ^ 1]), at)
        os.fsync(fd)
    finally:
        os.close(fd)
    lvm("lvchange", "-an", name)
    lvm("lvchange", "-pr", name)


def test_base_is_sound_and_has_no_device_after_it(thin: Engine, raw_image: Template) -> None:
    thin.disk("vm").cache(raw_image, raw_image.name, 12 * Mi)
    found = _only(thin.cache.verify())
    assert (found.found, found.base.where, found.read >= 8 * Mi) == ("sound", "lvm", True)
    [base] = thin.cache.bases().bases
    assert base.verified is not None
    backend = _backend(thin)
    assert not backend.device(backend.bases.volume_of(raw_image.name)).exists()


def test_size_that_is_no_multiple_of_a_block_is_read_as_it_was_imported(thin: Engine, tmp_path: Path) -> None:
    image = Template(
        content=sparse_raw(tmp_path / "odd.raw", 5 * Mi + 513, data={5 * Mi + 500: b"end"}),
        image_id="odd",
        format="raw",
    )
    thin.disk("vm").cache(image, image.name)
    assert _only(thin.cache.verify()).found == "sound"


def test_bad_base_is_put_aside_and_its_disk_goes_on(
    lvm_group: Group, make_engine: MakeEngine, raw_image: Template
) -> None:
    at_once = {"image_cache.remove_unused_original_minimum_age_seconds": 0, "image_cache.lease_seconds": 0}
    thin = make_engine({"images_type": "lvm", **options(lvm_group), **at_once})
    try:
        whole = raw_image.content.read_bytes()
        thin.disk("vm1").cache(raw_image, raw_image.name)
        _damage(thin, raw_image, 0)
        found = _only(thin.cache.verify())
        assert (found.found, found.base.disks) == ("bad", ("vm1/disk",))
        assert _backend(thin).find_base(raw_image.name) is None
        assert thin.disk("vm2").cache(raw_image, raw_image.name).fetched
        assert _bytes(thin.disk("vm2")) == whole
        assert _bytes(thin.disk("vm1")) == whole, "the disk was made before the base was bad"
        now = {base.name: base for base in thin.cache.bases().bases}
        aside = now[str(found.aside)]
        assert (aside.bad, aside.users, aside.disks) == (found.reason, 1, ("vm1/disk",))
        assert now[raw_image.name].users == 1
        assert {each.base.name: each.action for each in thin.cache.prune().outcomes} == dict.fromkeys(now, "kept")
        thin.disk("vm1").remove()
        gone = {each.base.name: each.action for each in thin.cache.prune().outcomes}
        assert gone == {aside.name: "removed", raw_image.name: "kept"}
        assert _only(thin.cache.verify()).found == "sound"
    finally:
        emptied(thin)


def test_disk_is_made_of_a_base_while_it_is_read(thin: Engine, raw_image: Template) -> None:
    """By the same process, which holds no lock of the base's; nor does its open device stand in the way."""
    thin.disk("vm1").cache(raw_image, raw_image.name)
    made: list[str] = []

    def progress(_phase: str, done: int, _total: int | None) -> None:
        if done and not made:
            made.append(thin.disk("vm2").cache(raw_image, raw_image.name).way)

    assert _only(thin.cache.verify(progress=progress)).found == "sound"
    assert made == ["snapshot"]
    assert _bytes(thin.disk("vm2")) == raw_image.content.read_bytes()


def test_two_who_read_one_base_take_no_device_away_from_each_other(thin: Engine, raw_image: Template) -> None:
    thin.disk("vm1").cache(raw_image, raw_image.name)
    backend = _backend(thin)
    with contextlib.closing(backend.read_base(raw_image.name)) as first:
        next(first)
        assert _only(thin.cache.verify()).found == "sound"
        assert sum(len(data) for _, data in first) == 4 * Mi
    assert not backend.device(backend.bases.volume_of(raw_image.name)).exists()


@pytest.mark.parametrize("tool", ["lvchange", "lvrename"])
def test_putting_aside_that_was_killed_stands_in_nobodys_way(
    thin: Engine, raw_image: Template, stop_at: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    thin.disk("vm1").cache(raw_image, raw_image.name)
    aside = "b" * 40
    with monkeypatch.context():
        stop_at(tool, 1)
        with pytest.raises(KilledError):
            _backend(thin).rename_base(raw_image.name, aside, {"bad": "a bit"})
    monkeypatch.undo()
    backend = _backend(thin)
    assert {base.name for base in backend.list_bases()} == {raw_image.name if tool == "lvchange" else aside}
    made = thin.disk("vm2").cache(raw_image, raw_image.name)
    assert made.fetched == (tool == "lvrename")
    assert _bytes(thin.disk("vm2")) == raw_image.content.read_bytes()
    if tool == "lvrename":
        assert {base.name: base.children for base in backend.list_bases()} == {aside: 1, raw_image.name: 1}
