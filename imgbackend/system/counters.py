"""What the cache did, counted over all processes of this host.

A creation is one short call of one of many processes, so that no process has the whole count.
Each adds to one small file beside the locks, ``imgbackend-metrics.<host>``, under a lock that is
held for the one write; nothing else is imported or kept for that.  Whoever writes the metrics
for others to read takes them from there.

Counting never fails what is counted: where the file cannot be written, or its lock is not to be had
in :data:`PATIENCE`, the count is lost.  It is not flushed either: after a power cut the counts may begin anew,
which readers of counters expect.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias
from urllib.parse import quote

from imgbackend.system import files

PATIENCE: Final = 0.5
"""Seconds that a count waits for others; each of them holds the lock for one read and one write."""
_AGAIN: Final = 0.001
_LARGEST: Final = 1 << 16

Phase: TypeAlias = Literal["create", "fetch", "convert", "settle", "import", "scan", "remove", "verify"]
"""What took the time: a disk was made; an image was fetched, converted, digested and flushed, or imported into a
store; a pass looked at all disks, or removed a base; a base was verified."""


class Metrics:
    """The counts of one host on one ``instances_path``; of any thread, process and fork."""

    def __init__(self, folder: Path, host: str, *, counted: bool) -> None:
        """``folder`` is that of the locks; ``counted`` False: nobody reads metrics, and nothing is kept."""
        self._file = folder / f"imgbackend-metrics.{quote(host, safe='')}"
        self._counted = counted

    def record_disk(self, *, hit: bool, seconds: float) -> None:
        """A disk was made from a base, in so many seconds; ``hit``: the base was here already."""
        self._add({"hits" if hit else "misses": 1, "spans create": 1, "seconds create": seconds})

    def record_fetch(self, size: int) -> None:
        """An image was fetched whole, for a disk or beforehand; ``size`` bytes came."""
        self._add({"fetches": 1, "fetched_bytes": size})

    def record_eviction(self, cause: str, size: int) -> None:
        """A base was removed, which took ``size`` bytes; ``cause`` is a word, one of few."""
        self._add({f"evictions {cause}": 1, f"evicted_bytes {cause}": size})

    def record_verification(self, size: int) -> None:
        """``size`` bytes of a base were compared with its digest."""
        self._add({"verifications": 1, "verified_bytes": size})

    def record_verification_failure(self) -> None:
        """A base was found not to be what its digest says."""
        self._add({"verification_failures": 1})

    @contextlib.contextmanager
    def timed(self, phase: Phase) -> Iterator[None]:
        """Count the seconds that are spent within, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._add({f"spans {phase}": 1, f"seconds {phase}": time.monotonic() - began})

    def counts(self) -> Mapping[str, float]:
        """All counts since the first, by name; a label follows its name and a blank.

        :raises OSError: if they cannot be read; where nothing was counted yet, there are none.
        """
        try:
            with files.open_fd(self._file, os.O_RDONLY) as fd:
                _lock(fd, fcntl.LOCK_SH)
                return _parsed(os.pread(fd, _LARGEST, 0))
        except FileNotFoundError:
            return {}

    def _add(self, counts: Mapping[str, float]) -> None:
        if not self._counted:
            return
        with contextlib.suppress(OSError):
            try:
                fd = os.open(self._file, _FLAGS, 0o644)
            except FileNotFoundError:
                files.make_folders(self._file.parent)
                fd = os.open(self._file, _FLAGS, 0o644)
            try:
                _lock(fd, fcntl.LOCK_EX)
                before = os.pread(fd, _LARGEST, 0)
                found = _parsed(before)
                for name, value in counts.items():
                    found[name] = found.get(name, 0) + value
                # Written once, below a page, and never shorter than before: a kill leaves the one text or the other.
                os.pwrite(fd, json.dumps(found).encode().ljust(len(before)), 0)
            finally:
                os.close(fd)


_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def _lock(fd: int, kind: int) -> None:
    """flock(2), which belongs to the open file: threads of one process exclude each other, too.

    :raises TimeoutError: an OSError, if it is not to be had in time.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError("the lock of the metrics is held") from None
            time.sleep(_AGAIN)
        else:
            return


def _parsed(data: bytes) -> dict[str, float]:
    """The counts of the file; of one that is broken, none."""
    try:
        found = json.loads(data)
        return {str(name): value for name, value in found.items() if isinstance(value, int | float)}
    except (ValueError, AttributeError):
        return {}
