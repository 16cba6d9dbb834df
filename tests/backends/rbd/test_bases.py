"""Bases in a pool that several hosts use: imported once, visible when whole, never lost to a race."""

import contextlib
import json
import os
import time
from pathlib import Path

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, emptied, options, read
from imgbackend import Engine, errors
from imgbackend.testing.children import Child
from imgbackend.types import ImageInfo, Mi, Progress, ignore
from imgbackend_rbd import headers, images
from imgbackend_rbd.bases import SNAPSHOT, image_of
from imgbackend_rbd.images import Patience
from imgbackend_rbd.lock import StoreLock, object_of
from labs.ceph import Cluster
from labs.templates import Template

_CROWD = 16
_AT_ONCE = Patience(retries=0, interval=0)


def test_sixteen_processes_on_two_hosts_import_once(
    rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path, raw_image: Template, raw_content: Path
) -> None:
    def make(number: int) -> None:
        told = options(rbd_cluster, tmp_path / ("one", "two")[number % 2], rbd_pool, {})
        with Engine.from_config([], told) as engine:
            engine.disk(f"web{number}").cache(raw_image, raw_image.name, 9 * Mi)

    crowd = [Child(lambda number=number: make(number), watched=False) for number in range(_CROWD)]  # type: ignore[misc]  # its number is bound as a default
    assert [child.outcome().error for child in crowd] == [None] * _CROWD
    assert raw_image.fetches == 1
    with Engine.from_config([], options(rbd_cluster, tmp_path / "one", rbd_pool, {})) as engine:
        backend = backend_of(engine)
        [base] = backend.list_bases()
        assert (base.name, base.children) == (raw_image.name, _CROWD)
        wanted = raw_content.read_bytes() + bytes(Mi)
        for number in range(_CROWD):
            assert read(disk_of(engine, f"web{number}"), tmp_path) == wanted
        assert len(list(backend.list_disks())) == _CROWD
        emptied(engine)
    assert not any((tmp_path / name / "_base" / raw_image.name).exists() for name in ("one", "two"))


def test_killed_importer_blocks_nobody_for_long_and_its_leftover_is_cleared(
    hosts: Hosts, rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path, raw_image: Template, raw_content: Path
) -> None:
    def make() -> None:
        with Engine.from_config([], options(rbd_cluster, tmp_path / "two", rbd_pool, {})) as engine:
            engine.disk("web1").cache(raw_image, raw_image.name, progress=_killed_while_importing)

    ended = Child(make, watched=False).outcome()
    assert ended.killed
    engine = hosts("one")
    backend = backend_of(engine)
    assert backend.find_base(raw_image.name) is None
    assert list(backend.list_bases()) == []
    headers.identity(backend.ioctx, image_of(raw_image.name))  # it got so far
    _expire(backend.pool, engine, raw_image.name)
    assert disk_of(engine, "web1").cache(raw_image, raw_image.name).fetched
    assert read(disk_of(engine, "web1"), tmp_path) == raw_content.read_bytes()
    emptied(engine)


def test_lock_of_a_killed_importer_goes_with_its_base(engine: Engine, raw_image: Template) -> None:
    """It was killed when the base was visible, so nobody takes the lock again, who would remove it."""
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    backend, held = backend_of(engine), object_of(raw_image.name)
    backend.ioctx.lock_exclusive(held, "imgbackend", "of somebody who is gone", duration=600)
    with pytest.raises(errors.DiskBusy):
        backend.remove_base(raw_image.name)
    backend.ioctx.stat(held)
    disk_of(engine, "web1").remove()
    with backend.store_lock("another"):
        backend.remove_base(raw_image.name)
    with pytest.raises(backend.cluster.absent):
        backend.ioctx.stat(held)


def test_base_can_be_removed_under_its_lock(engine: Engine, raw_image: Template) -> None:
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    disk_of(engine, "web1").remove()
    backend = backend_of(engine)
    with backend.store_lock(raw_image.name):
        backend.remove_base(raw_image.name)
    with pytest.raises(backend.cluster.absent):
        backend.ioctx.stat(object_of(raw_image.name))


