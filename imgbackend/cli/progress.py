"""Progress for people: bars on a terminal, plain lines in a pipe, nothing for what is quick.

Figures of one phase may come from several threads, and phases may overlap.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from imgbackend.cli.signals import Signals
from imgbackend.types import Progress

DELAY: Final = 0.3
"""Seconds: what takes less shows no progress."""
EVERY: Final = 10.0
"""Seconds between two lines of one phase in a pipe."""


class View(Protocol):
    """Something that shows figures."""

    def update(self, phase: str, done: int, total: int | None) -> None:
        """Take in a figure, in any thread."""

    def close(self, *, whole: bool) -> None:
        """End; ``whole``: the work succeeded."""


@dataclass(slots=True)
class _Phase:
    began: float
    told: float | None
    done: int
    total: int | None
    ended: bool = False


class Lines:
    """A line where a phase begins, one about every ten seconds, and one where it ends."""

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._began = clock()
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()

    def update(self, phase: str, done: int, total: int | None) -> None:
        """Write a line where one is due."""
        now = self._clock()
        with self._lock:
            state = self._phases.get(phase)
            if state is None or done < state.done:
                state = self._phases[phase] = _Phase(now, None, done, total)
            state.done, state.total = done, total
            if state.ended or now - self._began < DELAY:
                return
            if total is not None and done >= total > 0:
                self._end(phase, state, now)
            elif state.told is None:
                state.told = now
                self._write(_beginning(phase, total))
            elif now - state.told >= EVERY:
                state.told = now
                self._write(_middle(phase, state, now))

    def close(self, *, whole: bool) -> None:
        """End the phases whose total was not known."""
        now = self._clock()
        with self._lock:
            for phase, state in self._phases.items():
                if whole and state.told is not None and not state.ended:
                    self._end(phase, state, now)

    def _end(self, phase: str, state: _Phase, now: float) -> None:
        state.ended = True
        amount = f" {_size(state.done)}" if state.done else ""
        self._write(f"{phase}:{amount} in {now - state.began:.1f} s")


def _size(size: float) -> str:
    from imgbackend.cli.figures import human_size

    return human_size(size)


def _beginning(phase: str, total: int | None) -> str:
    return f"{phase}: {_size(total)}" if total else phase


def _middle(phase: str, state: _Phase, now: float) -> str:
    if not state.done:
        return f"{phase}: {now - state.began:.0f} s"
    of = f" of {_size(state.total)}, {state.done * 100 // state.total} %" if state.total else ""
    return f"{phase}: {_size(state.done)}{of}, {_size(state.done / max(now - state.began, 1e-3))}/s"


class _Delayed:
    """Bars that are made (and their library imported) only when the work has taken a while."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._view: View | None = None
        self._lock = threading.Lock()

    def update(self, phase: str, done: int, total: int | None) -> None:
        with self._lock:
            if self._view is None:
                if time.monotonic() - self._began < DELAY:
                    return
                from imgbackend.cli.bars import Bars

                self._view = Bars()
            self._view.update(phase, done, total)

    def close(self, *, whole: bool) -> None:
        with self._lock:
            view, self._view = self._view, None
        if view is not None:
            view.close(whole=whole)


@contextlib.contextmanager
def reporter(signals: Signals, *, quiet: bool) -> Iterator[Progress]:
    """A progress function that shows what is fitting on stderr, and that cancels when a signal came."""
    view: View | None = None
    if not quiet:
        view = _Delayed() if sys.stderr.isatty() else Lines(_write_line)

    def report(phase: str, done: int, total: int | None, /) -> None:
        signals.check()
        if view is not None:
            view.update(phase, done, total)

    whole = False
    try:
        yield report
        whole = True
    finally:
        if view is not None:
            view.close(whole=whole)


def _write_line(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads stderr any more: no reason to stop the work
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
