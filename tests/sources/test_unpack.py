"""gzip, xz and zstd: whatever a stranger packed, unpacked under limits or refused."""

import functools
import gzip
import hashlib
import lzma
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from imgbackend.errors import TemplateCorrupt, TemplateError, TemplateTooLarge
from imgbackend.sources.filenames import Suffixes, suffixes
from imgbackend.sources.retry import Retry
from imgbackend.sources.stream import Body, StreamOrder, TransferLimits, fetch
from imgbackend.types import Delivered, Gi, Ki, Mi, Ti, ignore

_DATA = os.urandom(300_000) + bytes(5 * Mi) + os.urandom(1234)

_ZEROES = bytes(80 * Mi)

Pack = Callable[[bytes], bytes]


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


@functools.cache
def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 1)


@functools.cache
def _xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


_PACK: dict[str, Pack] = {"gz": _gzip, "xz": _xz, "zst": _zstd}
_each = pytest.mark.parametrize("wrapper", _PACK)


class _Body:
    start = 0

    def __init__(self, data: bytes, piece: int) -> None:
        self._data, self._piece = data, piece

    def chunks(self) -> Iterator[bytes]:
        for at in range(0, len(self._data), self._piece):
            yield self._data[at : at + self._piece]

    def close(self) -> None:
        pass


def _fetch(
    target: Path,
    wrapper: str,
    packed: bytes,
    *,
    piece: int = Mi,
    largest: int = Ti,
    ratio: int = 1000,
    cut: bool = False,
) -> Delivered:
    wanted = StreamOrder(
        name="it",
        size=len(packed),
        digests=(("sha256", hashlib.sha256(packed).hexdigest()),),
        format="raw",
        wrapper=wrapper,
        limits=TransferLimits(largest=largest, ratio=ratio),
        resumable=False,
    )
    answers = [packed[: len(packed) // 2]] if cut else []

    def open_body(offset: int) -> Body:
        assert offset == 0
        return _Body(answers.pop() if answers else packed, piece)

    return fetch(target, open_body, wanted, Retry(times=1, delay=0.01), ignore)


@_each
@pytest.mark.parametrize("piece", [1, 7000, Mi], ids=str)
def test_packed_image_is_unpacked_as_it_streams(target: Path, wrapper: str, piece: int) -> None:
    data = _DATA if piece > 1 else _DATA[-5000:] + bytes(70_000)
    packed = _PACK[wrapper](data)
    delivered = _fetch(target, wrapper, packed, piece=piece)
    assert target.read_bytes() == data
    assert delivered.size == len(data)
    assert delivered.digests == (("sha256", hashlib.sha256(packed).hexdigest()),)
    if piece > 1:
        assert target.stat().st_blocks * 512 < Mi


@_each
def test_several_members_are_one_image(target: Path, wrapper: str) -> None:
    pack = _PACK[wrapper]
    _fetch(target, wrapper, pack(b"one") + pack(_DATA) + pack(b"three"), piece=999)
    assert target.read_bytes() == b"one" + _DATA + b"three"


@_each
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.999], ids=str)
def test_truncated_pack_is_corrupt(target: Path, wrapper: str, keep: float) -> None:
    packed = _PACK[wrapper](_DATA)
    with pytest.raises(TemplateCorrupt, match="cannot be unpacked"):
        _fetch(target, wrapper, packed[: int(len(packed) * keep)])


@_each
@pytest.mark.parametrize("tail", [b"garbage after the end", b"\x1f", b"\0\0\0\0x"], ids=repr)
def test_garbage_after_the_end_is_corrupt(target: Path, wrapper: str, tail: bytes) -> None:
    with pytest.raises(TemplateCorrupt, match="cannot be unpacked"):
        _fetch(target, wrapper, _PACK[wrapper](_DATA) + tail)


@pytest.mark.parametrize("wrapper", ["gz", "xz"])
def test_padding_with_zeroes_is_allowed(target: Path, wrapper: str) -> None:
    _fetch(target, wrapper, _PACK[wrapper](_DATA) + bytes(512))
    assert target.read_bytes() == _DATA


