"""SIGKILL before every step of every operation: what is there is whole, and the same call again succeeds."""

import functools
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import operations
from imgbackend import errors
from imgbackend.bases.store import generated_name
from imgbackend.types import Mi
from labs.contents import bytes_of, guest_view, partial, write_as_guest
from labs.crash import Operation, Outcome, Server
from labs.holders import wait_until_none_holds
from labs.images import qcow2, qemu_img, scattered, sparse_raw
from labs.require import FULL
from labs.templates import Template

pytestmark = pytest.mark.slow

_CONTENT = 2 * Mi


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture
def image(tmp_path: Path, images_type: str) -> Template:
    """2 MiB, a quarter of it data; for overlays it is delivered as a qcow2, and converted on its way in."""
    raw = sparse_raw(tmp_path / "content.raw", _CONTENT, data=scattered(_CONTENT, 0.25, extent=64 << 10))
    path = raw if images_type == "raw" else qcow2(tmp_path / "content.qcow2", _CONTENT, content=raw)
    return Template(content=path, image_id="image", format=images_type, size=path.stat().st_size)


@pytest.fixture
def content(image: Template) -> bytes:
    """What a disk made of it holds."""
    return guest_view(image.content, str(image.format)) + bytes(operations.SIZE - _CONTENT)


class Host:
    """An ``instances_path`` that can be put back to where it was."""

    def __init__(self, instances: Path, images_type: str, server: Server) -> None:
        self.instances, self.images_type, self._server = instances, images_type, server
        self._kept = instances.with_name("kept")

    def do(self, operation: Operation, **how: int | float) -> Outcome:
        return self._server.run(operation, **how)  # type: ignore[arg-type]  # kill_at: int, after: float

    def must(self, operation: Operation) -> Outcome:
        outcome = self.do(operation)
        assert outcome.error is None
        assert not outcome.killed
        return outcome

    def keep(self) -> None:
        shutil.copytree(self.instances, self._kept)

    def back(self) -> None:
        """Bases stay the files they were: a manifest names their inode."""
        for path in sorted(self.instances.rglob("*"), reverse=True):
            kept = self._kept / path.relative_to(self.instances)
            if not kept.exists():
                path.rmdir() if path.is_dir() else path.unlink()
        for kept in sorted(self._kept.rglob("*")):
            path = self.instances / kept.relative_to(self._kept)
            if kept.is_dir():
                path.mkdir(exist_ok=True)
            elif "_base" not in kept.parts:
                shutil.copy2(kept, path)

    def view(self, instance: str = "web1", name: str = "disk") -> bytes | None:
        """The bytes of a disk; None where there is none."""
        with operations.opened(self.instances, self.images_type) as engine:
            disk = engine.disk(instance, name)
            return bytes_of(disk) if disk.exists() else None

    def check(self) -> None:
        """No overlay is damaged, and what was lent to qemu-img has its owner and mode again."""
        for path in self.instances.glob("web*/disk*"):
            if path.suffix in {".json", ".info"}:
                continue
            assert (path.stat().st_uid, oct(path.stat().st_mode & 0o777)) == (os.geteuid(), "0o640"), path
            if self.images_type == "qcow2":
                qemu_img("check", "-q", "-f", "qcow2", str(path))
        for path in self.instances.glob("_base/*"):
            if path.suffix != ".json":
                assert (path.stat().st_uid, oct(path.stat().st_mode & 0o777)) == (os.geteuid(), "0o440"), path

    def settled(self) -> None:
        """What was killed has taken its commands with it."""
        wait_until_none_holds(self.instances)


@pytest.fixture
def host(instances: Path, images_type: str, server: Server) -> Host:
    return Host(instances, images_type, server)


