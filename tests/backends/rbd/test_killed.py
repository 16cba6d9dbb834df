"""Killed inside librbd's calls, at times of no choice of ours: a disk is absent or whole, and the next call mends it.

The kit kills before each call; what a call does in many steps is cut through here.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.rbd.conftest import backend_of, disk_of, options, read
from imgbackend import Engine
from imgbackend.testing import oracle
from imgbackend.testing.children import Child
from imgbackend.types import Mi
from imgbackend_rbd import headers, images, names
from imgbackend_rbd.disk import RbdDisk
from imgbackend_rbd.unfinished import OBJECT
from labs.ceph import Cluster, left_in
from labs.require import FULL
from labs.templates import Template

_STEPS = 40 if FULL else 8
"""Kills of each kind, spread over the time that the work takes when nobody is killed."""
_TIMES = [0.0001, *(0.002 + number * 0.08 / (_STEPS - 2) for number in range(_STEPS - 2)), 10.0]
"""When they come, in seconds after the work began."""


class Scene:
    """A host whose operations run in children."""

    def __init__(self, told: dict[str, object]) -> None:
        self.told = told

    def engine(self) -> Engine:
        return Engine.from_config([], self.told)

    def killed_throughout(self, work: Callable[[RbdDisk], object], look: Callable[[RbdDisk, float], None]) -> None:
        """Kill ``work`` on a disk of its own after ever more milliseconds; ``look`` at each.

        The first kill is before the work has done anything, the last after all of it, however fast the machine is.
        """
        for number, after in enumerate(_TIMES):
            self._killed(work, f"k{number}", after)
            with self.engine() as engine:
                look(disk_of(engine, f"k{number}"), after)

    def _killed(self, work: Callable[[RbdDisk], object], instance: str, after: float) -> None:
        def operation() -> None:
            with self.engine() as engine:
                disk = disk_of(engine, instance)
                backend_of(engine).ioctx.stat("rbd_info")  # connected before the clock runs
                signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
                # a handler would wait for the end of a call into C: the default action ends the process at once
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, after)
                work(disk)
                signal.setitimer(signal.ITIMER_REAL, 0)

        ended = Child(operation, watched=False).outcome()
        assert ended.error is None, ended.error


@pytest.fixture
def scene(rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path, raw_image: Template) -> Iterator[Scene]:
    """With the base in the pool."""
    made = Scene(options(rbd_cluster, tmp_path / "one", rbd_pool, {}))
    with made.engine() as engine:
        disk_of(engine, "first").cache(raw_image, raw_image.name)
    yield made
    with made.engine() as engine:
        backend = backend_of(engine)
        for disk in list(backend.list_disks()):
            backend.disk(disk).remove()
        backend.remove_base(raw_image.name)
    assert OBJECT not in " ".join(left_in(rbd_cluster, rbd_pool))


def test_creation_is_absent_or_whole(scene: Scene, raw_image: Template, raw_content: Path, tmp_path: Path) -> None:
    wanted, seen = raw_content.read_bytes() + bytes(Mi), set()

    def look(disk: RbdDisk, after: float) -> None:
        seen.add(disk.exists())
        if disk.exists():
            assert read(disk, tmp_path) == wanted, after
        disk.cache(raw_image, raw_image.name, 9 * Mi)
        assert read(disk, tmp_path) == wanted, after

    scene.killed_throughout(lambda disk: disk.cache(raw_image, raw_image.name, 9 * Mi), look)
    assert False in seen, "nothing was killed before it was done"


def test_removal_is_begun_or_not_and_can_be_repeated(
    scene: Scene, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    """A disk that is there still has its snapshots."""
    with scene.engine() as engine:
        for number in range(_STEPS):
            disk = disk_of(engine, f"k{number}")
            disk.cache(raw_image, raw_image.name)
            disk.create_snap("kept")

    def look(disk: RbdDisk, after: float) -> None:
        if disk.exists():
            assert read(disk, tmp_path) == raw_content.read_bytes(), after
            assert [snap.name for snap in disk.snaps()] == ["kept"], after
        disk.remove()
        assert not disk.exists(), after
        disk.cache(raw_image, raw_image.name)
        assert read(disk, tmp_path) == raw_content.read_bytes(), after

    scene.killed_throughout(lambda disk: disk.remove(), look)


def test_killed_rollback_is_finished_by_the_next_call_for_the_disk(
    scene: Scene, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    """In the middle of it the disk is neither what it was nor what it is to be, and cannot be opened."""
    with scene.engine() as engine:
        for number in range(_STEPS):
            disk = disk_of(engine, f"k{number}")
            disk.cache(raw_image, raw_image.name)
            disk.create_snap("kept")
            oracle.write(disk.source(), 0, 8 * Mi, 0x66)

    def look(disk: RbdDisk, after: float) -> None:
        assert [snap.name for snap in disk.snaps()] == ["kept"], after
        found = read(disk, tmp_path)
        assert found in (b"\x66" * 8 * Mi, raw_content.read_bytes()), after
        oracle.write(disk.source(), Mi, 4096, 0x11)  # what was in the object before must not come back beside it
        wanted = found[:Mi] + b"\x11" * 4096 + found[Mi + 4096 :]
        assert read(disk, tmp_path) == wanted, after

    scene.killed_throughout(lambda disk: disk.rollback_to_snap("kept"), look)


def test_map_of_objects_is_not_believed_after_a_killed_rollback(
    scene: Scene, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    """librbd rolls the map of the objects back before the objects; here it was killed between the two."""
    with scene.engine() as engine:
        disk, backend = disk_of(engine, "k0"), backend_of(engine)
        disk.cache(raw_image, raw_image.name)
        oracle.write(disk.source(), 0, 4 * Mi, 0x22)  # an object that the snapshot has, and one that it has not
        disk.create_snap("kept")
        oracle.write(disk.source(), 0, 8 * Mi, 0x66)
        image_id = headers.identity(backend.ioctx, disk.image)
        with backend.cluster.image(backend.pool, disk.image, read_only=True) as image:
            [snap] = images.snapshots(image)
        rolled = backend.ioctx.read(f"rbd_object_map.{image_id}.{snap['id']:016x}")
        backend.ioctx.write_full(f"rbd_object_map.{image_id}", rolled)
        begun = names.Rollback(image=image_id, snapshot=snap["id"])
        names.point(backend.ioctx, disk.image, image_id, str(begun))
        assert [snap.name for snap in disk.snaps()] == ["kept"]
        oracle.write(disk.source(), 5 * Mi, 4096, 0x11)
        wanted = b"\x22" * 4 * Mi + raw_content.read_bytes()[4 * Mi :]
        assert read(disk, tmp_path) == wanted[: 5 * Mi] + b"\x11" * 4096 + wanted[5 * Mi + 4096 :]


def test_import_is_absent_or_whole(scene: Scene, raw_content: Path, tmp_path: Path) -> None:
    def make(disk: RbdDisk) -> None:
        with disk.locked():
            disk.discard()
            if disk.find() is None:
                disk.backend.host.make_folder(disk.backend.host.folder(disk.id))
                disk.import_image(raw_content)

    def look(disk: RbdDisk, after: float) -> None:
        if disk.exists():
            assert read(disk, tmp_path) == raw_content.read_bytes(), after
        make(disk)
        assert read(disk, tmp_path) == raw_content.read_bytes(), after

    scene.killed_throughout(make, look)


def test_base_that_is_put_aside_has_one_of_both_names(
    scene: Scene, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    """And no import under the old one is held up, whatever was left."""
    aside, wanted, seen = "c" * 40, raw_content.read_bytes(), set()

    def put_aside(disk: RbdDisk) -> None:
        disk.backend.rename_base(raw_image.name, aside, {"bad": "a bit was flipped"})

    def look(disk: RbdDisk, after: float) -> None:
        backend = disk.backend
        names = [name for name in (raw_image.name, aside) if backend.find_base(name) is not None]
        assert len(names) == 1, f"after {after:.4f} s it has the names {names}"
        assert [base.name for base in backend.list_bases()] == names
        seen.add(names[0])
        fetched = disk.cache(raw_image, raw_image.name).fetched
        assert fetched == (names[0] == aside)
        assert read(disk, tmp_path) == wanted
        disk.remove()
        if names[0] == aside:
            for other in list(backend.list_disks()):
                backend.disk(other).remove()
            backend.remove_base(aside)

    scene.killed_throughout(put_aside, look)
    assert seen == {raw_image.name, aside}, "all kills were early, or all were late: the test tells nothing"


class BreaksOff:
    """An ioctx whose first ``whole`` requests that change something are sent, and no other."""

    def __init__(self, ioctx: Any, whole: int) -> None:
        self._ioctx, self._left = ioctx, whole

    def __getattr__(self, name: str) -> Any:
        if name in {"operate_write_op", "execute", "remove_object"}:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        return getattr(self._ioctx, name)


@pytest.mark.parametrize("whole", range(3))
@pytest.mark.parametrize("then", ["renamed", "renamed once more", "removed"])
def test_base_whose_renaming_was_broken_off_between_two_steps_has_one_name(
    scene: Scene, raw_image: Template, monkeypatch: pytest.MonkeyPatch, whole: int, then: str
) -> None:
    """The new name is made, the list of images is changed, and the old name is taken away."""
    old, new, rename = raw_image.name, "c" * 40, names.rename
    other = {"renamed": new, "renamed once more": "d" * 40, "removed": old}[then]
    with scene.engine() as engine:
        backend = backend_of(engine)
        with monkeypatch.context() as patch:
            patch.setattr(names, "rename", lambda ioctx, *more: rename(BreaksOff(ioctx, whole), *more))  # type: ignore[arg-type]  # it stands for one
            with pytest.raises(KeyboardInterrupt):
                backend.rename_base(old, new, {"bad": "a bit was flipped"})
        assert [base.name for base in backend.list_bases()] == [old]
        assert backend.find_base(new) is None
        assert list(backend.leftovers()) == []
        if other != old:
            backend.rename_base(old, other, {"was": old})
            [base] = backend.list_bases()
            assert (base.name, base.tags["was"]) == (other, old)
        disk_of(engine, "first").remove()
        backend.remove_base(other)
        assert list(backend.list_bases()) == []
        assert list(backend.cluster.rbd().list2(backend.ioctx)) == []
        assert not [each.key for each in backend.ioctx.list_objects() if each.key.startswith("rbd_id.")]
        disk_of(engine, "first").cache(raw_image, old)
        assert backend.find_base(old) is not None
