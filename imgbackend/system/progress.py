"""A caller's progress, whose errors pass through everything unchanged, and the operating system's, which do not."""

import contextlib
from collections.abc import Iterator

from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.types import Progress


class _Passed(BaseException):
    """On its way out instead of what the caller's progress raised, so that nothing takes that for its own."""


class Watched:
    """Progress whose errors pass through everything unchanged, and once it raised it stays so."""

    def __init__(self, progress: Progress) -> None:
        """Keep the callback."""
        self._progress = progress
        self.raised: BaseException | None = None

    def __call__(self, phase: str, done: int, total: int | None, /) -> None:
        """Call it."""
        if self.raised is None:
            try:
                self._progress(phase, done, total)
            except BaseException as exc:
                self.raised = exc
        if self.raised is not None:
            raise _Passed


@contextlib.contextmanager
def translating_errors(host: Host, watched: Watched) -> Iterator[None]:
    """Let no ``OSError`` out but the one that the caller's own progress raised."""
    try:
        yield
    except OSError as exc:
        raise files.as_error(exc, host.instances) from exc
    except _Passed:
        if watched.raised is None:
            raise
        raise watched.raised from watched.raised.__cause__
