"""Many who want the same at once, in threads and in processes."""

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Cached, Mi, Progress
from labs.contents import bytes_of, partial
from labs.engines import MakeEngine
from labs.holders import wait_until_none_holds
from labs.images import qcow2
from labs.templates import Template, in_threads

pytestmark = pytest.mark.slow

_TESTS = Path(__file__).parents[1]


class Gate:
    """Holds a fetch until so many wait for it: they have all asked before it ends."""

    def __init__(self, waiters: int) -> None:
        self._all, self._lock, self._waiting = threading.Event(), threading.Lock(), set[int]()
        self._waiters = waiters
        if not waiters:
            self._all.set()

    def progress(self, phase: str, done: int, total: int | None) -> None:
        """For those who wait."""
        if phase == "wait":
            with self._lock:
                self._waiting.add(threading.get_ident())
                if len(self._waiting) >= self._waiters:
                    self._all.set()

    def hold(self, target: Path, progress: Progress) -> None:
        """For the fetch."""
        assert self._all.wait(60)


@pytest.mark.parametrize("count", [1, 4, 16])
def test_threads_that_want_an_image_at_once_fetch_it_once(engine: Engine, raw_image: Template, count: int) -> None:
    gate = Gate(count - 1)
    image = raw_image.but(before=gate.hold)
    found = in_threads(
        count, lambda number: engine.disk(f"web{number}").cache(image, image.name, progress=gate.progress)
    )
    assert image.fetches == 1
    assert sorted(cached.fetched for cached in found if isinstance(cached, Cached)) == [False] * (count - 1) + [True]
    assert len(list(engine.disks())) == count


@pytest.mark.parametrize("count", [4, 16])
@pytest.mark.parametrize(
    "failure",
    [errors.SourceUnavailable("it broke off"), errors.TemplateCorrupt("wrong digest")],
    ids=["source", "image"],
)
def test_threads_share_one_failed_fetch(
    engine: Engine, raw_image: Template, count: int, failure: errors.Error, instances: Path
) -> None:
    gate = Gate(count - 1)

    def fail(target: Path, progress: Progress) -> None:
        gate.hold(target, progress)
        raise failure

    image = raw_image.but(before=fail)
    found = in_threads(
        count, lambda number: engine.disk(f"web{number}").cache(image, image.name, progress=gate.progress)
    )
    assert image.fetches == 1
    assert [type(error) for error in found] == [type(failure)] * count
    assert all(str(failure) in str(error) for error in found)
    assert list(engine.disks()) == []
    assert partial(instances) == set()
    again = raw_image.but(before=None)
    assert engine.disk("web0").cache(again, again.name).fetched is True  # who asks later tries again


def test_a_denial_is_its_callers_own(engine: Engine, raw_image: Template) -> None:
    gate = Gate(3)
    denied = threading.Lock()

    def deny_the_first(target: Path, progress: Progress) -> None:
        gate.hold(target, progress)
        if denied.acquire(blocking=False):
            raise errors.SourceDenied("not for you")

    image = raw_image.but(before=deny_the_first)
    found = in_threads(4, lambda number: engine.disk(f"web{number}").cache(image, image.name, progress=gate.progress))
    assert sorted(type(each).__name__ for each in found) == ["Cached", "Cached", "Cached", "SourceDenied"]
    assert image.fetches == 2


@pytest.mark.parametrize("declared", [True, False])
def test_threads_learn_of_a_too_large_image_by_one_fetch_and_each_compares(
    engine: Engine, tmp_path: Path, declared: bool
) -> None:
    """Of eight disks only the two that are large enough are made."""
    gate = Gate(0 if declared else 7)
    content = qcow2(tmp_path / "large", 64 * Mi)
    image = Template(
        content=content, image_id="large", format="qcow2", virtual_size=64 * Mi if declared else None, before=gate.hold
    )
    first = threading.Event()

    def work(number: int) -> object:
        size = 64 * Mi if number >= 6 else Mi

        def progress(phase: str, done: int, total: int | None) -> None:
            gate.progress(phase, done, total)
            first.set()

        if number and not declared:
            assert first.wait(60)  # the first to fetch is one whose disk is too small
        return engine.disk(f"web{number}").cache(image, image.name, size, progress=progress)

    found = in_threads(8, work)
    assert [type(each).__name__ for each in found] == ["TemplateTooLarge"] * 6 + ["Cached"] * 2
    assert image.fetches == (1 if declared else 2)


def test_threads_that_want_the_same_disk_make_it_once(engine: Engine, raw_image: Template) -> None:
    found = in_threads(8, lambda _: engine.disk("web1").cache(raw_image, raw_image.name, 9 * Mi))
    ways = [cached.way for cached in found if isinstance(cached, Cached)]
    assert len(ways) == 8
    assert sorted(way == "exists" for way in ways) == [False] + [True] * 7


def test_threads_that_make_and_remove_one_disk_leave_it_whole_or_absent(
    engine: Engine, raw_image: Template, instances: Path, raw_content: Path
) -> None:
    def work(number: int) -> None:
        disk = engine.disk("web1")
        for _ in range(5):
            if number % 2:
                disk.cache(raw_image, raw_image.name)
            else:
                disk.remove()
            disk.exists()

    assert in_threads(4, work) == [None] * 4
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    assert bytes_of(disk) == raw_content.read_bytes()
    assert partial(instances) == set()
    assert raw_image.fetches == 1


