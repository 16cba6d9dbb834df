"""gzip, xz and zstd, unpacked while they stream, under limits.

Each is a sequence of one or more members (gzip members, xz streams, zstd frames), as
RFC 1952, the .xz format 1.2 and RFC 8878 have them.  Memory is bounded whatever the
bytes are: gzip and xz are asked for a chunk at a time; zstd is fed so little at a time
that its densest block (4 bytes for 128 KiB) makes 32 MiB of it.
"""

import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from imgbackend.errors import TemplateCorrupt, TemplateTooLarge
from imgbackend.sources.sparse_file import CHUNK
from imgbackend.types import Ki, Mi

RATIO_FLOOR: Final = 64 * Mi
"""Until so much was unpacked the ratio is not looked at: small images are mostly zeroes."""
MEMORY: Final = 128 * Mi
"""What the dictionary of xz and the window of zstd may take: more than `xz -9` and `zstd --long` want."""

_PACKED = (b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
"""How gzip, xz and zstd begin."""
_SLICE = 64 * Ki
_ZSTD_SLICE = 1 * Ki


class _Member(Protocol):
    rest: bytes
    """What follows the member's end, once ``ended``."""

    @property
    def ended(self) -> bool: ...

    def pieces(self, data: bytes) -> Iterator[bytes]: ...


class _Gzip:
    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.rest = b""

    @property
    def ended(self) -> bool:
        return self._zlib.eof

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while True:
            made = self._zlib.decompress(data, CHUNK)
            data = self._zlib.unconsumed_tail
            if made:
                yield made
            if self._zlib.eof or (not data and len(made) < CHUNK):
                self.rest = self._zlib.unused_data
                return


class _Xz:
    def __init__(self) -> None:
        self._lzma = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
        self.rest = b""

    @property
    def ended(self) -> bool:
        return self._lzma.eof

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while True:
            made = self._lzma.decompress(data, CHUNK)
            data = b""
            if made:
                yield made
            if self._lzma.eof or self._lzma.needs_input:
                self.rest = self._lzma.unused_data
                return


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._zstd: Any = zstandard.ZstdDecompressor(max_window_size=MEMORY).decompressobj()
        self.rest = b""

    @property
    def ended(self) -> bool:
        return bool(self._zstd.eof)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _ZSTD_SLICE):
            made = self._zstd.decompress(data[at : at + _ZSTD_SLICE])
            if made:
                yield made
            if self._zstd.eof:
                self.rest = self._zstd.unused_data + data[at + _ZSTD_SLICE :]
                return


_MEMBERS: dict[str, Callable[[], _Member]] = {"gz": _Gzip, "xz": _Xz, "zst": _Zstd}


def _broken(wrapper: str) -> tuple[type[Exception], ...]:
    if wrapper == "gz":
        return (zlib.error,)
    if wrapper == "xz":
        return (lzma.LZMAError,)
    import zstandard

    return (zstandard.ZstdError,)


class Unpacker:
    """Unpacks one wrapped stream; made anew for each."""

    def __init__(self, wrapper: str, name: str, *, largest: int, ratio: int) -> None:
        """``wrapper`` is ``gz``, ``xz`` or ``zst``; ``name`` is for messages.

        ``largest`` bounds the bytes unpacked, ``ratio`` how many times more they may
        be than those taken (looked at from :data:`RATIO_FLOOR` on).
        """
        self._wrapper, self._name = wrapper, name
        self._largest, self._ratio = largest, ratio
        self._broken = _broken(wrapper)
        self._member: _Member | None = None
        self._members = 0
        self._head = b""
        self.taken = self.made = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What ``data`` unpacks to, in pieces.

        :raises TemplateCorrupt: if it cannot be unpacked, was packed twice, or something else follows its end.
        :raises TemplateTooLarge: if a limit is passed; looked at for each piece.
        """
        for at in range(0, len(data), _SLICE):
            part = data[at : at + _SLICE]
            self.taken += len(part)
            try:
                for made in self._pieces(part):
                    self._count(made)
                    yield made
            except self._broken as exc:
                raise TemplateCorrupt(f"{self._name} cannot be unpacked ({self._wrapper}): {exc}") from exc

    def finish(self) -> None:
        """:raises TemplateCorrupt: if the stream is not at an end."""
        if self._member is not None or not self._members:
            raise TemplateCorrupt(f"{self._name} cannot be unpacked ({self._wrapper}): it ends too early")

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member is None:
                # gzip files and xz files may be padded with zeroes after their end.
                data = data.lstrip(b"\0") if self._members and self._wrapper != "zst" else data
                if not data:
                    return
                self._member = _MEMBERS[self._wrapper]()
            yield from self._member.pieces(data)
            if not self._member.ended:
                return
            data, self._member = self._member.rest, None
            self._members += 1

    def _count(self, made: bytes) -> None:
        if len(self._head) < 6:
            self._head += made[:6]
            if self._head.startswith(_PACKED):
                raise TemplateCorrupt(f"{self._name} was packed twice; unpack it once")
        self.made += len(made)
        if self.made > self._largest:
            raise TemplateTooLarge(self.made, self._largest, limit="max_image_virtual_size")
        if self.made > max(RATIO_FLOOR, self._ratio * self.taken):
            raise TemplateTooLarge(self.made, max(RATIO_FLOOR, self._ratio * self.taken), limit="max_unpack_ratio")
