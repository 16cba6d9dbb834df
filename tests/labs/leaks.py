"""What a test must not leave behind in its process: children, threads, descriptors."""

import gc
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

FAILED: Final = pytest.StashKey[bool]()
"""Of a test: whether it failed so far; then its traceback keeps alive what it used."""

_PATIENCE: Final = 30.0
"""Seconds in which what is about to end may do so."""


@dataclass(frozen=True)
class Held:
    """What the process holds at one moment."""

    children: frozenset[str]
    threads: frozenset[threading.Thread]
    descriptors: frozenset[tuple[int, int, int]]
    """Number, device and inode: what a path looks like changes with the mount namespace."""

    @classmethod
    def now(cls) -> "Held":
        return cls(_children(), frozenset(threading.enumerate()), _descriptors())

    def more_than(self, before: "Held") -> list[str]:
        """What is held beyond ``before``, each in words."""
        return [
            *(f"child process {pid} ({_command(pid)})" for pid in sorted(self.children - before.children)),
            *(f"thread {thread.name}" for thread in self.threads - before.threads),
            *(f"descriptor {fd} of {_target(fd)}" for fd, _, _ in sorted(self.descriptors - before.descriptors)),
        ]


def left_since(before: Held) -> list[str]:
    """What is held beyond ``before`` and does not go away by itself; in words."""
    left = Held.now().more_than(before)
    end = time.monotonic() + _PATIENCE
    while left and time.monotonic() < end:
        gc.collect()
        time.sleep(0.02)
        left = Held.now().more_than(before)
    return left


def _children() -> frozenset[str]:
    tasks = Path("/proc/self/task")
    if not (tasks / str(os.getpid()) / "children").exists():
        return _children_by_parent()
    found: set[str] = set()
    for task in tasks.iterdir():
        try:
            found.update((task / "children").read_text().split())
        except OSError:
            continue  # the thread has ended
    return frozenset(found)


def _children_by_parent() -> frozenset[str]:
    """The same where the kernel, as User-mode Linux, keeps no list of children."""
    found: set[str] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue  # the process has ended
        if parent == str(os.getpid()):
            found.add(stat.parent.name)
    return frozenset(found)


def _command(pid: str) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip() or "zombie"
        )
    except OSError:
        return "gone"


def _descriptors() -> frozenset[tuple[int, int, int]]:
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            status = os.fstat(fd)
        except OSError:
            continue  # the one that listed the folder
        found.add((fd, status.st_dev, status.st_ino))
    return frozenset(found)


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return "what was closed just now"