@_each
def test_flipped_bit_is_corrupt(target: Path, wrapper: str) -> None:
    packed = bytearray(_PACK[wrapper](_DATA))
    packed[len(packed) // 2] ^= 4
    with pytest.raises(TemplateCorrupt):
        _fetch(target, wrapper, bytes(packed))


@_each
def test_not_packed_at_all_is_corrupt(target: Path, wrapper: str) -> None:
    with pytest.raises(TemplateCorrupt, match=r"cannot be unpacked \("):
        _fetch(target, wrapper, b"QFI\xfb" + os.urandom(5000))


@_each
def test_bomb_stops_at_the_largest_size(target: Path, wrapper: str) -> None:
    with pytest.raises(TemplateTooLarge) as caught:
        _fetch(target, wrapper, _PACK[wrapper](_ZEROES), largest=50 * Mi, ratio=10**9)
    assert caught.value.limit == "max_image_virtual_size"
    assert target.stat().st_size <= 50 * Mi


@_each
def test_bomb_stops_at_the_ratio(target: Path, wrapper: str) -> None:
    with pytest.raises(TemplateTooLarge) as caught:
        _fetch(target, wrapper, _PACK[wrapper](_ZEROES), ratio=10)
    assert caught.value.limit == "max_unpack_ratio"
    assert target.stat().st_size <= 64 * Mi


@_each
def test_small_image_of_zeroes_is_no_bomb(target: Path, wrapper: str) -> None:
    _fetch(target, wrapper, _PACK[wrapper](_ZEROES[: 60 * Mi]), ratio=10)
    assert target.stat().st_size == 60 * Mi


def test_zstd_bomb_does_not_fill_the_memory(tmp_path: Path) -> None:
    """512 MiB of zeroes in 17 kB, in a process that may have 200 MiB more than it starts with."""
    bomb = tmp_path / "bomb.zst"
    bomb.write_bytes(zstandard.ZstdCompressor().compress(bytes(Gi // 2)))
    program = f"""
import resource
from pathlib import Path
import zstandard
from imgbackend.sources.unpack import Unpacker
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {200 * Mi}, used + {200 * Mi}))
unpacker = Unpacker("zst", "it", largest={2 * Gi}, ratio=10**9)
print(sum(len(piece) for piece in unpacker.feed(Path({str(bomb)!r}).read_bytes())))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == str(Gi // 2), done.stderr


def test_window_and_dictionary_are_limited(target: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(TemplateCorrupt, match="memory"):
        _fetch(target, "zst", packer.compress(b"x" * 1000) + packer.flush())
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 * Mi}]
    # The dictionary's size is one byte of the header: packing with it would take gigabytes here.
    packed = bytearray(lzma.compress(b"x" * 1000, filters=[{**filters[0], "dict_size": 64 * Ki}]))
    assert packed[14:17] == b"\x21\x01\x08"
    packed[16] = 32
    import zlib

    packed[20:24] = zlib.crc32(packed[12:20]).to_bytes(4, "little")
    with pytest.raises(TemplateCorrupt, match=r"(?i)memory"):
        _fetch(target, "xz", bytes(packed))


@_each
def test_packed_fetch_that_breaks_starts_again(target: Path, wrapper: str) -> None:
    _fetch(target, wrapper, _PACK[wrapper](_DATA), cut=True)
    assert target.read_bytes() == _DATA


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("a.qcow2", ("qcow2", None)),
        ("a.QCOW2.GZ", ("qcow2", "gz")),
        ("a.raw.xz", ("raw", "xz")),
        ("debian-12.1.img.zst", (None, "zst")),
        ("a.img", (None, None)),
        ("a", (None, None)),
        ("a.gz", (None, "gz")),
        ("qcow2", (None, None)),
        ("a.iso", ("iso", None)),
        ("a.vhdx", ("vhdx", None)),
        ("a.qcow2.gz.bak", (None, None)),
    ],
)
def test_suffix_declares(name: str, declared: tuple[str | None, str | None]) -> None:
    assert suffixes(name) == Suffixes(*declared)


@pytest.mark.parametrize("name", ["disk.tar.gz", "disk.tgz", "disk.ova", "disk.zip"])
def test_archive_is_refused(name: str) -> None:
    with pytest.raises(TemplateError, match="archive"):
        suffixes(name)
