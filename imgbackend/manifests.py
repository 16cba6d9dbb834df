"""The manifest of a base: what it is, where it is from, and how to know it again.

It is ``<name>.json`` beside the base, and is published before it, so that a base of ours
is never seen without.  Its modification time is the lease: the last use of the base.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from imgbackend import errors, files
from imgbackend.types import ImageInfo, Progress, Role, ignore

BLOCK: Final = 1 << 20
HEAD: Final = 1 << 16
ALGORITHM: Final = "blake3-1M"
_ZEROES: Final = bytes(BLOCK)
_ZERO_DIGEST: Final = blake3(_ZEROES).digest()


def _unheard(_count: int) -> None:
    """For whom nobody counts what is read."""


def content_digest(fd: int, progress: Progress = ignore, took: Callable[[int], None] = _unheard) -> str:
    """The digest of a raw image's content, whatever its holes.

    The BLAKE3 of the length (8 bytes, big-endian) and the BLAKE3 digests of all blocks
    of 1 MiB, the last padded with zeroes.  Blocks in holes are not read.  ``took`` is told
    the bytes of each that is.
    """
    size = os.fstat(fd).st_size
    whole, buffer, at = blake3(size.to_bytes(8, "big")), bytearray(BLOCK), 0
    for start, end in files.data_ranges(fd, size):
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


def has_content(
    fd: int, manifest: "Manifest", progress: Progress = ignore, took: Callable[[int], None] = _unheard
) -> bool:
    """Whether an open file has a base's content, by its digest, or by one that it was delivered with."""
    if manifest.digest is not None:
        return content_digest(fd, progress, took) == manifest.digest
    if manifest.delivered_format == manifest.format and os.fstat(fd).st_size == manifest.delivered_size:
        for name, value in manifest.delivered_digests:
            if name in hashlib.algorithms_available:
                return _digest(fd, name, progress, took) == value
    return False


def _digest(fd: int, name: str, progress: Progress, took: Callable[[int], None]) -> str:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """How a base is known again at every use, for the price of one small read.

    No time is in it: the base's is touched at every use, by us and by Nova.
    """

    device: int
    inode: int
    size: int
    head: str
    """The BLAKE3 of the first 64 KiB."""

    @classmethod
    def of(cls, fd: int) -> "Identity":
        """Of an open file."""
        status = os.fstat(fd)
        head = blake3(os.pread(fd, HEAD, 0)).hexdigest()
        return cls(device=status.st_dev, inode=status.st_ino, size=status.st_size, head=head)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is remembered of a base."""

    image_id: str | None
    """None: the base is Nova's, or was made by a caller's own function."""
    source: str | None
    role: Role
    format: str
    virtual_size: int
    identity: Identity
    inspected_by: str
    inspected_at: float
    """Seconds since 1970."""
    cluster_size: int | None = None
    min_disk: int = 0
    digest: str | None = None
    """Of the content, by :data:`ALGORITHM`; None of a base kept as qcow2, until it is verified."""
    verified_at: float | None = None
    """When its bytes were last found to have the digest; None: not since it was made."""
    delivered_format: str | None = None
    delivered_size: int | None = None
    delivered_digests: tuple[tuple[str, str], ...] = ()

    @property
    def info(self) -> ImageInfo:
        """What a driver is told."""
        return ImageInfo(format=self.format, virtual_size=self.virtual_size, cluster_size=self.cluster_size)

    def check_size(self, size: int | None) -> None:
        """Refuse a disk that is too small for the image; ``size`` None is the image's own.

        :raises TemplateTooLarge: with both sizes.
        """
        if size is not None and max(self.virtual_size, self.min_disk) > size:
            raise errors.TemplateTooLarge(max(self.virtual_size, self.min_disk), size)


def path_of(base: Path) -> Path:
    """Where the manifest of a base is."""
    return base.with_name(f"{base.name}.json")


def read(base: Path) -> Manifest | None:
    """The manifest of a base; None where there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads(path_of(base).read_bytes())
        if found.pop("digest_algorithm", None) != ALGORITHM:
            return None
        found["identity"] = Identity(**found["identity"])
        found["delivered_digests"] = tuple((name, value) for name, value in found.get("delivered_digests", ()))
        return Manifest(**found)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write(base: Path, manifest: Manifest, *, mode: int = 0o644) -> None:
    """Publish a manifest; the folder is flushed with the base."""
    told = {"digest_algorithm": ALGORITHM, **asdict(manifest)}
    files.write_whole(path_of(base), json.dumps(told).encode(), mode=mode)


def amend(base: Path, manifest: Manifest) -> None:
    """Publish what is known now of a base that did not change.  That is no use of it, and its lease stays as it was."""
    before = os.stat(path_of(base))
    write(base, manifest)
    os.utime(path_of(base), ns=(before.st_atime_ns, before.st_mtime_ns))


def last_used(base: Path) -> float:
    """Seconds since 1970: the later of the lease and of what Nova touches, the base itself; 0: there is neither."""
    latest = 0.0
    for path in (path_of(base), base):
        with contextlib.suppress(FileNotFoundError):
            latest = max(latest, os.stat(path).st_mtime)
    return latest


def touch(base: Path) -> None:
    """Note a use: ours on the manifest, and Nova's on the base itself.

    :raises OSError: but not EACCES or EPERM: who may not touch may still use it.
    """
    now = time.time()
    for path in (path_of(base), base):
        try:
            os.utime(path, (now, now))
        except PermissionError:
            continue
