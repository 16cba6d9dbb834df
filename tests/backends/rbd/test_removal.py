"""A removal that is refused takes nothing away, and one that was broken off is finished by its image's id."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, emptied, read
from imgbackend import Engine, errors
from imgbackend_rbd import RbdBackend, headers, images, names
from imgbackend_rbd.disk import RbdDisk
from labs.templates import Template

if TYPE_CHECKING:
    import rbd


@pytest.fixture
def made(hosts: Hosts, raw_image: Template) -> Iterator[RbdDisk]:
    """The disk ``web1``, with the snapshot ``kept``."""
    engine = hosts("one", destroy_volume_retries=1, destroy_volume_retry_interval=0.1)
    disk = disk_of(engine, "web1")
    disk.cache(raw_image, raw_image.name)
    disk.create_snap("kept")
    yield disk
    emptied(engine)


@contextlib.contextmanager
def in_a_group(backend: RbdBackend, image: str = "web1_disk") -> Iterator[None]:
    with group(backend) as found:
        found.add_image(backend.ioctx, image)
        yield
        found.remove_image(backend.ioctx, image)


@contextlib.contextmanager
def in_a_snapshot_of_a_group(backend: RbdBackend) -> Iterator[None]:
    with group(backend) as found:
        found.add_image(backend.ioctx, "web1_disk")
        found.create_snap("friday")
        found.remove_image(backend.ioctx, "web1_disk")
        yield
        found.remove_snap("friday")


@contextlib.contextmanager
def group(backend: RbdBackend) -> "Iterator[rbd.Group]":
    """A new group of images."""
    import rbd

    backend.cluster.rbd().group_create(backend.ioctx, "shelf")
    yield rbd.Group(backend.ioctx, "shelf")
    backend.cluster.rbd().group_remove(backend.ioctx, "shelf")


@pytest.mark.parametrize(
    ("bound", "told"),
    [(in_a_group, "the group shelf"), (in_a_snapshot_of_a_group, "the snapshot friday of the group shelf")],
)
def test_refused_removal_loses_no_snapshot_and_says_what_holds_the_disk(
    made: RbdDisk,
    raw_content: Path,
    tmp_path: Path,
    bound: Callable[[RbdBackend], contextlib.AbstractContextManager[None]],
    told: str,
) -> None:
    assert isinstance(made.backend, RbdBackend)
    with bound(made.backend):
        with pytest.raises(errors.DiskBusy, match=told):
            made.remove()
        assert made.exists()
        assert [snap.name for snap in made.snaps()] == ["kept"]
        assert made.id in set(made.backend.list_disks())
        assert read(made, tmp_path) == raw_content.read_bytes()
        assert made.backend.unfinished.all() == {}
    made.remove()
    assert not made.exists()


@pytest.mark.parametrize("step", ["refuse_bound", "refuse_open"])
def test_guest_that_starts_while_its_disk_is_removed_keeps_all_of_it(
    made: RbdDisk, monkeypatch: pytest.MonkeyPatch, raw_content: Path, tmp_path: Path, step: str
) -> None:
    backend, real = made.backend, getattr(images, step)
    with contextlib.ExitStack() as guest:

        def started(*arguments: object) -> None:
            """After the first look, which found nothing."""
            real(*arguments)
            monkeypatch.setattr(images, step, real)
            guest.enter_context(backend.cluster.image(backend.pool, made.image))

        monkeypatch.setattr(images, step, started)
        with pytest.raises(errors.DiskBusy, match="open at"):
            made.remove()
        assert [snap.name for snap in made.snaps()] == ["kept"]
    assert read(made, tmp_path) == raw_content.read_bytes()
    assert backend.unfinished.all() == {}


def test_answer_that_fails_before_the_first_removal_leaves_the_disk_whole(
    made: RbdDisk, monkeypatch: pytest.MonkeyPatch, raw_content: Path, tmp_path: Path
) -> None:
    real, looks = images.dependents, []

    def fail_at_the_second(image: "rbd.Image") -> list[str]:
        looks.append(image.id())
        if len(looks) == 2:
            raise OSError(5, "Input/output error")
        return real(image)

    with monkeypatch.context() as patched:
        patched.setattr(images, "dependents", fail_at_the_second)
        with pytest.raises(errors.StorageUnavailable):
            made.remove()
    assert made.exists()
    assert [snap.name for snap in made.snaps()] == ["kept"]
    assert read(made, tmp_path) == raw_content.read_bytes()


def test_removal_that_was_broken_off_is_finished_for_its_own_image_alone(
    made: RbdDisk, engine: Engine, raw_image: Template
) -> None:
    """Its name was hidden, and then the process was killed."""
    backend = backend_of(engine)
    image_id = made.identity()
    assert image_id is not None
    with backend.unfinished.working(made.image, image_id=image_id):
        names.point(backend.ioctx, made.image, image_id, names.removal(image_id))
    assert not made.exists()
    assert made.identity() is None
    assert made.cache(raw_image, raw_image.name).way == "clone"
    assert made.identity() not in (None, image_id)
    with pytest.raises(backend.cluster.absent):
        headers.read(backend.ioctx, image_id)


def test_base_that_is_in_a_group_stays_visible_when_its_removal_is_refused(
    made: RbdDisk, engine: Engine, raw_image: Template
) -> None:
    backend = backend_of(engine)
    made.flatten()
    with in_a_group(backend, f"imgbackend-base.{raw_image.name}"):
        with pytest.raises(errors.DiskBusy, match="the group shelf"):
            backend.remove_base(raw_image.name)
        assert backend.find_base(raw_image.name) is not None
        assert disk_of(engine, "web2").cache(raw_image, raw_image.name).way == "clone"


def test_image_that_was_made_anew_is_not_removed_for_the_one_that_had_its_name(
    made: RbdDisk, raw_content: Path, tmp_path: Path
) -> None:
    """A removal is of one image, whoever makes another of that name."""
    backend = made.backend
    with backend.unfinished.working(made.image, image_id="1234567890ab"):
        pass  # killed when it had removed all, but for the entry
    with made.locked():
        made.discard()
    assert backend.unfinished.all() == {}
    assert [snap.name for snap in made.snaps()] == ["kept"]
    assert read(made, tmp_path) == raw_content.read_bytes()
