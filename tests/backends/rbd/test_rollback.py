"""A rollback that is going on, or was broken off: no guest sees half of it, and nothing written since is lost."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, emptied, options, read
from imgbackend import Engine, errors
from imgbackend.testing import oracle
from imgbackend.testing.children import Child
from imgbackend.types import Ki, Mi
from imgbackend_rbd import headers, images, rollback
from imgbackend_rbd.disk import RbdDisk
from imgbackend_rbd.images import Patience
from labs.ceph import Cluster
from labs.templates import Template

_BEFORE, _SINCE = 0x66, 0x47


@pytest.fixture
def made(engine: Engine, raw_image: Template) -> Iterator[RbdDisk]:
    """The disk ``web1``: its snapshot ``kept`` is the image, and then a guest wrote all of it."""
    disk = disk_of(engine, "web1")
    disk.cache(raw_image, raw_image.name)
    disk.create_snap("kept")
    oracle.write(disk.source(), 0, 8 * Mi, _BEFORE)
    yield disk
    emptied(engine)


@pytest.fixture
def killed(rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path, made: RbdDisk) -> None:
    """A rollback of that disk was killed when its first objects were copied back."""

    def half(*_arguments: object, **_named: object) -> None:
        with Engine.from_config([], options(rbd_cluster, tmp_path / "one", rbd_pool, {})) as engine:
            backend = backend_of(engine)
            image_id = disk_of(engine, "web1").identity()
            assert image_id is not None
            with backend.cluster.image(backend.pool, "web1_disk", image_id=image_id) as image:
                image.write(b"half", 0)
        os.kill(os.getpid(), 9)

    def roll_back() -> None:
        with Engine.from_config([], options(rbd_cluster, tmp_path / "one", rbd_pool, {})) as engine:
            rollback._copy_back = half  # the moment between two of librbd's requests
            disk_of(engine, "web1").rollback_to_snap("kept")

    ended = Child(roll_back, watched=False).outcome()
    assert ended.killed, ended.error
    assert made.exists()


def _try_to_write(disk: RbdDisk) -> bool:
    try:
        oracle.write(disk.source(), 0, 64 * Ki, _SINCE)
    except Exception:
        return False
    return True


@pytest.mark.usefixtures("killed")
def test_what_a_guest_writes_after_a_killed_rollback_is_not_lost(
    made: RbdDisk, engine: Engine, hosts: Hosts, raw_content: Path, tmp_path: Path
) -> None:
    """It cannot be started on half a disk; so there is nothing that the next call could take away."""
    written = _try_to_write(made)
    for look in (made.exists, made.info, engine.cache.prune, hosts("two").cache.prune, made.snaps):
        look()
    wanted = raw_content.read_bytes()
    if written:
        wanted = bytes([_SINCE]) * 64 * Ki + wanted[64 * Ki :]
    assert read(made, tmp_path) == wanted
    assert not written


@pytest.mark.usefixtures("killed")
def test_who_looks_at_a_broken_rollback_changes_nothing_and_who_finishes_it_says_so(
    made: RbdDisk, engine: Engine, hosts: Hosts, raw_content: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = backend_of(engine)
    pointed = headers.identity(backend.ioctx, made.image)
    image_id = made.identity()
    assert image_id is not None
    with caplog.at_level(logging.WARNING):
        for host in (engine, hosts("two")):
            assert disk_of(host, "web1").info().size == 8 * Mi
            host.cache.leftovers(remove=True)
            host.cache.prune()
            assert made.id in set(backend.list_disks())
    with backend.cluster.image(backend.pool, made.image, image_id=image_id, read_only=True) as image:
        assert image.read(0, 8) == b"half" + bytes([_BEFORE]) * 4
    assert headers.identity(backend.ioctx, made.image) == pointed
    assert "rollback" not in caplog.text
    with caplog.at_level(logging.WARNING):
        made.snaps()
    assert f"The rollback of {backend.pool}/web1_disk was broken off" in caplog.text
    assert read(made, tmp_path) == raw_content.read_bytes()
    assert made.identity() == image_id


@pytest.mark.usefixtures("killed")
def test_disk_that_is_half_rolled_back_can_be_removed(made: RbdDisk) -> None:
    made.remove()
    assert not made.exists()
    assert made.identity() is None


def test_no_guest_can_open_a_disk_that_is_being_rolled_back(
    made: RbdDisk, monkeypatch: pytest.MonkeyPatch, raw_content: Path, tmp_path: Path
) -> None:
    real, opened = rollback._copy_back, []

    def copy_back(*arguments: object, rebuilt: bool) -> None:
        opened.append(_try_to_write(made))
        real(*arguments, rebuilt=rebuilt)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(rollback, "_copy_back", copy_back)
    made.rollback_to_snap("kept")
    assert opened == [False]
    assert read(made, tmp_path) == raw_content.read_bytes()


def test_guest_that_is_started_just_before_a_rollback_keeps_its_disk(
    made: RbdDisk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The look at who has it open came too early, and the next one is when nobody else can come."""
    backend, real = made.backend, images.refuse_open
    monkeypatch.setattr(images, "A_MOMENT", Patience(retries=0, interval=0))

    def look_too_early(*arguments: object) -> None:
        if len(arguments) == 5:
            real(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(images, "refuse_open", look_too_early)
    with backend.cluster.image(backend.pool, made.image), pytest.raises(errors.DiskBusy, match="open at"):
        made.rollback_to_snap("kept")
    monkeypatch.undo()
    assert read(made, tmp_path) == bytes([_BEFORE]) * 8 * Mi


def test_metadata_that_a_clone_has_of_its_parent_begin_no_rollback(made: RbdDisk, tmp_path: Path) -> None:
    backend = made.backend
    image_id = made.identity()
    assert image_id is not None
    headers.set_metadata(backend.ioctx, image_id, "imgbackend.rollback", "kept")
    assert made.exists()
    made.snaps()
    assert read(made, tmp_path) == bytes([_BEFORE]) * 8 * Mi


def test_identity_is_of_the_image_that_has_the_name_now(made: RbdDisk, raw_image: Template) -> None:
    first = made.identity()
    made.rollback_to_snap("kept")
    assert made.identity() == first
    made.remove()
    assert made.identity() is None
    made.cache(raw_image, raw_image.name)
    assert made.identity() not in (None, first)


def test_disk_whose_image_has_no_lock_against_a_host_that_hangs_is_not_rolled_back(
    made: RbdDisk, tmp_path: Path
) -> None:
    """As images have that were made where the cluster's default features are layering alone."""
    backend, before = made.backend, read(made, tmp_path)
    with backend.cluster.image(backend.pool, made.image) as image:
        every = (1 << 6) | (1 << 4) | (1 << 3)  # journaling, fast-diff, object-map: they need the lock
        image.update_features(image.features() & every, False)
        image.update_features(1 << 2, False)
    with pytest.raises(errors.DiskError, match=f"rbd feature enable {backend.pool}/web1_disk exclusive-lock"):
        made.rollback_to_snap("kept")
    assert read(made, tmp_path) == before
    with backend.cluster.image(backend.pool, made.image) as image:
        image.update_features(1 << 2, True)
    made.rollback_to_snap("kept")
    assert read(made, tmp_path) != before
