"""The manifest of a base: what it is, where it is from, and how to know it again.

It is ``<name>.json`` beside the base, and is published before it, so that a base of ours
is never seen without.  Its modification time is the lease: the last use of the base.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from imgbackend import errors
from imgbackend.state import digests
from imgbackend.system import files
from imgbackend.types import ImageInfo, Progress, Role, ignore

HEAD: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """How a base is known again at every use, for the price of one small read.

    No time is in it: the base's is touched at every use, by us and by Nova.
    """

    device: int
    inode: int
    size: int
    head: str
    """The BLAKE3 of the first 64 KiB."""

    @classmethod
    def of(cls, fd: int) -> "FileIdentity":
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
    identity: FileIdentity
    inspected_by: str
    inspected_at: float
    """Seconds since 1970."""
    cluster_size: int | None = None
    min_disk: int = 0
    digest: str | None = None
    """Of the content, by :data:`~imgbackend.state.digests.ALGORITHM`; None of a base kept as qcow2, until it is
    verified."""
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


def has_content(
    fd: int, manifest: Manifest, progress: Progress = ignore, took: Callable[[int], None] = digests.unheard
) -> bool:
    """Whether an open file has a base's content, by its digest, or by one that it was delivered with."""
    if manifest.digest is not None:
        return digests.content_digest(fd, progress, took) == manifest.digest
    if manifest.delivered_format == manifest.format and os.fstat(fd).st_size == manifest.delivered_size:
        for name, value in manifest.delivered_digests:
            if name in hashlib.algorithms_available:
                return digests.file_digest(fd, name, progress, took) == value
    return False


def path_of(base: Path) -> Path:
    """Where the manifest of a base is."""
    return base.with_name(f"{base.name}.json")


def read(base: Path) -> Manifest | None:
    """The manifest of a base; None where there is none that can be read."""
    try:
        found: dict[str, Any] = json.loads(files.content(path_of(base)))
        if found.pop("digest_algorithm", None) != digests.ALGORITHM:
            return None
        found["identity"] = FileIdentity(**found["identity"])
        found["delivered_digests"] = tuple((name, value) for name, value in found.get("delivered_digests", ()))
        return Manifest(**found)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write(base: Path, manifest: Manifest, *, mode: int = 0o644) -> None:
    """Publish a manifest; the folder is flushed with the base."""
    told = {"digest_algorithm": digests.ALGORITHM, **asdict(manifest)}
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
    """Note a use, by the time of the file system: ours on the manifest, and Nova's on the base itself.

    :raises OSError: but not EACCES or EPERM: who may not touch may still use it.
    """
    for path in (path_of(base), base):
        try:
            os.utime(path)
        except PermissionError:
            continue