def test_disk_that_goes_while_it_is_looked_at_is_absent(
    make_engine: MakeEngine, raw_image: Template, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, look = instances / "web1" / "disk", os.lstat
    disk = make_engine({"images_type": "qcow2"}).disk("web1")
    disk.cache(raw_image, raw_image.name)

    def removed_behind(path: Path, *args: Any, **kwargs: Any) -> os.stat_result:
        found = look(path, *args, **kwargs)
        if path == file:
            file.unlink()
        return found

    monkeypatch.setattr(os, "lstat", removed_behind)
    assert not disk.exists()


def test_threads_that_make_disks_of_one_instance_lose_no_record(engine: Engine, raw_image: Template) -> None:
    names = [f"disk.eph{number}" for number in range(8)]
    in_threads(8, lambda number: engine.disk("web1", names[number]).cache(raw_image, raw_image.name))
    assert sorted(disk.id.name for disk in engine.disks()) == names


def test_copies_of_one_base_run_side_by_side(make_engine: MakeEngine, raw_image: Template) -> None:
    """Each copy waits, in its midst, until the other has begun too: one after the other would never end."""
    engine = make_engine({"images_type": "raw"})
    engine.disk("web0").cache(raw_image, raw_image.name)
    both = threading.Barrier(2, timeout=60)

    def work(number: int) -> object:
        met: list[int] = []

        def progress(phase: str, done: int, total: int | None) -> None:
            if phase == "copy" and not met:
                met.append(both.wait())

        return engine.disk(f"web{number + 1}").cache(raw_image, raw_image.name, progress=progress)

    assert [type(each) for each in in_threads(2, work)] == [Cached, Cached]


def test_a_fetch_of_one_image_does_not_hold_up_another(
    engine: Engine, raw_image: Template, qcow2_image: Template
) -> None:
    done = threading.Event()

    def hold(target: Path, progress: Progress) -> None:
        assert done.wait(60)

    slow = raw_image.but(before=hold)

    def work(number: int) -> object:
        if number == 0:
            return engine.disk("web0").cache(slow, slow.name)
        made = engine.disk("web1").cache(qcow2_image, qcow2_image.name)
        done.set()
        return made

    assert [type(each) for each in in_threads(2, work)] == [Cached, Cached]


def test_a_waiter_is_cancelled_and_the_fetch_goes_on(engine: Engine, raw_image: Template) -> None:
    gone = threading.Event()

    def hold(target: Path, progress: Progress) -> None:
        assert gone.wait(60)

    image, began = raw_image.but(before=hold), threading.Event()

    def cancel(phase: str, done: int, total: int | None) -> None:
        if phase == "wait":
            raise InterruptedError("enough")

    def work(number: int) -> object:
        if number == 0:
            return engine.disk("web0").cache(image, image.name, progress=lambda *_: began.set())
        assert began.wait(60)
        try:
            return engine.disk("web1").cache(image, image.name, progress=cancel)
        finally:
            gone.set()

    first, second = in_threads(2, work)
    assert isinstance(first, Cached)
    assert isinstance(second, InterruptedError)
    assert engine.disk("web1").exists() is False


def test_two_engines_of_one_process_fetch_once(make_engine: MakeEngine, images_type: str, raw_image: Template) -> None:
    engines = [make_engine({"images_type": images_type}) for _ in range(4)]
    gate = Gate(3)
    image = raw_image.but(before=gate.hold)
    found = in_threads(
        4, lambda number: engines[number].disk(f"web{number}").cache(image, image.name, progress=gate.progress)
    )
    assert [type(each) for each in found] == [Cached] * 4
    assert image.fetches == 1


_PROGRAM = """
import os, pickle, sys
from imgbackend import Engine, errors
import imgbackend.engine, imgbackend.state.shared_failure, imgbackend_qcow2.driver
imgbackend.state.shared_failure.SECONDS = 300.0  # however long sixteen processes take to look, one after the other
overrides, image = pickle.load(sys.stdin.buffer)
def work(number):
    told = []
    def progress(phase, done, total):
        if phase == "wait" and not told:
            told.append(os.write(2, b"waits\\n"))
    with Engine.from_config([], overrides) as engine:
        try:
            engine.disk(f"web{number}").cache(image, image.name, progress=progress)
            os.write(1, b"made\\n")
        except errors.Error as exc:
            os.write(1, type(exc).__name__.encode() + b"\\n")
children = []
for number in range(16):
    child = os.fork()
    if not child:
        try:
            work(number)
        finally:
            os._exit(0)
    children.append(child)
for child in children:
    os.waitpid(child, 0)
"""


def fail_slowly(target: Path, progress: Progress) -> None:
    """A fetch that breaks when all the others wait for it."""
    hold_for_others(target, progress)
    raise errors.SourceUnavailable("it broke off")


def hold_for_others(target: Path, progress: Progress) -> None:
    """Until the test, having seen that all others wait, makes a file beside the instances."""
    end = time.monotonic() + 300
    while not (target.parents[2] / "go").exists():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("before", "told", "fetches"), [(hold_for_others, "made", 1), (fail_slowly, "SourceUnavailable", 1)]
)
def test_sixteen_processes_that_want_an_image_at_once_fetch_it_once(
    instances: Path,
    tmp_path: Path,
    raw_image: Template,
    before: Callable[[Path, Progress], None],
    told: str,
    fetches: int,
) -> None:
    image = raw_image.but(before=before)
    env = {**os.environ, "PYTHONPATH": str(_TESTS)}
    parent = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    assert parent.stderr is not None
    with parent:
        parent.stdin.write(pickle.dumps(({"instances_path": str(instances), "images_type": "qcow2"}, image)))
        parent.stdin.flush()
        for _ in range(15):  # all but the one that fetches
            line = parent.stderr.readline()
            assert line == b"waits\n", line + parent.stderr.read()
        (tmp_path / "go").touch()
        assert parent.stdout.read().decode().split() == [told] * 16
    assert image.fetches == fetches
    assert partial(instances) == set()
    wait_until_none_holds(instances)
