"""Reads a qcow2's header in this process: no qemu-img is started to know a size.

The format is QEMU's docs/interop/qcow2.txt.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import stale
from imgbackend.types import SnapshotInfo

MAGIC: Final = b"QFI\xfb"
_HEAD: Final = 1 << 16
_FIRST: Final = 1 << 12
"""Bytes that hold the header that QEMU writes; over a network, who looks at many files should not get 16 times that."""
_FIXED: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_SNAPSHOT: Final = struct.Struct(">QIHHIIQII")
_LEAST: Final = 104
"""Bytes of the shortest header of version 3."""
_MOST_EXTRA: Final = 1 << 10
"""Bytes of further facts of a snapshot (QCOW_MAX_SNAPSHOT_EXTRA_DATA)."""
_BACKING_FORMAT: Final = 0xE2792ACA
DIRTY: Final = 1
CORRUPT: Final = 2
DATA_FILE: Final = 4
_KNOWN: Final = DIRTY | CORRUPT | 8 | 16  # compression type, extended L2 entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Qcow2Header:
    """What the header of a qcow2 says; it may come from a stranger."""

    version: int
    virtual_size: int
    cluster_size: int
    backing_file: str | None
    backing_format: str | None
    encrypted: bool
    incompatible: int
    """The incompatible feature bits; 0 in version 2."""
    snapshots: int
    snapshots_at: int
    """Where the table of snapshots begins."""


def parse(head: bytes, where: str) -> Qcow2Header:
    """The header in the first bytes of a file; 64 KiB hold all of it that is used.

    :raises DiskError: if it is none, or states what cannot be; it names ``where``.
    """
    if len(head) < _FIXED.size or head[:4] != MAGIC:
        raise errors.DiskError(f"{where} is not a qcow2")
    _, version, at, length, bits, size, method, _, _, _, _, snapshots, table = _FIXED.unpack_from(head)
    least = _LEAST if version == 3 else _FIXED.size
    if version not in (2, 3) or not 9 <= bits <= 21 or len(head) < least or at + length > len(head) or length > 1023:
        raise errors.DiskError(f"{where} has a broken qcow2 header")
    incompatible, header_length = struct.unpack_from(">Q", head, 72)[0] if version == 3 else 0, 72
    if version == 3:
        header_length = struct.unpack_from(">I", head, 100)[0]
    backing = os.fsdecode(head[at : at + length]) if at and length else None
    if backing is not None and "\0" in backing:
        raise errors.DiskError(f"{where} has a broken qcow2 header: no file has such a name as its backing file's")
    return Qcow2Header(
        version=version,
        virtual_size=size,
        cluster_size=1 << bits,
        backing_file=backing,
        backing_format=_backing_format(head, header_length),
        encrypted=bool(method),
        incompatible=incompatible,
        snapshots=snapshots,
        snapshots_at=table,
    )


def _backing_format(head: bytes, at: int) -> str | None:
    """The text of the extension that names the format of the backing file."""
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if not kind or at + 8 + length > len(head):
            return None
        if kind == _BACKING_FORMAT:
            return head[at + 8 : at + 8 + length].decode("ascii", errors="replace")
        at += 8 + (length + 7) // 8 * 8
    return None


def read(path: Path | str) -> Qcow2Header:
    """The header of a file; of one that another host replaces meanwhile, that of what is there then.

    :raises DiskError: if it has none.
    :raises OSError: as open and read do.
    """
    return parse(stale.look_again(path, lambda: _head(path)), str(path))


def _head(path: Path | str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        head = os.pread(fd, _FIRST, 0) or stale.past_the_cache(path, _HEAD)
        return head if _is_whole(head) else os.pread(fd, _HEAD, 0)
    finally:
        os.close(fd)


def _is_whole(head: bytes) -> bool:
    """Whether the first bytes of a file hold all of its header that is used, or are of no qcow2."""
    if len(head) < _LEAST or head[:4] != MAGIC:
        return True
    version, at, length = struct.unpack_from(">IQI", head, 4)
    extension = struct.unpack_from(">I", head, 100)[0] if version == 3 else _FIXED.size
    while at + length <= len(head) and extension + 8 <= len(head):
        kind, size = struct.unpack_from(">II", head, extension)
        if not kind:
            return True
        extension += 8 + (size + 7) // 8 * 8
    return False


def snapshots(fd: int, where: str) -> Iterator[SnapshotInfo]:
    """The internal snapshots of an open qcow2, in the order of its table.

    :raises DiskError: if the table is broken.
    """
    header = parse(os.pread(fd, 1 << 16, 0), where)
    at, end = header.snapshots_at, os.fstat(fd).st_size
    for _ in range(min(header.snapshots, 65536)):
        entry = os.pread(fd, _SNAPSHOT.size, at) if at < end else b""
        if len(entry) < _SNAPSHOT.size:
            raise errors.DiskError(f"{where} has a broken table of snapshots")
        _, _, id_length, name_length, seconds, nanoseconds, _, _, extra_length = _SNAPSHOT.unpack(entry)
        if extra_length > _MOST_EXTRA:
            raise errors.DiskError(f"{where} has a broken table of snapshots")
        rest = os.pread(fd, extra_length + id_length + name_length, at + _SNAPSHOT.size)
        name = rest[extra_length + id_length :].decode(errors="replace")
        size = int.from_bytes(rest[8:16], "big") if extra_length >= 16 else header.virtual_size
        yield SnapshotInfo(name=name, size=size, time=seconds + nanoseconds / 1e9)
        at += (_SNAPSHOT.size + len(rest) + 7) // 8 * 8


def refuse_foreign(header: Qcow2Header, where: str) -> None:
    """Refuse what our own disks never have: a data file, and features that nobody knows.

    :raises DiskError: if it has such.
    """
    if header.incompatible & DATA_FILE:
        raise errors.DiskError(f"{where} keeps its data in another file, which is refused")
    if header.incompatible & ~_KNOWN:
        raise errors.DiskError(f"{where} needs qcow2 features that are not known: {header.incompatible:#x}")
    if header.incompatible & CORRUPT:
        raise errors.DiskError(f"{where} is marked as corrupt; repair it with qemu-img check -r, or restore it")
