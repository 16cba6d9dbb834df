"""Another host removes a file that is open here: NFS answers ESTALE to any call, where a local file stays readable."""

import errno
import fcntl
import json
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from imgbackend import Engine, errors
from imgbackend.bases.instance_reads import InstanceReads
from imgbackend.bases.users import OverlayUsers
from imgbackend.cache.sharing_hosts import SharingHosts
from imgbackend.state import digests, manifests
from imgbackend.state.manifests import FileIdentity
from imgbackend.system import files, promises, qcow2, qemu_img
from imgbackend.system.locks import Locks
from imgbackend.system.process_identity import ProcessIdentity
from imgbackend.types import DiskId, Mi
from labs.templates import Template

_LOOKS: Final = (
    "same",
    "ready",
    "entry",
    "manifest",
    "record",
    "header",
    "overlays",
    "ahead",
    "promises",
    "hosts",
    "disk",
)
_NEVER: Final = 1 << 30
_CALLS: Final = ("open", "read", "pread", "fstat", "scandir")
"""Those that meet ESTALE where a file, or a folder, went: stat(2) and its like look the name up anew in the kernel."""


@dataclass
class StaleCalls:
    """Answers ESTALE to one call of a process, the ``turn``-th of those that concern files below a folder."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    turn: int = 0
    done: int = 0
    gone: Path | None = None
    """What is removed at that moment, if anything."""
    met: list[tuple[str, str]] = field(default_factory=list)
    """Every call that counted, with its file."""
    thread: int = field(default_factory=threading.get_ident)

    def __post_init__(self) -> None:
        for name in _CALLS:
            self.monkeypatch.setattr(os, name, self._replaced(name, getattr(os, name)))

    def begin(self, turn: int, gone: Path | None) -> None:
        """Count calls anew."""
        self.turn, self.done, self.gone = turn, 0, gone

    @property
    def answered(self) -> bool:
        """Whether there were so many calls."""
        return self.done >= self.turn

    def _replaced(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(what: Any, *arguments: Any, **options: Any) -> Any:
            path = self._path(what) if self.turn and threading.get_ident() == self.thread else None
            if path is not None:
                self.done += 1
                self.met.append((name, path))
                if self.done == self.turn:
                    if self.gone is not None:
                        self.gone.unlink()
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return real(what, *arguments, **options)

        return call

    def _path(self, what: Any) -> str | None:
        """Of a path or a descriptor, where it is below the folder; that of the locks itself never goes."""
        try:
            path = os.fsdecode(os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else what)
        except (OSError, TypeError):
            return None
        return path if path.startswith(f"{self.folder}/") and path != f"{self.folder}/locks" else None


@pytest.fixture
def stale_calls(instances: Path, monkeypatch: pytest.MonkeyPatch) -> StaleCalls:
    return StaleCalls(instances, monkeypatch)


@pytest.fixture
def engine(make_engine: Callable[..., Engine], raw_image: Template) -> Engine:
    """With one disk on one base."""
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name, 16 * Mi)
    return engine


def _each_call_stale(calls: StaleCalls, look: Callable[[], object]) -> int:
    """``look`` again and again, each time with the next of its calls stale; it must tell the same as without."""
    expected = look()
    turn = 0
    while True:
        turn += 1
        calls.begin(turn, None)
        found = look()
        answered = calls.answered
        calls.begin(0, None)
        if not answered:
            return turn - 1
        assert found == expected, f"with call {turn} stale"


def _looks(engine: Engine, image: Template, instances: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    bases, base = engine._bases, engine.host.bases / image.name
    with files.open_fd(base, os.O_RDONLY) as fd:
        identity = FileIdentity.of(fd)
    note = promises.note_of(instances / "locks", base)
    note.write_text(json.dumps({"file": str(base), "bytes": Mi, **ProcessIdentity.me("localhost").note()}))
    SharingHosts(engine.host, lambda: 0.0).register(1.0)

    def overlays() -> object:
        look = OverlayUsers(engine.host)
        return list(look.overlays()), look.unseen

    def ready() -> object:
        found = bases.ready(image.name, image, None)
        os.close(found.fd)
        return found.manifest, found.fetched

    def ahead() -> object:
        reads = InstanceReads(engine.host, str(instances / "web1"), "web1").ahead()
        return reads.recorded(), [entry.name for entry in reads.listed()], reads.header(str(instances / "web1/disk"))

    yield "same", lambda: bases.same(image.name, identity)
    yield "ready", ready
    yield "entry", lambda: list(bases.entries())
    yield "manifest", lambda: manifests.read(base)
    yield "record", lambda: engine.host.records.all("web1")
    yield "header", lambda: qcow2.read(instances / "web1/disk")
    yield "overlays", overlays
    yield "ahead", ahead
    yield "promises", lambda: list(engine.host.space._promises(Path()))
    yield "hosts", lambda: SharingHosts(engine.host, lambda: 2.0).all()
    yield "disk", lambda: engine.disk("web1").info()


@pytest.mark.parametrize("name", _LOOKS)
def test_look_that_meets_a_file_that_was_replaced_finds_what_is_there_now(
    name: str, engine: Engine, raw_image: Template, instances: Path, stale_calls: StaleCalls
) -> None:
    looks = dict(_looks(engine, raw_image, instances))
    assert _each_call_stale(stale_calls, looks[name]) > 0


def test_base_that_is_removed_while_it_is_compared_is_not_the_same(
    engine: Engine, raw_image: Template, instances: Path, stale_calls: StaleCalls
) -> None:
    same = dict(_looks(engine, raw_image, instances))["same"]
    stale_calls.begin(2, engine.host.bases / raw_image.name)
    assert same() is False
    assert stale_calls.answered


def test_base_that_is_removed_while_it_is_looked_at_is_fetched_again(
    engine: Engine, raw_image: Template, instances: Path, stale_calls: StaleCalls
) -> None:
    fetches = raw_image.fetches
    ready = dict(_looks(engine, raw_image, instances))["ready"]
    base = engine.host.bases / raw_image.name
    before = manifests.read(base)
    assert before is not None
    stale_calls.begin(2, base)
    ready()
    after = manifests.read(base)
    assert stale_calls.answered
    assert after is not None
    assert (after.digest, raw_image.fetches) == (before.digest, fetches + 1)


@pytest.mark.parametrize("name", ["record", "manifest", "hosts", "promises", "overlays"])
def test_file_that_is_removed_while_it_is_read_counts_as_absent(
    name: str, engine: Engine, raw_image: Template, instances: Path, stale_calls: StaleCalls
) -> None:
    looks = dict(_looks(engine, raw_image, instances))
    files_of = {
        "record": instances / "web1/disks.json",
        "manifest": manifests.path_of(engine.host.bases / raw_image.name),
        "hosts": instances / "compute_nodes",
        "promises": promises.note_of(instances / "locks", engine.host.bases / raw_image.name),
        "overlays": instances / "web1/disk",
    }
    read = _turn_of_first_read(stale_calls, looks[name], files_of[name])
    stale_calls.begin(read, files_of[name])
    found = looks[name]()
    assert stale_calls.answered
    assert found in ({}, None, [], ([], {}))


def _turn_of_first_read(calls: StaleCalls, look: Callable[[], object], file: Path) -> int:
    """Which of the calls of ``look`` is the first that reads a file that it has opened."""
    calls.begin(_NEVER, None)
    calls.met.clear()
    look()
    return (
        calls.met.index(("read", str(file))) + 1
        if ("read", str(file)) in calls.met
        else calls.met.index(("pread", str(file))) + 1
    )


def test_stale_answer_that_stays_is_an_error_and_not_an_absent_file(
    engine: Engine, raw_image: Template, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is where the file system itself went away: nothing may count as unused then."""

    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    for name in ("open", "scandir", "stat", "listdir"):
        monkeypatch.setattr(os, name, stale)
    with pytest.raises(OSError, match="Stale"):
        engine.host.records.all("web1")
    look = OverlayUsers(engine.host)
    assert list(look.overlays()) == []
    assert look.unseen


