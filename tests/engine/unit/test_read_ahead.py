"""Reads ahead in threads: their order, their errors, their end, and how far ahead they get."""

import contextlib
import threading
from collections.abc import Iterator

import pytest

from imgbackend.bases import read_ahead
from imgbackend.bases.instance_folders import nothing
from imgbackend.bases.read_ahead import AHEAD, THREADS, in_order

ITEMS = [str(number) for number in range(4 * AHEAD)]


def reading() -> list[threading.Thread]:
    """The threads that read ahead."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("imgbackend-read")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert reading() == []


def test_what_was_read_comes_in_order_though_the_first_is_read_last() -> None:
    others = threading.Event()

    def read(item: str) -> str:
        if item == ITEMS[0]:
            assert others.wait(timeout=60), "no other item is read meanwhile"
        elif item == ITEMS[THREADS]:
            others.set()
        return f"read {item}"

    assert list(in_order(ITEMS, read, nothing)) == [f"read {item}" for item in ITEMS]


def test_so_many_are_read_at_once_and_not_in_the_caller_s_thread() -> None:
    together = threading.Barrier(THREADS)

    def read(item: str) -> int:
        if ITEMS.index(item) < THREADS:
            together.wait(timeout=60)
        return threading.get_ident()

    by = set(in_order(ITEMS, read, nothing))
    assert len(by) == THREADS
    assert threading.get_ident() not in by


def test_no_more_items_are_read_ahead_than_promised() -> None:
    begun: list[str] = []

    def read(item: str) -> str:
        begun.append(item)
        return item

    with contextlib.closing(in_order(ITEMS, read, nothing)) as answers:
        for number, _ in enumerate(answers, start=1):
            assert len(begun) <= number - 1 + AHEAD
    assert sorted(begun) == sorted(ITEMS)


def test_turn_is_called_in_the_caller_s_thread_before_each_item() -> None:
    told: list[str] = []

    def turn() -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append("turn")

    for item in in_order(ITEMS[:3], str, turn):
        told.append(item)
    assert told == ["turn", "0", "turn", "1", "turn", "2"]


def test_error_of_a_read_is_raised_when_it_is_the_item_s_turn() -> None:
    def read(item: str) -> str:
        if item == "3":
            raise OSError(5, "Input/output error", item)
        return item

    answers = in_order(ITEMS, read, nothing)
    assert [next(answers) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(OSError, match="Input/output error"):
        next(answers)
    assert reading() == []


class _Stopped(Exception):
    """Somebody wants the reader to end."""


def test_turn_that_raises_ends_all_and_what_was_not_begun_is_not_read() -> None:
    ended, begun, taken = threading.Event(), list[str](), list[str]()

    def read(item: str) -> str:
        begun.append(item)
        assert item == ITEMS[0] or ended.wait(timeout=60)
        return item

    def turn() -> None:
        if taken:
            threading.Timer(0.05, ended.set).start()  # whoever reads now is waited for
            raise _Stopped

    with pytest.raises(_Stopped):
        taken.extend(in_order(ITEMS, read, turn))
    assert reading() == []
    assert taken == ["0"]
    assert len(begun) <= 1 + THREADS


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_reader_that_stops_early_leaves_no_thread(how: str) -> None:
    answers = in_order(ITEMS, str, nothing)
    assert next(answers) == "0"
    assert reading() != []
    if how == "closed":
        answers.close()
    del answers
    assert reading() == []


def test_nothing_to_read_is_no_error() -> None:
    assert list(read_ahead.in_order([], str, nothing)) == []
