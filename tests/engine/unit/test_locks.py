"""Locks: their order, who waits for whom, and what happens to their files."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.system.locks import Held, Locks
from imgbackend.types import DiskId, Progress, ignore

DISK = DiskId(instance="web1", name="disk")
OTHER = DiskId(instance="web2", name="disk")
NAME = "a" * 40

Take = Callable[[Locks], AbstractContextManager[Held]]
LEVELS: list[Take] = [
    lambda locks: locks.disk(DISK),
    lambda locks: locks.base(NAME),
    lambda locks: locks.record("web1"),
]


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(tmp_path / "locks")


@pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 2), (1, 2)])
def test_locks_are_taken_in_their_order(locks: Locks, first: int, second: int) -> None:
    with LEVELS[first](locks), LEVELS[second](locks):
        pass
    with LEVELS[second](locks):
        pass  # and nothing is remembered of what was let go


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)])
def test_another_order_is_refused_and_leaves_the_lock_held(locks: Locks, first: int, second: int) -> None:
    with LEVELS[first](locks):
        with pytest.raises(errors.DiskBusy, match="inside another"), LEVELS[second](locks):
            pytest.fail("the lock was given")
        assert _others_can_take(locks, LEVELS[first]) is False
    assert _others_can_take(locks, LEVELS[first]) is True


def test_a_second_disk_is_refused_inside_the_first_since_two_could_wait_for_each_other(locks: Locks) -> None:
    with locks.disk(DISK), pytest.raises(errors.DiskBusy), locks.disk(OTHER):
        pytest.fail("the lock was given")


def test_a_call_from_the_callback_of_a_waiter_is_refused_and_does_not_wait_for_itself(locks: Locks) -> None:
    def from_inside(phase: str, done: int, total: int | None) -> None:
        assert phase == "wait"
        with locks.disk(DISK):
            pytest.fail("the lock was given")

    with _held_elsewhere(locks, LEVELS[0]):
        with pytest.raises(errors.DiskBusy, match="inside another"), locks.disk(DISK, from_inside):
            pytest.fail("the lock was given")
        assert _refusals_leave_nothing(locks)


@pytest.mark.parametrize("holder", ["thread", "process"])
def test_a_waiter_is_told_that_it_waits_and_can_be_cancelled(locks: Locks, holder: str) -> None:
    told: list[tuple[str, int, int | None]] = []

    def cancel(phase: str, done: int, total: int | None) -> None:
        told.append((phase, done, total))
        if len(told) == 2:
            raise InterruptedError("enough")

    held = _held_elsewhere if holder == "thread" else _held_by_a_process
    with held(locks, LEVELS[0]), pytest.raises(InterruptedError, match="enough"), locks.disk(DISK, cancel):
        pytest.fail("the lock was given")
    assert told == [("wait", 0, None)] * 2
    with locks.disk(DISK):
        pass  # who gave up left nothing in the way


def test_two_objects_of_one_process_exclude_each_other_also_by_another_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    one, other = Locks(tmp_path / "real" / "locks"), Locks(tmp_path / "link" / "locks")
    with one.base(NAME):
        assert _others_can_take(other, LEVELS[1]) is False
    assert _others_can_take(other, LEVELS[1]) is True


def test_who_fails_to_get_a_lock_does_not_drop_that_of_its_holder(locks: Locks) -> None:
    """Closing any descriptor of a file drops a process's fcntl locks of it."""
    with locks.disk(DISK):
        for _ in range(3):
            assert _others_can_take(locks, LEVELS[0]) is False
        assert _a_process_can_take(locks, LEVELS[0]) is False


@pytest.mark.parametrize("level", [1])
def test_processes_exclude_each_other(locks: Locks, level: int) -> None:
    with LEVELS[level](locks):
        assert _a_process_can_take(locks, LEVELS[level]) is False
    with _held_by_a_process(locks, LEVELS[level]):
        assert _others_can_take(locks, LEVELS[level]) is False
    assert _a_process_can_take(locks, LEVELS[level]) is True


def test_a_killed_holder_holds_nothing(locks: Locks) -> None:
    with _held_by_a_process(locks, LEVELS[0]):
        pass  # leaving kills it
    assert _others_can_take(locks, LEVELS[0]) is True


