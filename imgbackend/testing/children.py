"""Children in which operations run to be watched, killed, stopped, or to run beside each other."""

import ctypes
import json
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imgbackend import errors
from imgbackend.testing import steps
from imgbackend.testing.steps import Act, Step

_SECONDS: Final = 120.0
"""How long a child may take; then it hangs."""
_LOOK: Final = 0.001


_PR_SET_PDEATHSIG: Final = 1
"""Of linux/prctl.h."""


def _die_with_parent() -> None:
    """Whatever ends the tests ends this child too, also while it is stopped."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildOutcome:
    """How an operation in a child ended."""

    killed: bool
    steps: list[Step]
    error: str | None
    """What it raised, in words."""
    ours: bool
    """That is one of imgbackend's errors."""
    caused: bool
    """It names a cause."""


def kill(_step: Step) -> None:
    """End this process at once, as a power cut or the kernel's out-of-memory killer would."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop(_step: Step) -> None:
    """Stop this process until somebody lets it go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


def fail(code: int) -> Act:
    """Have the step fail with this errno."""

    def act(step: Step) -> None:
        raise OSError(code, os.strerror(code), step.path)

    return act


def run(
    operation: Callable[[], object],
    at: int | None = None,
    act: Act = kill,
    *,
    reads: bool = False,
    locks: bool = False,
    ignored: Sequence[Path] = (),
    libraries: Sequence[str] = (),
) -> ChildOutcome:
    """Do it in a child, acting before step number ``at``; see :func:`steps.listen`."""
    child = Child(operation, at, act, reads=reads, locks=locks, ignored=ignored, libraries=libraries)
    return child.outcome()


def seen(
    operation: Callable[[], object],
    *,
    reads: bool = False,
    locks: bool = False,
    ignored: Sequence[Path] = (),
    libraries: Sequence[str] = (),
) -> list[Step]:
    """The steps of a whole run of an operation.

    :raises AssertionError: if it raises.
    """
    outcome = run(operation, reads=reads, locks=locks, ignored=ignored, libraries=libraries)
    assert outcome.error is None, outcome.error
    return outcome.steps


class Child:
    """One operation in a child of its own, begun."""

    def __init__(
        self,
        operation: Callable[[], object],
        at: int | None = None,
        act: Act = kill,
        *,
        watched: bool = True,
        reads: bool = False,
        locks: bool = False,
        ignored: Sequence[Path] = (),
        libraries: Sequence[str] = (),
    ) -> None:
        """``watched`` False: its steps are its own."""
        self._told = os.memfd_create("conformance", os.MFD_CLOEXEC)
        self._status: int | None = None
        with warnings.catch_warnings():
            # Other threads of this process are a test runner's own: the child never comes back to them.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                _die_with_parent()
                if watched:
                    steps.listen(self._told, at, act, reads=reads, locks=locks, ignored=ignored, libraries=libraries)
                operation()
                status = 0
            except BaseException as exc:
                self._tell(exc)
            finally:
                os._exit(status)

    def _tell(self, exc: BaseException) -> None:
        where = traceback.extract_tb(exc.__traceback__)[-1]
        told = {
            "error": f"{type(exc).__name__}: {exc} ({where.filename}:{where.lineno})",
            "ours": isinstance(exc, errors.Error),
            "caused": exc.__cause__ is not None,
        }
        os.lseek(self._told, 0, os.SEEK_END)
        with open(self._told, "ab", closefd=False) as told_to:
            told_to.write((json.dumps(told) + "\n").encode())

    def stopped(self) -> bool:
        """Wait until it stops; False: it ended instead."""
        self._wait(os.WUNTRACED)
        return self._status is None

    def go_on(self) -> None:
        """Let it go on; no matter if it has ended."""
        if self._status is None:
            os.kill(self._pid, signal.SIGCONT)

    def outcome(self) -> ChildOutcome:
        """Wait until it has ended.

        :raises AssertionError: if it does not within two minutes.
        """
        if self._status is None:
            self._wait(0)
        try:
            text = os.pread(self._told, os.fstat(self._told).st_size, 0).decode()
        finally:
            os.close(self._told)
        told = [json.loads(line) for line in text.splitlines()]
        failed = [line for line in told if "error" in line]
        killed = os.WIFSIGNALED(self._status or 0)
        ended: dict[str, Any] = {"error": None, "ours": False, "caused": False}
        if not killed and self._status:
            ended = failed[0] if failed else {**ended, "error": f"it ended with {self._status}"}
        return ChildOutcome(
            killed=killed,
            steps=[Step(**line) for line in told if "error" not in line],
            error=ended["error"],
            ours=bool(ended["ours"]),
            caused=bool(ended["caused"]),
        )

    def _wait(self, options: int) -> None:
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            pid, status = os.waitpid(self._pid, os.WNOHANG | options)
            if pid and not os.WIFSTOPPED(status):
                self._status = status
                return
            if pid:
                return
            time.sleep(_LOOK)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._told)
        raise AssertionError(f"an operation in a child did not end within {_SECONDS:.0f} s")
