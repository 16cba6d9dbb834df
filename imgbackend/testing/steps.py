"""The steps of an operation towards the outside, and what may be done before each of them.

A step is an audit event of CPython's (a file opened for writing, a rename, a removal, a
folder, a mode, an ioctl, a command started), a call of ``os`` that raises none and is
wrapped here, or a write of a Python file object.  The code that is tried declares nothing,
and can forget nothing.  Audit hooks cannot be taken back, so each operation runs in a child
of its own, forked here; it ends without returning to what called.
"""

import builtins
import importlib
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from imgbackend.testing.libraries import wrap_library

_CHANGES: Final = frozenset(
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
        "os.setxattr",
        "os.removexattr",
        "fcntl.ioctl",
        "subprocess.Popen",
        "os.posix_spawn",
        "os.exec",
        "os.system",
        "socket.connect",
    }
)
_COMMANDS: Final = frozenset({"subprocess.Popen", "os.posix_spawn", "os.exec", "os.system"})
_FOLDERS: Final = {
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 2,
    "os.chmod": 2,
    "os.chown": 3,
    "os.utime": 3,
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
}
"""Events of names that may be relative to an open folder: which argument that is, or the first of two."""
_LOOKS: Final = frozenset({"os.listdir", "os.scandir", "os.listxattr", "os.getxattr", "socket.getaddrinfo"})
_CALLS: Final = (
    "fsync",
    "fdatasync",
    "write",
    "writev",
    "pwrite",
    "pwritev",
    "copy_file_range",
    "sendfile",
    "posix_fallocate",
)
_SECOND: Final = frozenset({"copy_file_range"})
"""Calls whose second argument is the file that changes."""
_STATS: Final = ("stat", "lstat")
WRITES: Final = frozenset(
    {
        "os.write",
        "os.writev",
        "os.pwrite",
        "os.pwritev",
        "os.copy_file_range",
        "os.sendfile",
        "os.posix_fallocate",
        "os.truncate",
        "fcntl.ioctl",
        "file.write",
        "file.truncate",
    }
)
"""Steps that change the bytes or the size of a file."""
LOCKS: Final = frozenset({"fcntl.lockf", "fcntl.flock"})
"""Steps that only who asks for ``locks`` is told of."""
FLUSHES: Final = frozenset({"os.fsync", "os.fdatasync"})
RENAMES: Final = frozenset({"os.rename", "os.link"})
REMOVALS: Final = frozenset({"os.remove", "os.rmdir", "os.rename"})
"""Steps after which a name is gone."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step."""

    name: str
    path: str = ""
    """What it is done to: a file, a command."""
    to: str = ""
    """The new name, of a rename or a link."""

    def __str__(self) -> str:
        return " ".join(filter(None, [self.name, self.path, self.to]))


_RECORDS: Final = ("disks.json", "disk.info")


def is_engines(step: Step, instances: Path) -> bool:
    """Whether it is the engine's own: an instance's folder below ``instances``, and the records in it."""
    folder, name = os.path.split(step.path)
    if folder == str(instances):
        return name.startswith("conformance-")
    return os.path.dirname(folder) == str(instances) and name.removeprefix(".").removesuffix(".tmp") in _RECORDS


Act: TypeAlias = Callable[[Step], None]
"""What is done before a step: it may kill the process, stop it, or raise instead of the step."""


def listen(
    told: int,
    at: int | None,
    act: Act,
    *,
    reads: bool,
    locks: bool = False,
    ignored: Sequence[Path],
    libraries: Sequence[str],
) -> None:
    """For a child: from now on write down each step to the descriptor ``told``, and act before number ``at``.

    ``reads``: looking at a file is a step too; ``locks``: so is locking one.  Nothing below the
    folders ``ignored`` is one.
    """
    watch = _Watch(told, at, act, ignored)
    real_open = io.open

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if reads or _is_for_writing(arguments[2]):
                watch.step("open", arguments[0])
        elif event == "ctypes.dlsym":  # a system call that Python has no function for is about to be made
            watch.step(f"ctypes {arguments[1]}", "")
        elif event in _CHANGES or (reads and event in _LOOKS) or (locks and event in LOCKS):
            new = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else ""
            folders = arguments[_FOLDERS[event] :] if event in _FOLDERS else (-1,)
            watch.step(event, arguments[0], new, folders=(folders[0], folders[-1]))

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        if not set("wax+") & set(mode) or isinstance(file, int):
            return real_open(file, mode, buffering, *rest, **options)
        return _opened(watch, file, mode, buffering, *rest, **options)

    for name in [*_CALLS, *(_STATS if reads else ())]:
        setattr(os, name, _wrapped(watch, name))
    io.open = opened
    builtins.open = opened
    for library in libraries:
        wrap_library(importlib.import_module(library), lambda name: watch.step(name, ""))
    sys.addaudithook(hook)


class _Watch:
    """Counts the steps."""

    def __init__(self, told: int, at: int | None, act: Act, ignored: Sequence[Path]) -> None:
        self._told, self._at, self._act = told, at, act
        self._ignored = tuple(f"{path}/" for path in ignored)
        self._write, self._lock, self._count = os.write, threading.RLock(), 0

    def step(self, name: str, what: object, new: object = "", folders: tuple[int, int] = (-1, -1)) -> None:
        path = str(what) if name in _COMMANDS else _shown(what, folders[0])
        if path == os.devnull or path.startswith(("/memfd:", *self._ignored)):
            return
        if name == "os.mkdir" and os.path.isdir(path):
            return  # lock libraries make their folder again and again
        found = Step(name, path, _shown(new, folders[1]) if new != "" else "")
        with self._lock:
            number, self._count = self._count, self._count + 1
            self._write(self._told, (json.dumps(asdict(found)) + "\n").encode())
            if number == self._at:
                self._act(found)


def _shown(what: object, folder: int = -1) -> str:
    """``folder`` is a descriptor that a name may be relative to; below 0: it is the working folder."""
    if isinstance(what, int):
        try:
            return os.readlink(f"/proc/self/fd/{what}")
        except OSError:
            return str(what)
    if isinstance(what, bytes | str | os.PathLike):
        within = _shown(folder) if folder >= 0 else ""
        return os.path.abspath(os.path.join(within, os.fsdecode(what))) if os.fspath(what) else ""
    return str(what)


def _is_for_writing(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _wrapped(watch: _Watch, name: str) -> Callable[..., Any]:
    real = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        watch.step(f"os.{name}", arguments[1] if name in _SECOND else arguments[0])
        return real(*arguments, **options)

    return call


def _opened(
    watch: _Watch,
    file: Any,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
) -> Any:
    """As ``io.open``, for writing; each write of what it returns is a step."""

    class Stepped(io.FileIO):
        def write(self, data: Any, /) -> int:
            watch.step("file.write", str(file))
            return super().write(data) or 0

        def truncate(self, size: int | None = None, /) -> int:
            watch.step("file.truncate", str(file))
            return super().truncate(size)

    raw = Stepped(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    if buffering == 0:
        return raw
    buffered: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
    if "b" in mode:
        return buffered
    return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)
