"""Kills a process with SIGKILL just before its n-th step towards the outside.

What a step is, and how it is seen, is the conformance kit's: :mod:`imgbackend.testing.steps`.
Forking is safest in a process without threads, so a :class:`Server` is a process of its own
that imports the library once and forks for each operation.
"""

import importlib
import os
import pickle
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from imgbackend.testing import children

_SECONDS: Final = 60

Operation = Callable[[], None]
"""Something to do, that can be pickled: a ``functools.partial`` of a module's function."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an operation ended."""

    killed: bool
    steps: tuple[str, ...]
    """Each with what it was done to, as ``os.fsync .disk.part``."""
    error: str | None
    """What it raised, if it was not killed."""


class Server:
    """Runs operations, each in a fresh child, and kills them where it is told to."""

    def __enter__(self) -> Self:
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from labs.crash import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(self, operation: Operation, *, kill_at: int | None = None, after: float | None = None) -> Outcome:
        """Do it in a child; kill that before step ``kill_at``, or ``after`` so many seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        _send(self._process.stdin, (operation, kill_at, after))
        found = _receive(self._process.stdout)
        assert isinstance(found, Outcome)
        return found


def _send(stream: BinaryIO | Any, message: object) -> None:
    data = pickle.dumps(message)
    stream.write(struct.pack(">Q", len(data)) + data)
    stream.flush()


def _receive(stream: BinaryIO | Any) -> object:
    head = stream.read(8)
    if not head:
        return None
    return pickle.loads(stream.read(struct.unpack(">Q", head)[0]))  # noqa: S301 - from our own parent or child


def serve() -> None:
    """What the server's process does."""
    for module in ("imgbackend.engine", "imgbackend_raw.driver", "imgbackend_qcow2.driver"):
        importlib.import_module(module)  # once, for all children
    while (message := _receive(sys.stdin.buffer)) is not None:
        assert isinstance(message, tuple)
        _send(sys.stdout.buffer, _run(*message))


def _run(operation: Operation, kill_at: int | None, after: float | None) -> Outcome:
    def timed() -> None:
        if after is not None:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, after)
        operation()

    ended = children.run(timed, kill_at)
    steps = tuple(f"{step.name} {Path(step.to or step.path).name}" for step in ended.steps)
    return Outcome(killed=ended.killed, steps=steps, error=ended.error)
