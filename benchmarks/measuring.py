"""Times calls that take turns, so that what else the machine does meets all of them alike."""

import contextlib
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_STARTS: Final = frozenset({"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.system"})


class Processes:
    """Counts the processes that this one starts, by Python's audit events."""

    def __init__(self) -> None:
        self.started = 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if event in _STARTS:
            self.started += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one call took."""

    seconds: float
    cpu: float | None = None
    """Seconds of CPU, children included; None: not known."""
    processes: int | None = None
    """Started by the call; None: not counted."""


@dataclass(slots=True)
class Series:
    """The calls of one competitor."""

    label: str
    taken: list[Taken] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [each.seconds for each in self.taken]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def cpu(self) -> float | None:
        known = [each.cpu for each in self.taken if each.cpu is not None]
        return statistics.median(known) if known else None

    @property
    def processes(self) -> int | None:
        known = [each.processes for each in self.taken if each.processes is not None]
        return max(known) if known else None


Call = Callable[[], Taken]
"""Does the work once, and says what it took; what is not to be measured it does before and after."""


class Timer:
    """Measures work in this process."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._last: Taken | None = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """What happens within it is measured."""
        started, cpu, at = self._processes.started, cpu_seconds(), time.perf_counter()
        yield
        seconds = time.perf_counter() - at
        self._last = Taken(seconds=seconds, cpu=cpu_seconds() - cpu, processes=self._processes.started - started)

    @property
    def taken(self) -> Taken:
        """What was measured last."""
        assert self._last is not None
        return self._last


def cpu_seconds() -> float:
    """CPU that this process and its children that have ended have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def take_turns(competitors: Sequence[tuple[str, Call]], repeats: int, *, warm_ups: int = 1) -> list[Series]:
    """Let each do its work once, in turn, ``repeats`` times; every other round the other way round."""
    series = [Series(label) for label, _ in competitors]
    turns = list(zip(series, (call for _, call in competitors), strict=True))
    for number in range(warm_ups + repeats):
        for each, call in turns if number % 2 else reversed(turns):
            taken = call()
            if number >= warm_ups:
                each.taken.append(taken)
    return series


def ratio(of: Series, to: Series) -> float:
    """The median of the ratios of the calls of one round: what both met alike is out of it."""
    return statistics.median(a / b for a, b in zip(of.seconds, to.seconds, strict=True))


def difference(of: Series, less: Series) -> float:
    """The median of the differences of the calls of one round, in seconds."""
    return statistics.median(a - b for a, b in zip(of.seconds, less.seconds, strict=True))
