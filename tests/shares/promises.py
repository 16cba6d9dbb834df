"""What holds on a file system of a server, seen by two hosts.

The class here is promises; ``test_promises.py`` in the folder of each file system has them hold on it, with a
fixture ``share`` and its own values of what differs.
"""

import contextlib
import functools
import os
import pickle
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar, Final

import pytest

from cache.conftest import DAY, age
from imgbackend import Engine, errors
from imgbackend.cli.doctor_storage import shared_storage_findings as sharing
from imgbackend.system import files, image_lock
from imgbackend.testing import oracle
from imgbackend.types import FileSource, Mi, Progress
from labs.hosts import SECONDS, SharingHost
from labs.images import same_for_guest, scattered, sparse_raw
from labs.shares import Share, broken_disks
from labs.templates import Template

EngineOn = Callable[..., Engine]

_TESTS: Final = Path(__file__).parents[1]
_SHORT: Final = {"image_cache.lease_seconds": 119}
_WINDOW: Final = 0.5
"""Seconds in which a second fetch would begin, if there was one."""
_MAKE: Final = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from imgbackend import Engine
image, name, overrides = pickle.loads(open(sys.argv[2], "rb").read())
with Engine.from_config([], overrides) as engine:
    disk = engine.disk(name)
    print("asks", flush=True)
    disk.cache(image, image.name)
    print("made", flush=True)
"""
VERBS: Final[dict[str, Callable[[Any, Path], object]]] = {
    "remove": lambda disk, _target: disk.remove(),
    "resize": lambda disk, _target: disk.resize(64 * Mi),
    "extract": lambda disk, target: disk.extract(target, "qcow2"),
}
"""What a disk is refused that a guest has open."""
_OF_AN_OVERLAY: Final = ("remove", "resize")
"""Those that do not need its base, which has another path on the other mount."""


@pytest.fixture
def engine_on() -> Iterator[EngineOn]:
    """Engines of the host ``a`` on a folder; closed after the test."""
    with contextlib.ExitStack() as stack:

        def make(instances: Path, overrides: dict[str, Any] | None = None) -> Engine:
            told = {"instances_path": str(instances), "host": "a", **(overrides or {})}
            return stack.enter_context(Engine.from_config([], told))

        yield make


@pytest.fixture
def sparse_image(tmp_path: Path) -> Template:
    """Of 16 MiB, an eighth of it data."""
    content = sparse_raw(tmp_path / "content.raw", 16 * Mi, data=scattered(16 * Mi, 0.125))
    return Template(content=content, image_id="sparse", format="raw")


@pytest.fixture
def bases_alone(share: Share, tmp_path: Path) -> Iterator[Path]:
    """An ``instances_path`` of the host's own, with a base folder that is mounted from the server."""
    bases = tmp_path / "own" / "_base"
    bases.mkdir(parents=True)
    subprocess.run(["mount", "--bind", share.a, bases], check=True)
    yield bases.parent
    subprocess.run(["umount", bases], check=True)


