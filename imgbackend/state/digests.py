"""Digests of content: the same bytes have the same one, whatever their holes."""

import hashlib
import os
from collections.abc import Callable
from typing import Final

from blake3 import blake3

from imgbackend.system.holes import told_ranges
from imgbackend.types import Progress, ignore

BLOCK: Final = 1 << 20
ALGORITHM: Final = "blake3-1M"
_ZEROES: Final = bytes(BLOCK)
_ZERO_DIGEST: Final = blake3(_ZEROES).digest()


def unheard(_count: int) -> None:
    """For whom nobody counts what is read."""


def content_digest(fd: int, progress: Progress = ignore, took: Callable[[int], None] = unheard) -> str:
    """The digest of a raw image's content, whatever its holes.

    The BLAKE3 of the length (8 bytes, big-endian) and the BLAKE3 digests of all blocks
    of 1 MiB, the last padded with zeroes.  Blocks in holes are not read.  ``took`` is told
    the bytes of each that is.
    """
    size = os.fstat(fd).st_size
    whole, buffer, at = blake3(size.to_bytes(8, "big")), bytearray(BLOCK), 0
    for start, end in told_ranges(fd, size):
        first = max(start // BLOCK * BLOCK, at)
        whole.update(_ZERO_DIGEST * ((first - at) // BLOCK))
        at = first
        while at < end:
            done = _fill(fd, buffer, at)
            buffer[done:] = _ZEROES[done:]
            whole.update(_ZERO_DIGEST if buffer == _ZEROES else blake3(buffer).digest())
            at += BLOCK
            progress("digest", min(at, size), size)
            took(done)
    whole.update(_ZERO_DIGEST * (-(-size // BLOCK) - at // BLOCK))
    progress("digest", size, size)
    return whole.hexdigest()


class ContentDigester:
    """The :func:`content_digest` of bytes that come one after the other."""

    def __init__(self) -> None:
        """Of no bytes yet."""
        self.size = 0
        """The bytes taken so far."""
        self._blocks, self._block = bytearray(), blake3()

    def update(self, data: bytes | memoryview) -> None:
        """Take ``data`` after all that was taken."""
        view = memoryview(data)
        while view:
            part = view[: BLOCK - self.size % BLOCK]
            self._block.update(part)
            self.size += len(part)
            view = view[len(part) :]
            if self.size % BLOCK == 0:
                self._blocks += self._block.digest()
                self._block = blake3()

    def skip(self, count: int) -> None:
        """Take so many zeroes."""
        first = min(-self.size % BLOCK, count)
        self.update(_ZEROES[:first])
        whole, rest = divmod(count - first, BLOCK)
        self._blocks += _ZERO_DIGEST * whole
        self.size += whole * BLOCK
        self.update(_ZEROES[:rest])

    def finish(self) -> str:
        """The digest of all; nothing can be taken after it."""
        whole = blake3(self.size.to_bytes(8, "big")).update(self._blocks)
        if self.size % BLOCK:
            whole.update(self._block.update(_ZEROES[self.size % BLOCK :]).digest())
        return whole.hexdigest()


def file_digest(fd: int, name: str, progress: Progress, took: Callable[[int], None]) -> str:
    """The digest of all bytes, by hashlib's name."""
    digest, buffer, at = hashlib.new(name, usedforsecurity=False), bytearray(BLOCK), 0
    size = os.fstat(fd).st_size
    while done := _fill(fd, buffer, at):
        digest.update(memoryview(buffer)[:done])
        at += done
        progress("digest", at, size)
        took(done)
    return digest.hexdigest()


def _fill(fd: int, buffer: bytearray, at: int) -> int:
    done = 0
    view = memoryview(buffer)
    while done < len(buffer):
        got = os.preadv(fd, [view[done:]], at + done)
        if not got:
            break
        done += got
    return done
