"""Several things at once: all are done, or the first failure ends the others."""

import contextvars
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Final, TypeVar

from imgbackend.types import Progress

T = TypeVar("T")

_MOST: Final = 8
_LOOK: Final = 0.1


class _Ended(Exception):
    """Another of the jobs failed, or the caller was interrupted."""


def all_at_once(jobs: Sequence[Callable[[Progress], T]], progress: Sequence[Progress], *, most: int = _MOST) -> list[T]:
    """Call each job with its own progress, ``most`` at once, each in a thread; their results in the same order.

    One at a time they run in this thread, where a signal interrupts also what waits for a server.

    The first failure is raised when all have ended; the others are told through their
    progress, which then raises.  So is an interruption of this thread.
    """
    ended = threading.Event()

    def told(own: Progress) -> Progress:
        def tell(phase: str, done: int, total: int | None) -> None:
            if ended.is_set():
                raise _Ended
            own(phase, done, total)

        return tell

    if min(len(jobs), most) <= 1:
        return [job(own) for job, own in zip(jobs, progress, strict=True)]
    with ThreadPoolExecutor(min(len(jobs), most), thread_name_prefix="imgbackend-job") as pool:
        futures: list[Future[T]] = []
        try:
            for job, own in zip(jobs, progress, strict=True):
                futures.append(pool.submit(contextvars.copy_context().run, job, told(own)))
            waiting = set(futures)
            while waiting:  # not for ever: an interruption has to be seen
                done, waiting = wait(waiting, timeout=_LOOK, return_when=FIRST_EXCEPTION)
                if any(future.exception() is not None for future in done):
                    break
        finally:
            ended.set()
            for future in futures:
                future.cancel()
    return _results(futures)


def _results(futures: Sequence["Future[T]"]) -> list[T]:
    failures = [future.exception() for future in futures if not future.cancelled()]
    real = [failure for failure in failures if failure is not None and not isinstance(failure, _Ended)]
    if real:
        raise real[0]
    return [future.result() for future in futures]
