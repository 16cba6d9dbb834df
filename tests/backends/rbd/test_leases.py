"""Who is at an image is told by a lease that the store lets run out, and never by the clock of a host."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, emptied, options, read
from imgbackend import Engine, errors
from imgbackend.cache.garbage.collect import Leftover
from imgbackend.testing.children import Child
from imgbackend_rbd import headers, lock
from imgbackend_rbd.bases import SNAPSHOT, image_of
from imgbackend_rbd.disk import RbdDisk
from imgbackend_rbd.locations import ImagePlace
from labs.ceph import Cluster
from labs.templates import Template

_DAY = 25 * 3600.0
_SECONDS = 60.0


class Maker:
    """The host ``two``, which makes the disk ``web2`` and stands still in the middle, its lease renewed."""

    def __init__(self, told: dict[str, object], folder: Path, image: Template, *, ago: float, lease: float) -> None:
        self.begun, self.going_on = folder / "begun", folder / "going-on"

        def stand_still(disk: RbdDisk, image_id: str) -> None:
            self.begun.write_text(str(os.getpid()))
            _await(self.going_on.exists)
            RbdDisk._mark(disk, image_id)

        def make() -> None:
            lock._LEASE_SECONDS = lease  # type: ignore[misc, assignment]  # nobody waits half a minute
            real = time.time
            time.time = lambda: real() - ago
            with Engine.from_config([], told) as engine:
                disk = disk_of(engine, "web2")
                disk._mark = lambda image_id: stand_still(disk, image_id)  # type: ignore[method-assign]  # the last step of a making
                disk.cache(image, image.name)

        self.child = Child(make, watched=False)
        _await(lambda: self.begun.exists() and self.begun.read_text())

    def finish(self) -> None:
        """Let it go on to its end."""
        self.going_on.touch()
        assert self.child.outcome().error is None

    def kill(self) -> None:
        os.kill(int(self.begun.read_text()), signal.SIGKILL)
        assert self.child.outcome().killed


@pytest.fixture
def maker(
    rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path, raw_image: Template, engine: Engine
) -> Callable[..., Maker]:
    """Makes one, when the base is in the pool."""
    disk_of(engine, "web1").cache(raw_image, raw_image.name)

    def made(*, ago: float = 0.0, lease: int = 30) -> Maker:
        return Maker(options(rbd_cluster, tmp_path / "two", rbd_pool, {}), tmp_path, raw_image, ago=ago, lease=lease)

    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Sets this process's clock wrong, by some seconds."""
    real = time.time

    def wrong(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + seconds)

    yield wrong
    monkeypatch.undo()


def _await(done: Callable[[], object]) -> None:
    end = time.monotonic() + _SECONDS
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def _left(engine: Engine, *, remove: bool = False) -> list[Leftover]:
    found = engine.cache.leftovers(remove=remove)
    return [each for each in found.leftovers if each.store is not None]


@pytest.mark.parametrize("wrong", [_DAY, 0.0, -_DAY])
@pytest.mark.parametrize("ago", [0.0, 2 * 3600.0])
def test_pass_leaves_what_another_host_is_making_whatever_the_clocks_say(
    maker: Callable[..., Maker],
    engine: Engine,
    hosts: Hosts,
    clock: Callable[[float], None],
    raw_content: Path,
    tmp_path: Path,
    wrong: float,
    ago: float,
) -> None:
    """Neither a clock that is ahead nor a making that takes hours makes it a leftover."""
    making = maker(ago=ago)
    clock(wrong)
    engine.cache.prune()
    [left] = _left(engine, remove=True)
    assert (left.dead, left.removed) == (False, False)
    with pytest.raises(errors.DiskBusy, match="two"):
        disk_of(engine, "web2").remove()
    clock(0.0)
    making.finish()
    theirs = hosts("two")
    assert read(disk_of(theirs, "web2"), tmp_path) == raw_content.read_bytes()
    emptied(theirs)
    emptied(engine)


@pytest.mark.parametrize("wrong", [_DAY, -_DAY])
def test_what_a_killed_host_left_goes_when_its_lease_has_run_out_whatever_the_clocks_say(
    maker: Callable[..., Maker], engine: Engine, clock: Callable[[float], None], wrong: float
) -> None:
    making, backend = maker(lease=3), backend_of(engine)
    making.kill()
    clock(wrong)
    assert [left.dead for left in _left(engine, remove=True)] == [False]
    _await(lambda: _left(engine)[0].dead)
    assert [left.removed for left in _left(engine, remove=True)] == [True]
    assert _left(engine) == []
    with pytest.raises(backend.cluster.absent):
        headers.identity(backend.ioctx, "web2_disk")
    clock(0.0)
    emptied(engine)


def test_lease_is_renewed_for_as_long_as_the_making_takes(
    maker: Callable[..., Maker], engine: Engine, hosts: Hosts
) -> None:
    making = maker(lease=3)
    time.sleep(7)
    assert [left.dead for left in _left(engine, remove=True)] == [False]
    making.finish()
    emptied(hosts("two"))
    emptied(engine)


def test_host_that_stood_still_does_not_publish_what_another_has_cleared(
    hosts: Hosts,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    raw_image: Template,
    raw_content: Path,
    tmp_path: Path,
) -> None:
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    monkeypatch.setattr(lock, "_LEASE_SECONDS", 1)
    monkeypatch.setattr(lock.Lease, "_renew", lambda *_: None)
    slow, quick = disk_of(hosts("two"), "web2"), disk_of(engine, "web2")
    real, made = RbdDisk._mark, list[str]()

    def stood_still(disk: RbdDisk, image_id: str) -> None:
        if disk is slow:
            time.sleep(2)
            other = threading.Thread(target=lambda: made.append(quick.cache(raw_image, raw_image.name).way))
            other.start()
            other.join()
        real(disk, image_id)

    monkeypatch.setattr(RbdDisk, "_mark", stood_still)
    backend = backend_of(engine)
    place = ImagePlace(fsid=backend.cluster.fsid, pool=backend.pool, image=image_of(raw_image.name), snapshot=SNAPSHOT)
    with slow.locked(), pytest.raises(errors.StorageError):
        slow.clone_image(place.url)
    assert made == ["clone"]
    assert read(quick, tmp_path) == raw_content.read_bytes()
    emptied(engine)


def test_two_hosts_of_one_kernel_name_are_told_apart_by_the_option_host(
    rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path
) -> None:
    """As machines are that were copied, and have their ``instances_path`` at the same place."""
    told = options(rbd_cluster, tmp_path / "one", rbd_pool, {})
    with (
        Engine.from_config([], told | {"host": "a"}) as first,
        Engine.from_config([], told | {"host": "b"}) as second,
        backend_of(first).unfinished.working("web2_disk") as work,
    ):
        with pytest.raises(errors.DiskBusy, match="on the host a"):
            disk_of(second, "web2").remove()
        disk_of(first, "web2").exists()
        assert [entry.host for entry in backend_of(second).unfinished.all().values()] == ["a"]
        work.drop()
