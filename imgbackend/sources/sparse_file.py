"""Where a stream goes: a sparse file, digests on a thread of their own, paced progress."""

import contextlib
import hashlib
import os
import queue
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from imgbackend.errors import ConfigError
from imgbackend.state.digests import ContentDigester
from imgbackend.types import Ki, Mi, Progress

BLOCK: Final = 64 * Ki
"""Aligned blocks of so many zeroes become holes: the cluster size that qcow2 has by default."""
CHUNK: Final = 256 * Ki
"""Bytes that are moved at a time.  Larger ones cost more: each is then a fresh mapping, page by page."""

_ZEROES = bytes(BLOCK)
_AHEAD = 8 * Mi
"""Bytes that are handed to the disk at a time."""
_WAITING = 16
_INTERVAL = 0.05
_AGAIN = 0.1


class SparseFile:
    """A file that is written from its beginning to its end, zeroes left out as holes.

    ``size`` counts the bytes taken so far.  After :meth:`settle` the file has exactly
    that length, so that another call can go on from its end.
    """

    def __init__(self, path: Path, *, resume: bool = False, kept: bool = False) -> None:
        """Make the file, with mode 0600, or open what is there with ``resume``.

        ``kept``: it will stay as it is, so what arrives is written to the disk and digested
        meanwhile, and there is little left to flush at the end.

        :raises OSError: if it is there (without ``resume``), a symlink, or cannot be written.
        """
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self.fd = os.open(path, flags if resume else flags | os.O_CREAT | os.O_EXCL, 0o600)
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.fd)
            raise FileExistsError(f"not a regular file: {path}")
        self.size = status.st_size
        self._kept, self._sent = kept, self.size
        self._content = ContentDigester()

    @property
    def content(self) -> str | None:
        """The content digest of all bytes, where the file is kept as it is; asked for once, at the end."""
        return self._content.finish() if self._kept and self._content.size == self.size else None

    def read(self) -> Iterator[bytes]:
        """What is there, from the beginning, in chunks; once, before anything is written."""
        at = 0
        while at < self.size:
            chunk = os.pread(self.fd, min(CHUNK, self.size - at), at)
            if not chunk:
                raise OSError(f"became shorter while it was read: {at} of {self.size} bytes")
            at += len(chunk)
            if self._kept:
                self._content.update(chunk)
            yield chunk

    def write(self, data: bytes) -> None:
        """Take ``data`` after all that was taken; blocks of zeroes are not written."""
        if self._kept:
            self._content.update(data)
        pending: int | None = None
        at, end = 0, len(data)
        while at < end:
            step = min(BLOCK - (self.size + at) % BLOCK, end - at)
            if data.startswith(_ZEROES if step == BLOCK else _ZEROES[:step], at):
                if pending is not None:
                    self._put(data, pending, at)
                    pending = None
            elif pending is None:
                pending = at
            at += step
        if pending is not None:
            self._put(data, pending, end)
        self.size += end

    def _put(self, data: bytes, start: int, stop: int) -> None:
        view = memoryview(data)[start:stop]
        at = self.size + start
        while view:
            done = os.pwrite(self.fd, view, at)
            view, at = view[done:], at + done
        if self._kept and at - self._sent >= _AHEAD:
            os.posix_fadvise(self.fd, self._sent, at - self._sent, os.POSIX_FADV_DONTNEED)  # begins to write it out
            self._sent = at

    def settle(self) -> None:
        """Give the file the length of what was taken."""
        os.ftruncate(self.fd, self.size)

    def close(self) -> None:
        """Settle and close; twice is no error."""
        if self.fd >= 0:
            try:
                self.settle()
            finally:
                os.close(self.fd)
                self.fd = -1


class Digester:
    """Digests of a stream, computed on a thread of their own while it comes in.

    hashlib lets go of the interpreter's lock, so hashing and downloading overlap; of
    the two the slower one sets the pace.
    """

    def __init__(self, algorithms: Sequence[str]) -> None:
        """``algorithms`` are hashlib's names.

        :raises ConfigError: if this machine's hashlib lacks one of them.
        """
        try:
            self._hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
        except ValueError as exc:
            raise ConfigError(f"this Python cannot compute the digest that is to be checked: {exc}") from exc
        self._queue: queue.Queue[bytes | None] = queue.Queue(_WAITING)
        thread = threading.Thread(target=self._work, name="imgbackend-digest", daemon=True)
        thread.start()
        self._thread: threading.Thread | None = thread

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            for each in self._hashes.values():
                each.update(data)

    def update(self, data: bytes) -> None:
        """Take ``data``; waits only while much is waiting already."""
        self._queue.put(data)

    def finish(self) -> tuple[tuple[str, str], ...]:
        """``(algorithm, hex)`` of all that was taken.  Nothing can be taken after it."""
        self.close()
        return tuple((name, each.hexdigest()) for name, each in self._hashes.items())

    def close(self) -> None:
        """End the thread.  Twice is no error.

        It is told again and again: a KeyboardInterrupt inside ``put`` may have lost a wake-up.
        """
        while self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=_AGAIN)
            self._thread.join(_AGAIN)
        self._thread = None


class Paced:
    """Progress that is told at the beginning and the end of a phase, and about 20 times a second between."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._phase, self._next = "", 0.0

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if phase != self._phase or now >= self._next:
            self._phase, self._next = phase, now + _INTERVAL
            self._progress(phase, done, total)

    def last(self, phase: str, done: int, total: int | None) -> None:
        """Told whatever was told just before."""
        self._progress(phase, done, total)


def discard(path: Path) -> None:
    """Unlink what is at ``path``, if anything: never cut it short in place.

    A process that died may have left another behind that still writes there.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
