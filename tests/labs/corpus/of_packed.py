"""Images in gzip, xz and zstd."""

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.types import Mi
from labs.corpus.making import ALL, Hostile, Make, content, hostile, make_qcow2

Pack = Callable[[bytes], bytes]


def zst(data: bytes) -> bytes:
    """Packed by zstd."""
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(data)


PACKERS: Final[dict[str, Pack]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=1),
    "zst": zst,
}


def _bomb(pack: Pack, _path: Path, _secret: Path) -> bytes:
    return pack(bytes(128 * Mi))


def _truncated(pack: Pack, _path: Path, _secret: Path) -> bytes:
    return pack(content())[:-100]


def _trailing_garbage(pack: Pack, _path: Path, _secret: Path) -> bytes:
    return pack(content()) + b"and so on"


def _not_packed(_pack: Pack, _path: Path, _secret: Path) -> bytes:
    return content()


def _of_nothing(pack: Pack, _path: Path, _secret: Path) -> bytes:
    return pack(b"")


def _of_gz(pack: Pack, _path: Path, _secret: Path) -> bytes:
    return pack(PACKERS["gz"](content()))


def _of_backed_qcow2(pack: Pack, path: Path, secret: Path) -> bytes:
    make_qcow2(path, "-u", "-b", str(secret), "-F", "raw")
    return pack(path.read_bytes())


def _of_size_bomb(pack: Pack, path: Path, _secret: Path) -> bytes:
    make_qcow2(path, size="3T")
    return pack(path.read_bytes())


_CASES: Final = (
    (_bomb, "raw", errors.TemplateTooLarge),
    (_truncated, "raw", errors.TemplateCorrupt),
    (_trailing_garbage, "raw", errors.TemplateCorrupt),
    (_not_packed, "raw", errors.TemplateCorrupt),
    (_of_nothing, "raw", errors.TemplateCorrupt),
    (_of_gz, "raw", errors.TemplateCorrupt),
    (_of_backed_qcow2, "qcow2", errors.TemplateUnsafe),
    (_of_backed_qcow2, "raw", errors.TemplateUnsafe),
    (_of_size_bomb, "qcow2", errors.TemplateTooLarge),
)


def _maker(data: Callable[[Pack, Path, Path], bytes], pack: Pack) -> Make:
    def make(path: Path, secret: Path) -> None:
        path.write_bytes(data(pack, path, secret))

    return make


for _suffix, _pack in PACKERS.items():
    for _data, _format, _refused in _CASES:
        _name = f"{_suffix}{_data.__name__.replace('_', '-')}-as-{_format}"
        ALL.append(Hostile(_name, f"a.{_format}.{_suffix}", _refused, _maker(_data, _pack)))


@hostile("twice.raw.gz.gz", errors.TemplateError)
def _named_as_packed_twice(path: Path, _secret: Path) -> None:
    path.write_bytes(gzip.compress(gzip.compress(content())))
