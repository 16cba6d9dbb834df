"""Cancelling: SIGINT, SIGTERM and SIGHUP become one exception, once.

The first of them raises :class:`Cancelled` in the main thread, and from the next
progress call in any other; the engine undoes what it had begun.  Further ones are
ignored, so that an impatient second Ctrl-C does not interrupt the undoing; SIGQUIT
and SIGKILL end the process at any time, and what they leave is cleared by the next call.
"""

import signal
from types import FrameType, TracebackType

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        self._before: dict[int, signal.Handlers] = {}

    def __enter__(self) -> "Signals":
        for signum in CAUGHT:
            before = signal.getsignal(signum)
            if before is not signal.SIG_IGN:
                signal.signal(signum, self._take)
                self._before[signum] = signal.SIG_DFL if before is None else before  # type: ignore[assignment]  # a callable is one too
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def check(self) -> None:
        """Raise :class:`Cancelled` if a signal has come, in whatever thread this is."""
        if self.received is not None:
            raise Cancelled(self.received)

    def _take(self, signum: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signum
            raise Cancelled(signum)
