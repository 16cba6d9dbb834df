"""Progress in a pipe: few lines, and none for what is quick.  The clock is ours: nothing waits."""

import signal

import pytest

from imgbackend.cli.progress import Lines, reporter
from imgbackend.cli.signals import Cancelled, Signals
from imgbackend.types import Mi


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def view(clock: Clock, lines: list[str]) -> Lines:
    return Lines(lines.append, clock)


def test_quick_work_shows_nothing(view: Lines, clock: Clock, lines: list[str]) -> None:
    view.update("copy", 0, 100)
    clock.now = 0.29
    view.update("copy", 100, 100)
    view.close(whole=True)
    assert lines == []


def test_a_phase_tells_its_beginning_a_line_every_ten_seconds_and_its_end(
    view: Lines, clock: Clock, lines: list[str]
) -> None:
    for second in range(41):
        clock.now = float(second)
        view.update("fetch", second * Mi, 40 * Mi)
    view.close(whole=True)
    assert lines == [
        "fetch: 40 MiB",
        "fetch: 11 MiB of 40 MiB, 27 %, 1 MiB/s",
        "fetch: 21 MiB of 40 MiB, 52 %, 1 MiB/s",
        "fetch: 31 MiB of 40 MiB, 77 %, 1 MiB/s",
        "fetch: 40 MiB in 40.0 s",
    ]


def test_a_phase_of_unknown_length_ends_when_the_work_does(view: Lines, clock: Clock, lines: list[str]) -> None:
    for second in (0, 1, 12):
        clock.now = float(second)
        view.update("fetch", second * Mi, None)
    view.close(whole=True)
    assert lines == ["fetch", "fetch: 12 MiB, 1 MiB/s", "fetch: 12 MiB in 12.0 s"]


def test_a_failed_phase_is_not_said_to_have_ended(view: Lines, clock: Clock, lines: list[str]) -> None:
    clock.now = 1.0
    view.update("fetch", 0, None)
    view.close(whole=False)
    assert lines == ["fetch"]


def test_overlapping_phases_do_not_flood_the_pipe(view: Lines, clock: Clock, lines: list[str]) -> None:
    for step in range(1, 90):
        clock.now = step / 10
        view.update("fetch", step, 90)
        view.update("digest", step, 90)
    assert lines == ["fetch: 90 B", "digest: 90 B"]


def test_a_retried_phase_begins_anew(view: Lines, clock: Clock, lines: list[str]) -> None:
    clock.now = 1.0
    view.update("fetch", 50, 90)
    view.update("fetch", 10, 90)
    clock.now = 2.0
    view.update("fetch", 90, 90)
    assert lines == ["fetch: 90 B", "fetch: 90 B", "fetch: 90 B in 1.0 s"]


def test_waiting_is_told_in_seconds(view: Lines, clock: Clock, lines: list[str]) -> None:
    for second in range(25):
        clock.now = float(second)
        view.update("wait", 0, None)
    assert lines == ["wait", "wait: 11 s", "wait: 21 s"]


def test_progress_cancels_once_a_signal_came() -> None:
    signals = Signals()
    with reporter(signals, quiet=True) as report:
        report("fetch", 1, 2)
        signals.received = signal.SIGTERM
        with pytest.raises(Cancelled) as caught:
            report("fetch", 2, 2)
    assert caught.value.status == 143
