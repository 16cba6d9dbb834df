"""Reads what is asked for next, while its reader waits: for file systems that answer slowly.

The reader stays one thread, and gets what was read in the order in which it would have read it.  This module is
imported where a file system is slow, and nowhere else: it brings threads.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

THREADS: Final = 16
"""That read at once: a server answers so many calls in the time of one."""
AHEAD: Final = 4 * THREADS
"""Items that are read, or are being read, before it is their turn; one that takes long holds up so many at most."""


def in_order(items: Sequence[str], read: Callable[[str], T], turn: Callable[[], object]) -> Generator[T, None, None]:
    """What ``read`` returns of each item, in their order; it is called in threads, of few items ahead.

    ``turn`` is called in this thread before each item is waited for.  What it raises, or ``read``, is raised when it is
    the item's turn; the items before it were given out.  However the reader ends, also where it closes this iterator
    early, no further item is read and no thread is left: those that read are waited for.
    """
    pool = ThreadPoolExecutor(min(THREADS, max(len(items), 1)), thread_name_prefix="imgbackend-read")
    waiting: deque[Future[T]] = deque()
    try:
        for number in range(len(items)):
            while len(waiting) < AHEAD and number + len(waiting) < len(items):
                waiting.append(pool.submit(read, items[number + len(waiting)]))
            turn()
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