def _killed_while_importing(phase: str, done: int, _total: int | None) -> None:
    if phase == "import" and done:
        os.kill(os.getpid(), 9)


def _expire(pool: str, engine: Engine, name: str) -> None:
    """The lock of who was killed lives half a minute; what is tested here is what comes after."""
    cluster = backend_of(engine).cluster
    waited: list[float] = []

    def wait(_phase: str, _done: int, _total: int | None) -> None:
        waited.append(time.monotonic())
        assert waited[-1] - waited[0] < 60, "the lock does not expire"

    with StoreLock(cluster, pool, name, 30).held(wait):
        pass
    assert waited, "the lock was not held"


def test_cancelled_import_leaves_nothing(engine: Engine, raw_image: Template) -> None:
    class CancelledError(Exception):
        pass

    def cancel(phase: str, done: int, _total: int | None) -> None:
        if phase == "import" and done:
            raise CancelledError

    with pytest.raises(CancelledError):
        disk_of(engine, "web1").cache(raw_image, raw_image.name, progress=cancel)
    backend = backend_of(engine)
    with pytest.raises(backend.cluster.absent):
        headers.identity(backend.ioctx, image_of(raw_image.name))
    assert disk_of(engine, "web1").cache(raw_image, raw_image.name).fetched
    emptied(engine)


def test_import_whose_lock_was_lost_is_not_published(engine: Engine, raw_image: Template) -> None:
    backend = backend_of(engine)

    def lose(phase: str, done: int, _total: int | None) -> None:
        if phase == "import" and done:
            with contextlib.suppress(*backend.cluster.absent):
                backend.ioctx.remove_object(f"imgbackend.lock.{raw_image.name}")

    with pytest.raises(errors.StorageUnavailable, match="was lost"):
        disk_of(engine, "web1").cache(raw_image, raw_image.name, progress=lose)
    assert backend.find_base(raw_image.name) is None
    assert not disk_of(engine, "web1").exists()
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    emptied(engine)


def test_lock_is_renewed_while_it_is_held(engine: Engine) -> None:
    backend = backend_of(engine)
    backend.list_disks()
    with StoreLock(backend.cluster, backend.pool, "renewed", 4).held(_never) as lock:
        time.sleep(6)
        lock.check()
        with pytest.raises(_WaitingError), StoreLock(backend.cluster, backend.pool, "renewed", 4).held(_waiting):
            pass


class _WaitingError(Exception):
    """Instead of waiting."""


def _never(_phase: str, _done: int, _total: int | None) -> None:
    raise AssertionError("nobody else has the lock")


def _waiting(_phase: str, _done: int, _total: int | None) -> None:
    raise _WaitingError