def at_every_step(host: Host, operation: Operation, look: Callable[[Outcome], None]) -> list[str]:
    """Kill before step 0, 1, ...; each time look, do it again, and put all back.  The steps of a whole run.

    Every other one outside ``./dev test-full``: the conformance suite kills before each step of the same drivers.
    """
    host.keep()
    for number in itertools.count(step=1 if FULL else 2):
        outcome = host.do(operation, kill_at=number)
        assert outcome.error is None, outcome.error
        host.settled()
        if outcome.killed:
            look(outcome)
            host.must(operation)
        assert partial(host.instances) == set(), outcome.steps[-1:]
        host.check()
        look(outcome)
        host.back()
        if not outcome.killed:
            assert number > 2, "the operation takes no steps"
            return list(outcome.steps)
    raise AssertionError("never")


@pytest.mark.parametrize("which", ["first", "further"])
def test_killed_creation_leaves_a_disk_absent_or_whole(host: Host, image: Template, content: bytes, which: str) -> None:
    create = functools.partial(operations.create, host.instances, host.images_type, image)
    others = {}
    if which == "further":
        host.must(functools.partial(create, "web2"))
        others = {"web2": host.view("web2")}
    (host.instances / "other").mkdir()
    (host.instances / "other" / "file").write_bytes(b"not ours")

    def look(outcome: Outcome) -> None:
        found = host.view()
        assert found in (None, content), outcome.steps[-1:]
        assert outcome.killed or found == content
        assert {name: host.view(name) for name in others} == others
        assert (host.instances / "other" / "file").read_bytes() == b"not ours"

    steps = at_every_step(host, functools.partial(create, "web1"), look)
    assert_flushed_before_published(steps, [image.name, "disk"] if which == "first" else ["disk"])


def assert_flushed_before_published(steps: list[str], names: list[str]) -> None:
    """A power cut after the rename finds the bytes: SIGKILL cannot show that, the order of the steps does."""
    for name in names:
        published = steps.index(f"os.rename {name}")
        last_written = max((number for number, step in enumerate(steps[:published]) if _writes(step, name)), default=-1)
        flushed = [number for number, step in enumerate(steps[:published]) if _flushes(step, name)]
        assert flushed, f"{name} is not flushed before it is published: {steps}"
        assert flushed[-1] > last_written, f"{name} is written after its flush: {steps}"
        folder = "web1" if name == "disk" else "_base"
        assert f"os.fsync {folder}" in steps[published:], f"the name {name} is not flushed: {steps}"
    records = [number for number, step in enumerate(steps) if step == "os.rename disks.json"]
    assert records[0] < steps.index("os.rename disk"), "the record is written before the disk is published"


def _unfinished(name: str) -> set[str]:
    return {f"{name}.part", f"{name}.converted", f".{name}.part"}


def _writes(step: str, name: str) -> bool:
    verb, _, what = step.partition(" ")
    return verb in {"os.write", "os.pwrite", "os.copy_file_range", "os.truncate", "file.write"} and what in _unfinished(
        name
    )


def _flushes(step: str, name: str) -> bool:
    verb, _, what = step.partition(" ")
    return verb == "os.fsync" and what in _unfinished(name)


def test_killed_generation_leaves_a_disk_absent_or_whole(host: Host, tmp_path: Path) -> None:
    path = tmp_path / "swap"
    path.write_bytes(os.urandom(4096).ljust(Mi, b"\0"))
    swap = Template(content=path, image_id="", role="generated")
    wanted = path.read_bytes() + bytes(operations.SIZE - Mi)

    def look(outcome: Outcome) -> None:
        found = host.view(name="disk.swap")
        assert found in (None, wanted), outcome.steps[-1:]
        assert outcome.killed or found == wanted

    at_every_step(
        host,
        functools.partial(operations.generate, host.instances, host.images_type, swap, generated_name("swap", Mi)),
        look,
    )


