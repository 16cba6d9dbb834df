"""Trying again: what is worth it, how often, and how long to wait between."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from imgbackend.errors import SourceUnavailable
from imgbackend.types import Progress, ignore

LONGEST: Final = 30.0
"""Seconds that are waited at most before one retry."""

_TICK = 0.1

T = TypeVar("T")


class Interrupted(SourceUnavailable):
    """A failure that may pass by itself: the one that is tried again.

    It stays inside the sources: :meth:`Retry.run` turns the last one into a plain
    :class:`~imgbackend.errors.SourceUnavailable`.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often a source is tried again, and with what back-off."""

    times: int
    """Retries after the first try; 0: none."""
    delay: float
    """Seconds before the first retry, doubled for each further one, up to :data:`LONGEST`."""

    @classmethod
    def configured(cls, conf: Any) -> "Retry":
        """As ``[sources] num_retries`` and ``retry_delay`` say."""
        return cls(times=conf.sources.num_retries, delay=conf.sources.retry_delay)

    def run(self, call: Callable[[], T], progress: Progress = ignore) -> T:
        """What ``call`` returns, at the first try that is not :class:`Interrupted`.

        Whatever else ``call`` raises, and what ``progress`` raises while waiting,
        passes at once and unchanged.

        :raises SourceUnavailable: if the last try was interrupted too.
        """
        for attempt in itertools.count():
            try:
                return call()
            except Interrupted as exc:
                if attempt >= self.times:
                    tried = f" ({attempt + 1} tries)" if attempt else ""
                    raise SourceUnavailable(f"{exc}{tried}") from exc
            self._wait(attempt, progress)
        raise AssertionError("unreachable")

    def _wait(self, attempt: int, progress: Progress) -> None:
        until = time.monotonic() + min(self.delay * 2.0 ** min(attempt, 32), LONGEST)
        while True:
            progress("wait", 0, None)
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _TICK))


def reason(exc: BaseException) -> str:
    """What is behind an error of a connection, in a few words.

    The errors around it are long, and repeat the URL with all its secrets.
    """
    seen: list[BaseException] = []
    pending: list[Any] = [exc]
    while pending:
        found = pending.pop(0)
        if isinstance(found, BaseException) and found not in seen:
            seen.append(found)
            pending += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
    for found in reversed(seen):
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
    names = [type(found).__name__ for found in seen]
    if any("Timeout" in name for name in names):
        return "timed out"
    return "the connection was closed" if "RemoteDisconnected" in names or "IncompleteRead" in names else names[-1]