@pytest.mark.parametrize("waiters", ["threads", "processes"])
def test_waiters_of_a_lock_whose_file_was_removed_never_hold_it_together(tmp_path: Path, waiters: str) -> None:
    """Each holder removes the file; who waited on the old inode must not think that it has the lock."""
    folder, tally = tmp_path / "locks", tmp_path / "tally"
    tally.write_text("0")
    if waiters == "threads":
        threads = [threading.Thread(target=count_up, args=(folder, tally, 25)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    else:
        line = f"from {__name__} import *; count_up(Path({str(folder)!r}), Path({str(tally)!r}), 25)"
        started = [_python(line) for _ in range(4)]
        assert [process.wait(60) for process in started] == [0] * 4
    assert tally.read_text() == "100"


def count_up(folder: Path, tally: Path, times: int) -> None:
    """Add to a number that only a lock protects, and remove the lock's file each time."""
    locks = Locks(folder)
    for _ in range(times):
        with locks.disk(DISK) as held:
            number = int(tally.read_text())
            tally.write_text(str(number + 1))
            held.forget()


def test_a_forked_child_neither_inherits_locks_nor_drops_those_of_its_parent(tmp_path: Path) -> None:
    """In a process of its own, whose only other thread holds a lock at the fork."""
    line = f"from {__name__} import fork_while_locked; fork_while_locked({str(tmp_path / 'locks')!r})"
    assert _python(line).wait(60) == 0


def fork_while_locked(folder: str) -> None:
    """Exits with 0 if all is as it should be; run by the test above."""
    locks = Locks(Path(folder))
    with _held_elsewhere(locks, LEVELS[0]), locks.base(NAME):
        child = os.fork()
        if not child:
            blocked = not _can_take(locks, LEVELS[0]) and not _can_take(locks, LEVELS[1])
            with locks.record("web1"), _refused(locks):
                pass  # ranks are the child's own
            os._exit(0 if blocked else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert not _a_process_can_take(locks, LEVELS[0])
        assert not _a_process_can_take(locks, LEVELS[1])
    child = os.fork()
    if not child:
        os._exit(0 if _can_take(locks, LEVELS[0]) and _can_take(locks, LEVELS[1]) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_lock_of_a_base_has_the_name_that_nova_gives_it(locks: Locks, tmp_path: Path) -> None:
    with locks.base(NAME):
        assert [path.name for path in (tmp_path / "locks").iterdir()] == [f"nova-{NAME}"]


@contextmanager
def _refused(locks: Locks) -> Iterator[None]:
    with pytest.raises(errors.DiskBusy), locks.disk(DISK):
        pass
    yield


class _Never(Exception):
    """Raised by a waiter that does not want to wait."""


def _not_wait(phase: str, done: int, total: int | None) -> None:
    raise _Never


def _can_take(locks: Locks, take: Take) -> bool:
    """Whether this thread would get the lock at once; tried without its own ranks."""
    with ExitStack() as stack:
        try:
            stack.enter_context(take(_Hurried(locks)))
        except _Never:
            return False
    return True


def test_spare_base_is_locked_beside_another_and_waits_for_nobody(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    with locks.base("a" * 40):
        with locks.spare_base("b" * 40, _not_wait):
            assert not _others_can_take(locks, lambda each: each.base("b" * 40))
        with pytest.raises(_Never), locks.spare_base("a" * 40, _not_wait):
            pytest.fail("it is held here already")
        with locks.record("web1"), pytest.raises(errors.DiskBusy), locks.spare_base("b" * 40, _not_wait):
            pytest.fail("a base comes before a record")
    assert _others_can_take(locks, lambda each: each.base("b" * 40))


class _Hurried(Locks):
    """The same locks; whoever would have to wait raises instead."""

    def __init__(self, locks: Locks) -> None:
        super().__init__(locks._folder)

    @contextmanager
    def _lock(self, rank: int, name: str, progress: Progress, *, beside: bool = False) -> Iterator[Held]:
        with super()._lock(rank, name, _not_wait, beside=beside) as held:
            yield held


def _others_can_take(locks: Locks, take: Take) -> bool:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(_can_take(locks, take)))
    thread.start()
    thread.join(30)
    return found[0]


def _a_process_can_take(locks: Locks, take: Take) -> bool:
    level = LEVELS.index(take)
    process = _python(
        f"import pathlib, sys; from {__name__} import LEVELS, Locks, _can_take\n"
        f"sys.exit(0 if _can_take(Locks(pathlib.Path({str(locks._folder)!r})), LEVELS[{level}]) else 3)"
    )
    status = process.wait(60)
    assert status in (0, 3)
    return status == 0


def _refusals_leave_nothing(locks: Locks) -> bool:
    """A thread that was refused may go on to take locks in order."""
    with locks.base("b" * 40), locks.record("web1"):
        return True


@contextmanager
def _held_elsewhere(locks: Locks, take: Take) -> Iterator[None]:
    """Another thread of this process holds the lock meanwhile."""
    holds, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with take(locks):
            holds.set()
            let_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(30)
    try:
        yield
    finally:
        let_go.set()
        thread.join(30)


@contextmanager
def _held_by_a_process(locks: Locks, take: Take) -> Iterator[None]:
    """Another process holds the lock meanwhile; it is killed at the end."""
    level = LEVELS.index(take)
    process = _python(
        f"import pathlib, sys; from {__name__} import LEVELS, Locks\n"
        f"with LEVELS[{level}](Locks(pathlib.Path({str(locks._folder)!r}))):\n"
        "    print('held', flush=True); sys.stdin.read()",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
    finally:
        process.kill()
        process.communicate()


def _python(program: str, *, stdin: int = subprocess.DEVNULL, stdout: int | None = None) -> "subprocess.Popen[bytes]":
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, "-c", program], stdin=stdin, stdout=stdout, env=env)


def test_nothing_is_done_before_a_lock_is_taken(tmp_path: Path) -> None:
    Locks(tmp_path / "locks").disk(DISK, ignore)
    assert not (tmp_path / "locks").exists()
