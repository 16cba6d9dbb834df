"""Processes that are to answer no more, and are not to be gone."""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_LIMIT: Final = 30.0


def freeze(pids: Iterable[int]) -> None:
    """Return once every thread has stopped: until then, some still answer after the signal was sent."""
    frozen = list(pids)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + _LIMIT
    while not all(map(_has_stopped, frozen)):
        assert time.monotonic() < until, f"{frozen} do not stop"
        time.sleep(0.01)


def thaw(pids: Iterable[int]) -> None:
    """What was frozen goes on."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def _has_stopped(pid: int) -> bool:
    """Whether no thread of it runs: proc(5), the state after the name in parentheses."""
    try:
        states = [file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread ended in between
        return False
    return all(state in "TtZX" for state in states)
