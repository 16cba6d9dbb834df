"""From a source's bytes to a file: what all sources share.

The bytes are written as they come, unpacked where they are wrapped, hashed beside,
counted against what was declared and what is allowed, and asked for again where the
source breaks off.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from imgbackend.errors import TemplateCorrupt, TemplateTooLarge
from imgbackend.sources.retry import Interrupted, Retry
from imgbackend.sources.sparse_file import Digester, Paced, SparseFile, discard
from imgbackend.sources.unpack import Unpacker
from imgbackend.types import Delivered, Mi, Progress

_FLAT = frozenset({"raw", "iso", "ami", "aki", "ari"})


class Body(Protocol):
    """Bytes that a source sends, in one answer."""

    start: int
    """Where in the image they begin: what was asked for, or 0 where the source has no ranges."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes, once.

        :raises Interrupted: if the source broke off.
        """

    def close(self) -> None:
        """Let go of the connection, read to its end or not."""


OpenBody = Callable[[int], Body]
"""``open_body(offset)`` asks the source for the bytes from ``offset`` on.

It raises :class:`Interrupted` for what is worth trying again, any other error for
what is not.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """What the operator allows."""

    largest: int
    """Bytes of a raw image: ``max_image_virtual_size``."""
    ratio: int
    """Bytes unpacked for each byte delivered: ``max_unpack_ratio``."""

    @classmethod
    def configured(cls, conf: Any) -> "TransferLimits":
        """As the section ``DEFAULT`` says."""
        return cls(largest=conf.max_image_virtual_size, ratio=conf.max_unpack_ratio)

    def of(self, format: str | None) -> int:
        """The bytes that a file of this format may have: a container has tables besides."""
        return self.largest if format in _FLAT else self.largest + self.largest // 4 + 16 * Mi


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOrder:
    """What is to arrive."""

    name: str
    """For messages."""
    size: int | None
    """Bytes that the source sends; None: not told."""
    digests: tuple[tuple[str, str], ...]
    """``(algorithm, hex)`` of the bytes that the source sends."""
    format: str | None
    wrapper: str | None
    limits: TransferLimits
    resumable: bool
    """Whether a fetch that broke may go on."""


def fetch(target: Path, open_body: OpenBody, wanted: StreamOrder, retry: Retry, progress: Progress) -> Delivered:
    """Put the bytes at ``target``, whole and checked; see :meth:`Image.__call__ <imgbackend.sources.contract.Image>`.

    Where ``wanted.resumable`` and ``target`` is there, its bytes are hashed and the
    rest is asked for; if all together are not what was promised, the bytes are
    fetched once more from the beginning before an error is raised.  Otherwise what
    is at ``target`` is unlinked first.  When it breaks off, ``target`` has exactly
    the length of the bytes that are good so far.

    The digests returned are of the bytes as the source sent them: those of
    ``wanted``, or a SHA-256 where there are none.
    """
    allowed = wanted.limits.of(wanted.format)
    if wanted.wrapper is None and wanted.size is not None and wanted.size > allowed:
        raise TemplateTooLarge(wanted.size, allowed, limit="max_image_virtual_size")
    with contextlib.closing(_Fetch(target, open_body, wanted, progress)) as work:
        work.adopt()
        retry.run(work.attempt, progress)
        delivered, wrong = work.result()
        if wrong and work.pieced:
            work.restart()
            retry.run(work.attempt, progress)
            delivered, wrong = work.result()
    if wrong:
        raise TemplateCorrupt(wrong)
    return delivered