def test_lock_whose_file_another_host_removes_is_had_all_the_same(
    instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, answers = fcntl.lockf, [errno.EAGAIN, errno.ESTALE]

    def lockf(*arguments: Any) -> None:
        if answers:
            raise OSError(answers[0], os.strerror(answers.pop(0)))
        real(*arguments)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with Locks(instances / "locks").disk(DiskId(instance="web1", name="disk")):
        assert answers == []


def test_disk_whose_base_goes_while_it_is_copied_is_made_all_the_same(
    make_engine: Callable[..., Engine], raw_image: Template, monkeypatch: pytest.MonkeyPatch, instances: Path
) -> None:
    monkeypatch.setattr(files, "can_reflink", lambda *_, **__: False)
    engine = make_engine({"images_type": "raw"})
    real, base = os.copy_file_range, engine.host.bases / raw_image.name
    left = [base]

    def copy_file_range(*arguments: Any) -> int:
        if left:
            left.pop().unlink()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return real(*arguments)

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    made = engine.disk("web1").cache(raw_image, raw_image.name, None)
    assert (made.way, raw_image.fetches) == ("copy", 2)
    assert (instances / "web1/disk").read_bytes() == raw_image.content.read_bytes()


def test_qemu_img_that_meets_a_file_that_was_removed_is_told_from_one_that_is_broken(
    engine: Engine, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(argv: Any, **_: Any) -> str:
        raise errors.CommandFailed(argv, 1, "qemu-img: error while reading at byte 0: Stale file handle")

    monkeypatch.setattr(engine.host, "run", run)
    with files.open_fd(instances / "web1/disk", os.O_RDONLY) as fd, pytest.raises(OSError, match="Stale"):
        qemu_img.info(engine.host, (fd, "raw"))


def test_base_that_is_removed_while_it_is_verified_is_skipped_and_not_bad(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(*_: object) -> str:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(digests, "content_digest", digest)
    [verified] = engine.cache.verify()
    assert (verified.found, verified.reason) == ("skipped", "somebody else removed it")


def test_record_is_written_though_the_folder_only_seems_to_be_there(
    engine: Engine, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host removed it, and this one's caches have it for a minute yet."""
    real, seeming = files.make_folders, [instances / "web2"]

    def make_folders(path: Path) -> list[Path]:
        if path not in seeming:
            return real(path)
        seeming.remove(path)
        return []

    monkeypatch.setattr(files, "make_folders", make_folders)
    disk, record = DiskId(instance="web2", name="disk"), engine.host.records.all("web1")["disk"]
    engine.host.records.write(disk, record, as_file=True, durable=False)
    assert engine.host.records.of(disk) == record


@pytest.mark.parametrize("name", ["record", "header"])
def test_file_that_seems_to_be_empty_is_read_past_the_cache(
    name: str, engine: Engine, raw_image: Template, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client of NFS has it that knows the size from before another host filled the file."""
    look = dict(_looks(engine, raw_image, instances))[name]
    expected = look()

    def seeming(real: Callable[..., bytes]) -> Callable[..., bytes]:
        def call(fd: int, *arguments: int) -> bytes:
            data = real(fd, *arguments)
            return data if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT else b""

        return call

    def aligned(fd: int, count: int) -> bytes:
        with mmap.mmap(-1, count) as buffer:
            return buffer[: os.readv(fd, [buffer])]

    monkeypatch.setattr(os, "read", seeming(aligned))
    monkeypatch.setattr(os, "pread", seeming(os.pread))
    assert look() == expected


def test_file_that_is_empty_reads_as_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert files.content(tmp_path / "empty") == b""
