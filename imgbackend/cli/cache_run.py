"""``imgbackend cache run``: passes over the cache, one after the other, until it is told to stop."""

import argparse
import contextlib
import json
import logging
import math
import random
import select
import signal
import socket
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from imgbackend.cli.base import Command
from imgbackend.cli.cache import warn
from imgbackend.cli.systemd import Notifier
from imgbackend.errors import Error

if TYPE_CHECKING:
    from imgbackend.cache.verify.of_folder import Verified
    from imgbackend.engine import Engine

LOG = logging.getLogger(__name__)

_ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SHORTEST: Final = 60.0
"""Seconds between passes where ``manager_interval`` is 0, as in Nova."""
_SOON: Final = 60.0
"""The first pass begins within so many seconds, at random: many hosts may have been started together."""


class _StoppedError(BaseException):
    """The service is to end, in the middle of something; no library takes it for an error of its own."""


class Wakeups:
    """Signals that are waited for, and that interrupt nothing: they are looked at between two bases."""

    def __init__(self) -> None:
        """Nothing is caught yet."""
        self.stopped = False
        """SIGTERM or SIGINT came."""
        self.reload = False
        """SIGHUP came; whoever acts on it sets it back."""
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> "Wakeups":
        self._read, write = socket.socketpair()
        self._undo.callback(self._read.close)
        self._undo.callback(write.close)
        for end in (self._read, write):
            end.setblocking(False)
        self._undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False))
        for signum in (*_ENDING, signal.SIGHUP):
            self._undo.callback(signal.signal, signum, signal.signal(signum, _only_wake))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def wait(self, seconds: float) -> None:
        """Until a signal comes, so many seconds at most."""
        select.select([self._read], [], [], None if math.isinf(seconds) else max(seconds, 0.0))
        self.look()

    def look(self) -> None:
        """Take in the signals that came."""
        with contextlib.suppress(BlockingIOError):
            came = self._read.recv(256)
            self.stopped = self.stopped or not _ENDING.isdisjoint(came)
            self.reload = self.reload or signal.SIGHUP in came


def _only_wake(_signum: int, _frame: Any) -> None:
    """The wake-up is what counts; without a handler, the signal would end the process."""


class Run(Command):
    """Look after the cache until told to stop: a pass every manager_interval seconds."""

    def take_action(self, parsed_args: argparse.Namespace) -> int:  # noqa: ARG002 - all that it needs is configured
        """Run; SIGTERM and SIGINT end it between two bases, SIGHUP has it read the configuration again."""
        if not self.app.options.quiet:
            logging.getLogger("imgbackend").setLevel(min(logging.INFO, logging.getLogger("imgbackend").level))
        with Wakeups() as wakeups, contextlib.ExitStack() as opened:
            _Service(self, wakeups, Notifier(), opened).run()
        return 0


class _Service:
    """The loop."""

    def __init__(self, command: Run, wakeups: Wakeups, notifier: Notifier, opened: contextlib.ExitStack) -> None:
        self._command, self._wakeups, self._notifier, self._opened = command, wakeups, notifier, opened
        self._engine = self._fresh()
        self._due = time.monotonic() + random.uniform(0.0, min(_SOON, self._interval()))  # noqa: S311 - spreads load
        self._alive = -math.inf

    def run(self) -> None:
        self._notifier.ready("waiting for the first pass")
        while not self._wakeups.stopped:
            if self._wakeups.reload:
                self._reread()
            if time.monotonic() >= self._due:
                self._due = time.monotonic() + self._interval()
                self._pass()
                self._verify()
                self._wakeups.look()
                continue
            self._sign()
            self._wakeups.wait(min(self._due - time.monotonic(), self._notifier.every))
        self._notifier.stopping()
        LOG.info("stopped")

    def _fresh(self) -> "Engine":
        return self._opened.enter_context(self._command.engine())

    def _interval(self) -> float:
        told = self._engine.conf.image_cache.manager_interval
        if told < 0:
            LOG.warning("[image_cache] manager_interval is -1: no pass is made until that is changed")
            return math.inf
        return float(told) or _SHORTEST

    def _reread(self) -> None:
        """A configuration that is wrong changes nothing."""
        self._wakeups.reload = False
        self._notifier.reloading()
        try:
            fresh = self._fresh()
        except Error as exc:
            LOG.error("the configuration stays as it was: %s", exc)  # noqa: TRY400 - one line; a trace tells nothing more
        else:
            self._engine.close()
            self._engine = fresh
            self._due = min(self._due, time.monotonic() + self._interval())
            LOG.info("the configuration was read again")
        self._notifier.ready("waiting")

    def _pass(self) -> None:
        began = time.monotonic()
        self._notifier.status("making a pass")
        try:
            ask = self._engine.conf.image_cache.remove_gone_minimum_age_seconds is not None
            done = self._engine.cache.prune(ask_sources=ask, stop=self._asked_to_stop, alive=self._go_on)
        except _StoppedError:
            LOG.info("pass was broken off")
            return
        except Error as exc:
            LOG.error("pass failed: %s", exc)  # noqa: TRY400 - one line; a trace tells nothing more
            self._notifier.status(f"the last pass failed: {exc}")
            return
        warn(done.faults)
        warn(done.missing)
        told = (
            f"bases={len(done.outcomes)} removed={sum(each.action == 'removed' for each in done.outcomes)} "
            f"freed={done.freed} faults={len(done.faults)} stopped={str(done.stopped).lower()} "
            f"seconds={time.monotonic() - began:.3f}"
        )
        LOG.info("pass %s", told)
        self._notifier.status(f"last pass: {told}")

    def _verify(self) -> None:
        """Verify some bases, those whose turn it is; it ends at once where the service is to end."""
        told = self._engine.conf.image_cache
        if not told.verify_per_pass or self._wakeups.stopped:
            return

        def go_on(_phase: str, _done: int, _total: int | None) -> None:
            self._go_on()

        try:
            for done in self._engine.cache.verify(sample=told.verify_per_pass, rate=told.verify_rate, progress=go_on):
                _log(done)
        except _StoppedError:
            LOG.info("verification was broken off")
        except Error as exc:
            LOG.error("verification failed: %s", exc)  # noqa: TRY400 - one line; a trace tells nothing more

    def _go_on(self) -> None:
        if self._asked_to_stop():
            raise _StoppedError

    def _asked_to_stop(self) -> bool:
        self._sign()
        self._wakeups.look()
        return self._wakeups.stopped

    def _sign(self) -> None:
        if time.monotonic() - self._alive >= self._notifier.every:
            self._alive = time.monotonic()
            self._notifier.alive()


def _log(done: "Verified") -> None:
    """One line of a verification; of a base that is not sound with the disks that hang on it, and where it is now."""
    faulty = done.found in ("bad", "unreadable")
    told = {"disks": done.base.disks, "aside": None if done.aside is None else str(done.aside)} if faulty else {}
    LOG.log(
        logging.WARNING if faulty else logging.INFO,
        "verified base=%s store=%s found=%s bytes=%d seconds=%.3f reason=%s%s",
        *(done.base.name, done.base.where, done.found, done.read, done.seconds, json.dumps(done.reason)),
        "".join(f" {key}={json.dumps(value)}" for key, value in told.items()),
    )
