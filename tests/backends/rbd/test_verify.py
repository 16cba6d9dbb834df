"""Bases in a pool of Ceph, compared with what was imported: read from their snapshots, put aside with their clones."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, emptied, read
from imgbackend import Engine, errors
from imgbackend.cache.verify.of_folder import Verified
from imgbackend.types import Mi
from imgbackend_rbd import headers, names
from imgbackend_rbd.bases import image_of
from labs.images import sparse_raw
from labs.templates import Template


def _only(done: list[Verified]) -> Verified:
    [found] = done
    return found


def _damage(engine: Engine, image: Template) -> None:
    """A bit of the first object, below librbd and its snapshots."""
    ioctx: Any = backend_of(engine).ioctx
    name = f"rbd_data.{headers.identity(ioctx, image_of(image.name))}.{0:016x}"
    byte = ioctx.read(name, 1)[0]
    ioctx.write(name, bytes([byte ^ 1]))


def test_base_is_sound_and_another_host_sees_when(hosts: Hosts, raw_image: Template) -> None:
    one, two = hosts("one"), hosts("two")
    disk_of(one, "web1").cache(raw_image, raw_image.name, 12 * Mi)
    found = _only(one.cache.verify())
    assert (found.found, found.base.where, 0 < found.read <= 8 * Mi) == ("sound", "rbd", True)
    [base] = two.cache.bases().bases
    assert base.verified is not None
    assert _only(two.cache.verify()).found == "sound"
    emptied(one)


def test_size_that_is_no_multiple_of_an_object_is_read_as_it_was_imported(engine: Engine, tmp_path: Path) -> None:
    image = Template(
        content=sparse_raw(tmp_path / "odd.raw", 65 * Mi + 513, data={0: b"begin", 65 * Mi + 500: b"end"}),
        image_id="odd",
        format="raw",
    )
    disk_of(engine, "web1").cache(image, image.name)
    found = _only(engine.cache.verify())
    assert (found.found, found.read <= 8 * Mi) == ("sound", True), "objects that are not there were read"
    emptied(engine)


def test_what_is_written_above_the_snapshot_condemns_nothing(engine: Engine, raw_image: Template) -> None:
    """Disks are clones of the snapshot, and it is the snapshot that is read."""
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    backend = backend_of(engine)
    with backend.cluster.image(backend.pool, image_of(raw_image.name)) as opened:
        image: Any = opened
        image.write(b"scribbled", 0)
    assert _only(engine.cache.verify()).found == "sound"
    emptied(engine)


def test_bad_base_is_put_aside_and_its_disk_goes_on(hosts: Hosts, raw_image: Template, tmp_path: Path) -> None:
    at_once = {"remove_unused_original_minimum_age_seconds": 0, "lease_seconds": 0}
    one, two = hosts("one"), hosts("two")
    for key, value in at_once.items():
        one.conf.set_override(key, value, "image_cache")
    disk = disk_of(one, "web1")
    disk.cache(raw_image, raw_image.name)
    _damage(one, raw_image)
    damaged = read(disk, tmp_path)
    assert damaged != raw_image.content.read_bytes(), "nothing was damaged: the test tells nothing"
    found = _only(one.cache.verify())
    assert (found.found, found.base.disks) == ("bad", ("web1/disk",))
    assert backend_of(two).find_base(raw_image.name) is None
    assert disk_of(two, "web2").cache(raw_image, raw_image.name).fetched
    assert read(disk_of(two, "web2"), tmp_path) == raw_image.content.read_bytes()
    assert read(disk, tmp_path) == damaged, "the disk on it reads something else than before"
    now = {base.name: base for base in one.cache.bases().bases}
    aside = now[str(found.aside)]
    assert (aside.bad, aside.users, aside.disks) == (found.reason, 1, ("web1/disk",))
    assert now[raw_image.name].users == 1
    backend = backend_of(one)
    with pytest.raises(errors.DiskBusy):
        backend.remove_base(aside.name)
    disk.remove()
    backend.remove_base(aside.name)
    assert {base.name for base in one.cache.bases().bases} == {raw_image.name}
    assert _only(one.cache.verify()).found == "sound"
    emptied(two)


def test_base_that_another_host_removes_while_it_is_read_is_not_condemned(hosts: Hosts, raw_image: Template) -> None:
    """What is not there reads as zeroes; and a fresh copy has its name when the verdict is found."""
    one, two = hosts("one"), hosts("two")
    disk_of(one, "web1").cache(raw_image, raw_image.name)
    disk_of(one, "web1").remove()
    done: list[str] = []

    def progress(_phase: str, at: int, _total: int | None) -> None:
        if not at and not done:
            done.append("removed")
            backend_of(two).remove_base(raw_image.name)
            disk_of(two, "web2").cache(raw_image, raw_image.name)

    found = _only(one.cache.verify(progress=progress))
    assert done
    assert found.found in ("skipped", "unreadable"), found
    assert {base.name: base.bad for base in one.cache.bases().bases} == {raw_image.name: None}
    emptied(two)


def test_putting_aside_that_was_killed_stands_in_nobodys_way(
    engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as its name is changed no disk is made of it, and what is wrong with it is told."""
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    backend, aside, rename = backend_of(engine), "b" * 40, names.rename

    def killed_after(ioctx: Any, image_id: str, before: str, after: str, absent: Any) -> None:
        rename(ioctx, image_id, before, after, absent)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(names, "rename", killed_after)
        with pytest.raises(KeyboardInterrupt):
            backend.rename_base(raw_image.name, aside, {"bad": "a bit"})
    assert {base.name: (base.children, base.tags["bad"]) for base in backend.list_bases()} == {aside: (1, "a bit")}
    assert disk_of(engine, "web2").cache(raw_image, raw_image.name).fetched
    assert {base.name: base.children for base in backend.list_bases()} == {aside: 1, raw_image.name: 1}
    emptied(engine)


def test_reading_that_is_broken_off_lets_go(engine: Engine, raw_image: Template) -> None:
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    backend = backend_of(engine)
    with contextlib.closing(backend.read_base(raw_image.name)) as begun:
        next(begun)
    emptied(engine)
    with pytest.raises(errors.BaseMissing):
        next(backend.read_base(raw_image.name))
