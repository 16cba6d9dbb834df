"""How many disks are made at once, whatever asks for them."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from imgbackend.types import Progress

_LOOK: Final = 0.1
"""Seconds between two signs of life of one that waits."""

Bounded: TypeAlias = Callable[[Progress], contextlib.AbstractContextManager[None]]


def at_most(number: int | None) -> Bounded:
    """What makes so many wait for each other that enter it, in any number of threads; None: nobody waits.

    Who waits calls the progress that is given, which may raise to end the wait.
    """
    slots = threading.Semaphore(number) if number is not None else None

    @contextlib.contextmanager
    def bounded(progress: Progress) -> Iterator[None]:
        if slots is None:
            yield
            return
        while not slots.acquire(timeout=_LOOK):
            progress("wait", 0, None)
        try:
            yield
        finally:
            slots.release()

    return bounded
