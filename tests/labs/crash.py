"""Kills a process with SIGKILL just before its n-th step towards the outside.

A step is an audit event of CPython's (a file opened for writing, a rename, an unlink, a
folder, a mode, an ioctl, a command started) or, since CPython raises none for them, one of
four calls of ``os`` that are wrapped.  The code under test declares nothing, and can
forget nothing.

Forking is safe only in a process without threads, so a :class:`Server` is a process of its
own that imports the library once and forks for each operation.
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

_EVENTS: Final = frozenset(
    {
        "os.rename",
        "os.remove",
        "os.mkdir",
        "os.rmdir",
        "os.truncate",
        "os.chmod",
        "os.chown",
        "os.utime",
        "os.link",
        "os.symlink",
        "fcntl.ioctl",
        "subprocess.Popen",
    }
)
_CALLS: Final = ("fsync", "write", "pwrite", "copy_file_range", "posix_fallocate", "ftruncate")
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
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        _be_the_child(operation, kill_at, after, write)
    os.close(write)
    with os.fdopen(read) as told:
        lines = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    errors = [line.removeprefix("! ") for line in lines if line.startswith("! ")]
    steps = tuple(line for line in lines if not line.startswith("! "))
    return Outcome(killed=os.WIFSIGNALED(status), steps=steps, error=errors[0] if errors else None)


def _be_the_child(operation: Operation, kill_at: int | None, after: float | None, told: int) -> None:
    real_write = os.write
    status = 1
    try:
        _watch(_Counter(kill_at, told, real_write))
        if after is not None:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, after)
        operation()
        status = 0
    except BaseException as exc:
        real_write(told, f"! {exc!r}\n".encode())
    finally:
        os._exit(status)


class _Counter:
    """Writes down each step, and ends the process before the one that it is told to."""

    def __init__(self, kill_at: int | None, told: int, write: Callable[[int, bytes], int]) -> None:
        self._kill_at, self._told, self._write, self._count = kill_at, told, write, 0

    def step(self, name: str, what: object) -> None:
        if what == self._told or (name, str(what)) == ("open", os.devnull):
            return
        if name == "os.mkdir" and Path(str(what)).is_dir():
            return  # lock libraries make their folder again and again
        shown = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) and what >= 0 else str(what)
        self._write(self._told, f"{name} {Path(shown).name}\n".encode())
        if self._count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self._count += 1


def _writes(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def _watch(counter: _Counter) -> None:
    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename":
            counter.step(event, args[1])
        elif event in _EVENTS or (event == "open" and _writes(args[2])):
            counter.step(event, args[0])

    def wrapped(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any) -> Any:
            counter.step(f"os.{name}", args[1] if name == "copy_file_range" else args[0])
            return real(*args)

        return call

    for name in _CALLS:
        setattr(os, name, wrapped(name))
    sys.addaudithook(hook)
