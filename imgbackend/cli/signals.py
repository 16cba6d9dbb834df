"""Cancelling: SIGINT, SIGTERM and SIGHUP become one exception, once, where it does no harm.

An exception that a signal handler raises at any point of the work could leave a lock of
this process taken, or a thread waiting for ever.  So while something is being made, a
signal is only noted: the next progress call raises, in whichever thread that is, and the
main thread is interrupted only where it waits for a socket or a command.  What is short
and not to be interrupted is finished first.  Everywhere else the signal raises at once.

Only the first signal counts, so that an impatient second Ctrl-C does not interrupt the
undoing; SIGQUIT and SIGKILL end the process at any time, and the next call clears what
they leave.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Final, Literal

CAUGHT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WAITING: Final = frozenset({"socket", "ssl", "selectors", "urllib3.util.connection", "urllib3.util.wait"})
"""The modules whose frames wait for others; they hold no lock meanwhile."""
_AGAIN: Final = 0.1
"""Seconds between two looks at where the main thread is."""


class Cancelled(KeyboardInterrupt):
    """The user, or whoever runs this process, wants it to stop."""

    def __init__(self, signum: int, left: str | None = None) -> None:
        """``left`` says what the cancelled work left; None: not known yet."""
        super().__init__(signum)
        self.signum, self.left = signum, left

    @property
    def status(self) -> int:
        """The exit status, as a shell forms it."""
        return 128 + self.signum


class Signals:
    """A context in which the signals cancel, and after which they do what they did before.

    One that is ignored (``nohup``, a background job of a script) stays ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._where: Literal["anywhere", "waiting", "nowhere"] = "anywhere"
        self._raised = False
        self._before: dict[int, signal.Handlers] = {}

    def __enter__(self) -> "Signals":
        for signum in CAUGHT:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._install(signum)
        self._install(signal.SIGALRM)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        while self._before:
            signal.signal(*self._before.popitem())

    @contextlib.contextmanager
    def held(self, *, interruptible: bool) -> Iterator[None]:
        """Within it a signal raises at most where the main thread waits (``interruptible``), and in :meth:`check`."""
        self._where = "waiting" if interruptible else "nowhere"
        try:
            yield
        finally:
            self._where = "anywhere"
            signal.setitimer(signal.ITIMER_REAL, 0)

    def check(self) -> None:
        """Raise :class:`Cancelled` if a signal has come, in whatever thread this is."""
        if self.received is not None:
            self._raised = True
            raise Cancelled(self.received)

    def _install(self, signum: int) -> None:
        before = signal.signal(signum, self._take)
        self._before[signum] = signal.SIG_DFL if before is None else before  # type: ignore[assignment]  # a callable is one too

    def _take(self, signum: int, frame: FrameType | None) -> None:
        """A signal, or a tick of the timer that follows one."""
        if self.received is None and signum in CAUGHT:
            self.received = signum
            signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
        if self.received is None or self._raised:
            return
        if self._where == "anywhere" or (self._where == "waiting" and _waits(frame)):
            self.check()


def _waits(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_globals.get("__name__") in WAITING