def test_base_that_goes_before_the_clone_is_imported_again(
    engine: Engine, hosts: Hosts, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    disk_of(engine, "web1").remove()
    other = backend_of(hosts("two"))
    gone: list[str] = []
    disk = disk_of(engine, "web2")
    real = disk.plan

    def plan(*arguments: object) -> object:
        """Called when the base was found, and before it is cloned."""
        if not gone:
            other.remove_base(raw_image.name)
            gone.append(raw_image.name)
        return real(*arguments)  # type: ignore[arg-type]  # passed on as they came

    disk.plan = plan  # type: ignore[method-assign, assignment]  # the moment between two of the engine's calls
    assert disk.cache(raw_image, raw_image.name).fetched
    assert raw_image.fetches == 2
    assert read(disk, tmp_path) == raw_content.read_bytes()
    emptied(engine)


@pytest.mark.parametrize("clones", ["1", "2"])
def test_base_is_not_removed_while_disks_hang_on_it(
    engine: Engine, raw_image: Template, raw_content: Path, tmp_path: Path, clones: str
) -> None:
    backend = backend_of(engine)
    backend.cluster.set("rbd_default_clone_format", clones)
    disk = disk_of(engine, "web1")
    disk.cache(raw_image, raw_image.name)
    with pytest.raises(errors.DiskBusy, match=f"{backend.pool}/web1_disk"):
        backend.remove_base(raw_image.name)
    assert backend.find_base(raw_image.name) is not None
    assert read(disk, tmp_path) == raw_content.read_bytes()
    disk.flatten()
    backend.remove_base(raw_image.name)
    assert backend.find_base(raw_image.name) is None
    assert read(disk, tmp_path) == raw_content.read_bytes()
    disk.remove()


def test_base_that_is_cloned_while_it_is_removed_stays(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    """A clone of format 2 needs no protected snapshot; the base is whole again for the next one."""
    backend = backend_of(engine)
    backend.cluster.set("rbd_default_clone_format", "2")
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    disk_of(engine, "web1").remove()
    real = images.refuse_open

    def cloned_meanwhile(*arguments: object) -> None:
        monkeypatch.setattr(images, "refuse_open", real)
        cluster = backend.cluster
        cluster.rbd().clone(backend.ioctx, image_of(raw_image.name), SNAPSHOT, backend.ioctx, "meanwhile")
        real(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(images, "refuse_open", cloned_meanwhile)
    with pytest.raises(errors.DiskBusy):
        backend.remove_base(raw_image.name)
    assert backend.find_base(raw_image.name) is not None
    disk = disk_of(engine, "web2")
    assert not disk.cache(raw_image, raw_image.name).fetched
    assert read(disk, tmp_path) == raw_content.read_bytes()
    images.purge(backend.cluster, backend.pool, "meanwhile", _AT_ONCE)
    emptied(engine)


def test_clone_in_the_trash_counts_and_is_told(engine: Engine, raw_image: Template) -> None:
    backend = backend_of(engine)
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    backend.cluster.rbd().trash_move(backend.ioctx, "web1_disk", 0)
    with pytest.raises(errors.DiskBusy, match="in the trash"):
        backend.remove_base(raw_image.name)
    [trashed] = backend.cluster.rbd().trash_list(backend.ioctx)
    backend.cluster.rbd().trash_remove(backend.ioctx, trashed["id"])
    backend.remove_base(raw_image.name)
    disk_of(engine, "web1").remove()


def test_tags_and_uses_are_seen_by_other_hosts(engine: Engine, hosts: Hosts, raw_image: Template) -> None:
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    ours = backend_of(engine).find_base(raw_image.name)
    theirs = backend_of(hosts("two"))
    seen = theirs.find_base(raw_image.name)
    assert seen is not None
    assert seen == ours
    assert seen.tags["image_id"] == raw_image.image_id
    image_id = headers.identity(theirs.ioctx, image_of(raw_image.name))
    mark = json.loads(headers.read(theirs.ioctx, image_id, ("imgbackend.base",)).metadata["imgbackend.base"])
    aged = json.dumps({**mark, "time": mark["time"] - 7200})
    headers.set_metadata(theirs.ioctx, image_id, "imgbackend.base", aged)
    third = backend_of(hosts("three"))
    found = third.find_base(raw_image.name)
    assert found is not None
    assert found.touched == seen.touched - 7200
    third.touch_base(raw_image.name)
    noted = theirs.find_base(raw_image.name)
    assert noted is not None
    assert noted.touched > seen.touched
    emptied(engine)


def test_holes_and_zeroes_of_a_base_take_no_room(engine: Engine, tmp_path: Path) -> None:
    content = tmp_path / "sparse.raw"
    with content.open("wb") as file:
        file.write(os.urandom(4096))
        file.write(bytes(16 * Mi))  # zeroes, and no hole
        file.truncate(64 * Mi)
    image = Template(content=content, image_id="sparse", format="raw")
    disk_of(engine, "web1").cache(image, image.name)
    found = backend_of(engine).find_base(image.name)
    assert found is not None
    assert (found.size, found.allocated) == (64 * Mi, 4 * Mi)
    assert disk_of(engine, "web1").info().allocated == 0
    emptied(engine)


def test_leftover_that_has_clones_is_taken_for_the_base_it_was(
    engine: Engine, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    """A removal that was killed after it hid the base, while a disk was cloned of it."""
    backend = backend_of(engine)
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    image_id = headers.identity(backend.ioctx, image_of(raw_image.name))
    headers.remove_metadata(backend.ioctx, image_id, "imgbackend.base")
    assert backend.find_base(raw_image.name) is None
    imported: list[int] = []

    def progress(phase: str, done: int, _total: int | None) -> None:
        if phase == "import":
            imported.append(done)

    disk = disk_of(engine, "web2")
    told: Progress = progress
    disk.cache(raw_image, raw_image.name, progress=told)
    assert imported == []
    assert headers.identity(backend.ioctx, image_of(raw_image.name)) == image_id
    assert read(disk, tmp_path) == raw_content.read_bytes()
    emptied(engine)


def test_base_that_lost_its_mark_and_has_other_bytes_is_put_aside_and_imported_anew(
    engine: Engine, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    """Its clones go on; what is imported under its name has the bytes that its tags say."""
    backend = backend_of(engine)
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    image_id = headers.identity(backend.ioctx, image_of(raw_image.name))
    headers.remove_metadata(backend.ioctx, image_id, "imgbackend.base")
    other = tmp_path / "other.raw"
    other.write_bytes(os.urandom(8 * Mi))
    backend.import_base(raw_image.name, other, ImageInfo(format="raw", virtual_size=8 * Mi), {"digest": "new"}, ignore)
    assert headers.identity(backend.ioctx, image_of(raw_image.name)) != image_id
    assert b"".join(bytes(data) for _, data in backend.read_base(raw_image.name)) == other.read_bytes()
    assert read(disk_of(engine, "web1"), tmp_path) == raw_content.read_bytes()
    aside = next(base for base in backend.list_bases() if base.name != raw_image.name)
    assert (aside.identity, aside.children, aside.tags["was"]) == (image_id, 1, raw_image.name)
    assert "bytes" in aside.tags["bad"]
    emptied(engine)


def test_importer_that_lost_its_lock_leaves_the_base_that_another_published(
    engine: Engine, hosts: Hosts, raw_image: Template, raw_content: Path
) -> None:
    ours, theirs = backend_of(engine), backend_of(hosts("two"))
    info = ImageInfo(format="raw", virtual_size=8 * Mi)

    def lost() -> None:
        """Stood still for half a minute: another importer cleared this one's image, and was quicker."""
        images.purge(theirs.cluster, theirs.pool, image_of(raw_image.name), _AT_ONCE)
        theirs.import_base(raw_image.name, raw_content, info, {"of": "two"}, ignore)
        raise errors.StorageUnavailable("the lock was lost")

    with pytest.raises(errors.StorageUnavailable):
        ours._bases.put(raw_image.name, raw_content, info, {"of": "one"}, ignore, lost)
    found = ours.find_base(raw_image.name)
    assert found is not None
    assert found.tags == {"of": "two"}
    emptied(engine)


def test_every_request_is_waited_for_when_one_fails(engine: Engine, raw_content: Path) -> None:
    """Their bytes are librbd's until then."""
    backend = backend_of(engine)
    backend.cluster.rbd().create(backend.ioctx, "web9_disk", 8 * Mi, old_format=False)
    window = images._Window()

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with backend.cluster.image(backend.pool, "web9_disk") as image:
        for at in range(0, 8 * Mi, Mi):
            window.add(image.aio_write(b"x" * Mi, at, lambda _completion: None), fail)
        with pytest.raises(OSError, match="No space left"):
            window.__exit__(None, None, None)
        assert len(window._pending) == 0
    images.purge(backend.cluster, backend.pool, "web9_disk", _AT_ONCE)