class Promises:
    """What holds on each file system of a server."""

    kind: ClassVar[str]
    """As the kernel names the file system."""
    removed_stays_open: ClassVar[bool]
    """Whether a file that another host removes can surely still be read by who has it open."""

    def test_base_that_two_hosts_want_at_once_is_fetched_by_one(
        self, share: Share, instances: Path, tmp_path: Path, sparse_image: Template
    ) -> None:
        (tmp_path / "signs").mkdir()
        image = sparse_image.but(before=functools.partial(_wait, tmp_path / "signs"))
        hosts = share.hosts(tmp_path, instances)
        told = {"instances_path": str(instances), "images_type": "qcow2"}
        with _making(hosts["a"], image, tmp_path, told) as first:
            _await(tmp_path / "signs/fetching")
            with _making(hosts["b"], image, tmp_path, told) as second:
                time.sleep(_WINDOW)
                (tmp_path / "signs/go").touch()
                assert [first.readline(), second.readline()] == ["made\n", "made\n"]
        assert image.fetches == 1
        kept = dict.fromkeys(("a", "b"), image.image_id)
        for host in hosts.values():
            assert list(broken_disks(kept, [image], instances, "qcow2", host)) == []

    def test_base_that_another_host_removes_while_it_is_open_here_comes_back(
        self, share: Share, engine_on: EngineOn, sparse_image: Template
    ) -> None:
        here = engine_on(share.a, {"images_type": "raw"})
        there = engine_on(share.b, {"images_type": "raw", "host": "b"})
        here.disk("web1").cache(sparse_image, sparse_image.name)
        content = sparse_image.content.read_bytes()
        with files.open_fd(here.host.bases / sparse_image.name, os.O_RDONLY) as fd:
            age(there.host.bases / sparse_image.name, 9 * DAY)
            assert [each.action for each in there.cache.prune().outcomes] == ["removed"]
            here.disk("web2").cache(sparse_image, sparse_image.name)
            if self.removed_stays_open:
                assert os.pread(fd, len(content), 0) == content
        assert sparse_image.fetches == 2
        assert [(share.server / name / "disk").read_bytes() == content for name in ("web1", "web2")] == [True, True]

    @pytest.mark.parametrize(
        ("images_type", "verb"), [*(("raw", verb) for verb in VERBS), *(("qcow2", verb) for verb in _OF_AN_OVERLAY)]
    )
    def test_disk_that_a_guest_of_one_host_has_open_is_open_on_the_other(
        self, images_type: str, verb: str, share: Share, engine_on: EngineOn, sparse_image: Template, tmp_path: Path
    ) -> None:
        """Both with the right to change it: nothing but QEMU's own lock tells."""
        here, there = (engine_on(folder, {"images_type": images_type}) for folder in (share.a, share.b))
        here.disk("web1").cache(sparse_image, sparse_image.name)
        with (
            oracle.guest_on(FileSource(path=share.a / "web1/disk", format=images_type)),
            pytest.raises(errors.DiskOpen, match="the disk is open in another process"),
        ):
            VERBS[verb](there.disk("web1"), tmp_path / "copy")
        there.disk("web1").remove()
        assert not (share.server / "web1/disk").exists()

    def test_guest_of_one_host_does_not_start_on_a_disk_that_is_read_on_the_other(
        self, share: Share, engine_on: EngineOn, sparse_image: Template
    ) -> None:
        engine_on(share.a, {"images_type": "raw"}).disk("web1").cache(sparse_image, sparse_image.name)
        theirs = FileSource(path=share.b / "web1/disk", format="raw")
        with (
            files.open_fd(share.a / "web1/disk", os.O_RDWR) as fd,
            image_lock.kept_unwritten(fd),
            pytest.raises(oracle.OracleError, match="lock"),
            oracle.guest_on(theirs),
        ):
            pass
        with oracle.guest_on(theirs):
            pass

    @pytest.mark.parametrize("images_type", ["qcow2", "raw"])
    def test_disk_is_exported_into_the_shared_folder_and_read_on_the_other_host(
        self, images_type: str, share: Share, engine_on: EngineOn, sparse_image: Template
    ) -> None:
        disk = engine_on(share.a, {"images_type": images_type}).disk("web1")
        disk.cache(sparse_image, sparse_image.name)
        for written in ("qcow2", "raw"):
            disk.extract(share.a / f"export.{written}", written)
            assert same_for_guest(sparse_image.content, "raw", share.b / f"export.{written}", written)
        left = {path.name for path in share.server.iterdir()}
        assert {name for name in left if "export" in name} == {"export.qcow2", "export.raw"}

    def test_pass_with_a_lease_shorter_than_what_caches_hide_is_refused(
        self, share: Share, engine_on: EngineOn
    ) -> None:
        engine = engine_on(share.a, _SHORT)
        told = rf"lease_seconds is 119.*{self.kind}.*60 s late.*make it 120 or more"
        for removing in (
            engine.cache.prune,
            lambda: engine.cache.leftovers(remove=True),
            lambda: engine.cache.make_room(1),
        ):
            with pytest.raises(errors.ConfigError, match=told):
                removing()
        assert engine.cache.leftovers().leftovers == []
        assert engine_on(share.a, {"image_cache.lease_seconds": 120}).cache.prune().faults == []

    def test_doctor_tells_of_a_lease_that_is_too_short_and_of_files_that_are_this_users(self, share: Share) -> None:
        short, owner = sharing(share.a, share.a / "_base", lease=119)
        assert (short.verdict, short.advice) == ("error", "make it 120 or more: no pass is made so")
        assert owner.verdict == "ok"
        assert next(sharing(share.a, share.a / "_base", lease=120)).verdict == "ok"
        assert list(share.server.iterdir()) == []

    def test_bases_that_hosts_share_without_a_place_for_locks_are_refused(
        self, bases_alone: Path, sparse_image: Template, engine_on: EngineOn
    ) -> None:
        engine = engine_on(bases_alone)
        said = rf"_base is mounted from a server by {self.kind}, .* make .*_base a link to /shared/_base"
        with pytest.raises(errors.ConfigError, match=said):
            engine.disk("web1").cache(sparse_image, sparse_image.name)
        assert list((bases_alone / "_base").iterdir()) == []
        locks, _ = sharing(bases_alone, engine.host.bases, lease=3600)
        assert (locks.check, locks.verdict) == ("locks of bases", "error")

    def test_bases_beside_which_locks_are_shared_may_be_linked(
        self, share: Share, tmp_path: Path, sparse_image: Template, engine_on: EngineOn
    ) -> None:
        (share.a / "_base").mkdir()
        own = tmp_path / "own"
        own.mkdir()
        (own / "_base").symlink_to(share.a / "_base")
        engine = engine_on(own)
        engine.disk("web1").cache(sparse_image, sparse_image.name)
        assert [path.name for path in (share.a / "locks").glob("nova-*")]
        assert [(found.check, found.verdict) for found in sharing(own, engine.host.bases, lease=119)] == [
            ("lease_seconds", "error")
        ]
        with pytest.raises(errors.ConfigError, match=rf"lease_seconds is 119.*_base: on {self.kind}"):
            engine_on(own, _SHORT).cache.prune()


def _wait(signs: Path, target: Path, progress: Progress) -> None:
    """Hold up a fetch until the test lets it go."""
    (signs / "fetching").touch()
    _await(signs / "go")


def _await(sign: Path) -> None:
    end = time.monotonic() + SECONDS
    while not sign.exists():
        assert time.monotonic() < end, f"{sign} does not come"
        time.sleep(0.01)


@contextlib.contextmanager
def _making(host: SharingHost, image: Template, scratch: Path, overrides: dict[str, str]) -> Iterator[IO[str]]:
    """What a process says further that makes a disk of the host's name, once it is about to; it has to succeed."""
    work = scratch / f"{host.name}.work"
    work.write_bytes(pickle.dumps((image, host.name, {**overrides, "host": host.name})))
    with host.running(_MAKE, _TESTS, work) as process:
        assert process.stdout is not None
        yield process.stdout