class _Fetch:
    """One fetch under way: the file, the digests, how far it is."""

    def __init__(self, target: Path, open_body: OpenBody, wanted: StreamOrder, progress: Progress) -> None:
        self._target, self._open_body, self._wanted = target, open_body, wanted
        self._progress = Paced(progress)
        self._allowed = wanted.limits.of(wanted.format)
        self._kept = wanted.format in _FLAT  # others are converted, and not flushed themselves
        self._file: SparseFile | None = None
        self._digester = self._new_digester()
        self._unpacker: Unpacker | None = None
        self.received = 0
        self.pieced = False
        """Whether the bytes came in more than one answer."""

    def _new_digester(self) -> Digester:
        return Digester([name for name, _ in self._wanted.digests] or ["sha256"])

    def adopt(self) -> None:
        """Go on with what an earlier fetch left, where that is allowed; else clear it away."""
        if not self._wanted.resumable:
            discard(self._target)
            return
        with contextlib.suppress(FileNotFoundError):
            self._file = SparseFile(self._target, resume=True, kept=self._kept)
        if self._file is None:
            return
        size = self._wanted.size
        if self._file.size > (self._allowed if size is None else size):
            self.restart()
            return
        for chunk in self._file.read():
            self._digester.update(chunk)
            self.received += len(chunk)
            self.pieced = True
            self._progress("digest", self.received, self._file.size)

    def restart(self) -> None:
        """Forget all bytes, and the file."""
        self.close()
        discard(self._target)
        self.received, self.pieced = 0, False
        self._digester = self._new_digester()

    def attempt(self) -> None:
        """Ask for what is missing, and take it.

        :raises Interrupted: if it is worth trying again.
        """
        wanted = self._wanted
        if self.received and not wanted.resumable:
            self.restart()
        if wanted.size is not None and self.received == wanted.size and self._file is not None:
            return
        self._progress("fetch", self.received, wanted.size)
        with contextlib.closing(self._open_body(self.received)) as body:
            if body.start != self.received:
                self.restart()
                if body.start:
                    raise Interrupted(f"{wanted.name}: the source sent other bytes than were asked for")
            self.pieced = self.pieced or self.received > 0
            try:
                for chunk in body.chunks():
                    self._take(chunk)
            finally:
                if self._file is not None:
                    self._file.settle()
        if wanted.size is not None and self.received < wanted.size:
            raise Interrupted(f"{wanted.name}: the source broke off after {self.received} of {wanted.size} bytes")

    def _take(self, chunk: bytes) -> None:
        wanted = self._wanted
        if not chunk:
            return
        if wanted.size is not None and self.received + len(chunk) > wanted.size:
            raise TemplateCorrupt(f"{wanted.name}: the source sent more than the {wanted.size} bytes that it told")
        if self._file is None:
            self._file = SparseFile(self._target, kept=self._kept)
        self._digester.update(chunk)
        self.received += len(chunk)
        for piece in self._unpacked(chunk):
            self._file.write(piece)
            self._progress("fetch", self.received, wanted.size)

    def _unpacked(self, chunk: bytes) -> Iterator[bytes]:
        wanted = self._wanted
        if wanted.wrapper is None:
            if self.received > self._allowed:
                raise TemplateTooLarge(self.received, self._allowed, limit="max_image_virtual_size")
            yield chunk
            return
        if self._unpacker is None:
            self._unpacker = Unpacker(wanted.wrapper, wanted.name, largest=self._allowed, ratio=wanted.limits.ratio)
        yield from self._unpacker.feed(chunk)

    def result(self) -> tuple[Delivered, str]:
        """What arrived, and what is wrong with it (empty: nothing).

        :raises TemplateCorrupt: if it is nothing at all, or packed and without its end.
        """
        wanted = self._wanted
        digests = self._digester.finish()
        self._progress.last("fetch", self.received, wanted.size if wanted.size is not None else self.received)
        for (name, promised), (_, found) in zip(wanted.digests, digests, strict=False):
            if promised.lower() != found:
                told = f"its {name} is {found}, and the source promised {promised.lower()}"
                return Delivered(size=self.received, digests=digests), f"{wanted.name} is corrupt: {told}"
        if self._unpacker is not None:
            self._unpacker.finish()
        if self._file is None or not self._file.size:
            raise TemplateCorrupt(f"{wanted.name} is empty")
        return Delivered(size=self._file.size, digests=digests, content=self._file.content), ""

    def close(self) -> None:
        """End the thread, settle and close the file, which stays."""
        self._digester.close()
        self._unpacker = None
        if self._file is not None:
            self._file.close()
            self._file = None
