"""Progress that is written down, and that can break in."""

from collections.abc import Callable


class Told:
    """A progress callback: keeps what it was told, and calls ``then`` each time."""

    def __init__(self, then: Callable[[str, int], None] | None = None) -> None:
        self.calls: list[tuple[str, int, int | None]] = []
        self._then = then

    def __call__(self, phase: str, done: int, total: int | None, /) -> None:
        self.calls.append((phase, done, total))
        if self._then is not None:
            self._then(phase, done)

    def of(self, phase: str) -> list[tuple[int, int | None]]:
        return [(done, total) for each, done, total in self.calls if each == phase]


class CancelledError(Exception):
    """What a caller raises to stop a fetch."""
