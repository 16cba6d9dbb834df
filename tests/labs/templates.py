"""Templates for tests: fetch functions that copy a file, and whose calls can be counted from any process."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from imgbackend.types import Declared, Delivered, Location, Progress, Role, base_name


@dataclass(frozen=True, kw_only=True)
class Template:
    """Puts the bytes of ``content`` at the target; it says of itself what it is told to declare.

    It can be pickled, so that other processes fetch it too, unless ``before`` is a closure.
    """

    content: Path
    image_id: str
    role: Role = "image"
    format: str | None = None
    size: int | None = None
    virtual_size: int | None = None
    min_disk: int = 0
    digests: tuple[tuple[str, str], ...] = ()
    locations: tuple[Location, ...] = ()
    before: Callable[[Path, Progress], None] | None = field(default=None, compare=False)
    """Called before the bytes are put down; what it raises is what the fetch raises."""

    @property
    def declared(self) -> Declared:
        return Declared(
            image_id=self.image_id,
            source=f"test:{self.image_id}",
            role=self.role,
            format=self.format,
            size=self.size,
            virtual_size=self.virtual_size,
            min_disk=self.min_disk,
            digests=self.digests,
            locations=self.locations,
        )

    @property
    def name(self) -> str:
        """Of its base."""
        return base_name(self.image_id)

    @property
    def fetches(self) -> int:
        """How often a fetch was begun, by whichever process."""
        try:
            return os.stat(self._log).st_size
        except FileNotFoundError:
            return 0

    @property
    def _log(self) -> Path:
        return self.content.with_name(f"{self.content.name}.{self.name}.fetches")

    def but(self, **changes: object) -> "Template":
        """The same but for some fields."""
        return replace(self, **changes)  # type: ignore[arg-type]  # a test names fields that there are

    def __call__(self, target: Path, progress: Progress, /) -> Delivered | None:
        with self._log.open("ab", buffering=0) as log:
            log.write(b".")
        progress("fetch", 0, self.size)
        if self.before is not None:
            self.before(target, progress)
        copy_sparse(self.content, target)
        progress("fetch", target.stat().st_size, self.size)
        return None


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, runs of zeroes as holes."""
    with source.open("rb") as read, target.open("wb") as write:
        while data := read.read(1 << 16):
            if data.count(0) == len(data):
                write.seek(len(data), os.SEEK_CUR)
            else:
                write.write(data)
        write.truncate(source.stat().st_size)


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """What ``work(0)``, ``work(1)``, ... return, or the error they raise, begun at once in threads."""
    found: list[object] = [None] * count
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait(60)
        try:
            found[number] = work(number)
        except Exception as exc:
            found[number] = exc

    threads = [threading.Thread(target=run, args=(number,), name=f"work-{number}") for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "a thread still waits after two minutes"
    return found
