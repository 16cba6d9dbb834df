"""The content digest that a stream computes on its way is that of the file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.sources.retry import Interrupted, Retry
from imgbackend.sources.stream import Body, StreamOrder, TransferLimits, fetch
from imgbackend.state.digests import ContentDigester, content_digest
from imgbackend.system import files
from imgbackend.types import Mi, Ti, ignore

_HOLED = os.urandom(Mi + 7) + bytes(3 * Mi) + os.urandom(Mi) + bytes(Mi // 2)


@pytest.mark.parametrize("size", [0, 1, 511, Mi - 1, Mi, Mi + 1, 4 * Mi, len(_HOLED)])
@pytest.mark.parametrize("piece", [333_333, Mi, 2 * Mi + 5])
def test_content_digest_of_pieces_is_that_of_the_whole_file(tmp_path: Path, size: int, piece: int) -> None:
    data = _HOLED[:size]
    digester = ContentDigester()
    for at in range(0, size, piece):
        digester.update(data[at : at + piece])
    assert digester.finish() == _of_a_file(tmp_path / "file", data)


@pytest.mark.parametrize("format", ["raw", "qcow2", None])
def test_only_bytes_that_stay_as_they_are_have_a_content_digest(tmp_path: Path, format: str | None) -> None:
    delivered = fetch(tmp_path / "part", lambda offset: _Body(offset, len(_HOLED)), _wanted(format), _RETRY, ignore)
    wanted = _of_a_file(tmp_path / "file", _HOLED) if format == "raw" else None
    assert delivered.content == wanted


def test_content_digest_covers_the_bytes_that_an_earlier_fetch_left(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(_HOLED[:1_500_001])
    ends = iter([2 * Mi, len(_HOLED)])
    delivered = fetch(tmp_path / "part", lambda offset: _Body(offset, next(ends)), _wanted("raw"), _RETRY, ignore)
    assert delivered.content == _of_a_file(tmp_path / "file", _HOLED)
    assert (tmp_path / "part").read_bytes() == _HOLED


_RETRY = Retry(times=2, delay=0.01)


class _Body(Body):
    """The bytes from ``start`` to ``end``, where it breaks off."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self._end = start, end

    def chunks(self) -> Iterator[bytes]:
        for at in range(self.start, self._end, 100_000):
            yield _HOLED[at : min(at + 100_000, self._end)]
        if self._end < len(_HOLED):
            raise Interrupted("the wire was cut")

    def close(self) -> None:
        pass


def _wanted(format: str | None) -> StreamOrder:
    limits = TransferLimits(largest=Ti, ratio=1000)
    return StreamOrder(
        name="it", size=len(_HOLED), digests=(), format=format, wrapper=None, limits=limits, resumable=True
    )


def _of_a_file(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with files.open_fd(path, os.O_RDONLY) as fd:
        return content_digest(fd)
