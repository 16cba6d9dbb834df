"""Reading in the background: when nobody else reads, and so many bytes in a second."""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from imgbackend import errors
from imgbackend.system.host import Host
from imgbackend.system.runner import CommandLimits

LOG = logging.getLogger(__name__)
_LIMITS: Final = CommandLimits(cpu_seconds=5, address_space=1 << 30)
_TOLD: Final = re.compile(r"(none|realtime|best-effort|idle)(?:: prio ([0-7]))?\s*\Z")
_CLASSES: Final = {"none": 0, "realtime": 1, "best-effort": 2, "idle": 3}
_SLICE: Final = 0.1
"""Seconds that are slept at most before the caller is asked whether to go on."""


@contextlib.contextmanager
def idle(host: Host) -> Iterator[None]:
    """This thread, and what it starts, reads and writes only when the device has nothing else to do.

    By ionice(1) of util-linux, as Python has no function for ioprio_set(2).  Schedulers of the kernel
    that know no classes (none, mq-deadline in part) take no notice.  Where it cannot be had, it is done without.
    """
    thread = str(threading.get_native_id())
    before: list[str] = []
    try:
        told = _TOLD.match(host.run(["ionice", "-p", thread], limits=_LIMITS))
        if told is not None:
            host.run(["ionice", "-c", "3", "-p", thread], limits=_LIMITS)
            number = _CLASSES[told[1]]
            before = ["ionice", "-c", str(number), *(["-n", told[2]] if number in (1, 2) else []), "-p", thread]
    except errors.Error as exc:
        LOG.warning("Reading is not put behind that of others: %s", exc)
    try:
        yield
    finally:
        if before:
            with contextlib.suppress(errors.Error):
                host.run(before, limits=_LIMITS)


class Throttle:
    """Keeps reading to a rate."""

    def __init__(
        self,
        rate: int | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``rate`` is bytes per second; None: as fast as it goes."""
        self.rate = rate
        """Bytes per second; None: no limit."""
        self._clock, self._sleep = clock, sleep
        self._due = clock()

    def took(self, count: int, go_on: Callable[[], None]) -> None:
        """``count`` bytes were read: wait until more may be; ``go_on`` is called meanwhile, and may raise."""
        if self.rate is None:
            return
        now = self._clock()
        self._due = max(self._due, now - _SLICE) + count / self.rate  # what was not used is not saved up
        while (left := self._due - now) > 0:
            go_on()
            self._sleep(min(left, _SLICE))
            now = self._clock()