@pytest.fixture
def made(host: Host, image: Template, content: bytes) -> bytes:
    """There is a disk, on which a guest has written; its bytes."""
    host.must(functools.partial(operations.create, host.instances, host.images_type, image, "web1"))
    write_as_guest(host.instances / "web1" / "disk", host.images_type, Mi, b"guest" * 1024 + bytes(0))
    found = host.view()
    assert found is not None
    assert found != content
    return found


def test_killed_growth_leaves_the_bytes_and_the_old_size_or_the_new(host: Host, made: bytes) -> None:
    grown = made + bytes(operations.SIZE)

    def look(outcome: Outcome) -> None:
        assert host.view() in ((made, grown) if outcome.killed else (grown,))

    at_every_step(host, functools.partial(operations.resize, host.instances, host.images_type), look)


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_killed_export_leaves_the_disk_and_a_file_absent_or_whole(
    host: Host, made: bytes, tmp_path: Path, format: str
) -> None:
    target = host.instances / "exports" / "target"
    target.parent.mkdir()

    def extract_anew(outcome: Outcome) -> None:
        assert host.view() == made
        if target.exists():
            assert guest_view(target, format) == made
            target.unlink()
        else:
            assert outcome.killed

    at_every_step(
        host,
        functools.partial(operations.extract, host.instances, host.images_type, target, format),
        extract_anew,
    )


def test_killed_removal_leaves_the_disk_whole_or_gone(host: Host, made: bytes) -> None:
    def look(outcome: Outcome) -> None:
        found = host.view()
        assert found in ((made, None) if outcome.killed else (None,))
        if not outcome.killed:
            assert not (host.instances / "web1").exists()

    at_every_step(host, functools.partial(operations.remove, host.instances, host.images_type), look)


@pytest.mark.parametrize("images_type", ["qcow2"], indirect=True)
@pytest.mark.parametrize("action", ["flatten", "create", "rollback", "remove"])
def test_killed_change_of_an_overlay_keeps_its_bytes(host: Host, made: bytes, action: str) -> None:
    if action == "flatten":
        operation: Operation = functools.partial(operations.flatten, host.instances, "qcow2")
    else:
        operation = functools.partial(operations.snapshot, host.instances, "qcow2", action)
        if action != "create":
            operations.snapshot(host.instances, "qcow2", "create")
    at_every_step(host, operation, lambda _: _assert_view(host, made))


def _assert_view(host: Host, wanted: bytes) -> None:
    assert host.view() == wanted


def test_killed_at_random_instants_a_creation_leaves_nothing_partial(
    host: Host, image: Template, content: bytes
) -> None:
    """Steps are where Python looks; this looks between them, and inside qemu-img."""
    seed = int.from_bytes(os.urandom(4), "big")
    chance, killed = random.Random(seed), 0
    print(f"seed {seed}")  # shown where the test fails
    create = functools.partial(operations.create, host.instances, host.images_type, image)
    host.keep()
    for number in range(100 if FULL else 20):
        outcome = host.do(functools.partial(create, "web1"), after=chance.uniform(0.001, 0.15))
        killed += outcome.killed
        host.settled()
        assert host.view() in (None, content), (seed, number)
        host.must(functools.partial(create, "web1"))
        assert partial(host.instances) == set(), (seed, number)
        assert host.view() == content, (seed, number)
        host.check()
        host.back()
    assert killed, "nothing was killed: the instants are too late for this machine"


def test_the_harness_kills_where_it_says(host: Host, image: Template) -> None:
    """A harness that killed nothing would let every test above pass."""
    create = functools.partial(operations.create, host.instances, host.images_type, image, "web1")
    whole = host.must(create)
    assert not whole.killed
    host.must(functools.partial(operations.remove, host.instances, host.images_type))
    outcome = host.do(create, kill_at=3)
    assert outcome.killed
    assert len(outcome.steps) == 4
    failed = host.do(functools.partial(operations.resize, host.instances / "nowhere", "raw"))
    assert failed.error is not None
    assert errors.DiskNotFound.__name__ in failed.error
