"""Headers of images, read as the kernel's client reads them: by a few requests to their objects.

To open an image with librbd takes a dozen requests one after the other, 5 to 10 ms; what is
asked of a disk most often, whether it is there and how large it is, takes three.  Objects,
keys and methods are those of Ceph's ``src/include/rbd_types.h`` and ``src/cls/rbd``, format 2
of the images, which clients of many years read and which therefore stays.
"""

import json
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from imgbackend.types import Ki

if TYPE_CHECKING:
    from rados import Ioctx

_EXCLUSIVE_LOCK: Final = 1 << 2
"""The feature: RBD_FEATURE_EXCLUSIVE_LOCK."""
_OBJECT_MAP: Final = 1 << 3
"""The feature: RBD_FEATURE_OBJECT_MAP."""
_MAP_INVALID: Final = 1 << 0
"""The flag: RBD_FLAG_OBJECT_MAP_INVALID."""
_PROTECTED: Final = b"\x02"
"""The state: RBD_PROTECTION_STATUS_PROTECTED."""
_SNAPSHOT: Final = "snapshot_"
"""What the keys of snapshots begin with."""
_AT_ONCE: Final = 500
_EQUAL: Final = 1
"""LIBRADOS_CMPXATTR_OP_EQ."""
_GREATER: Final = 3
"""LIBRADOS_CMPXATTR_OP_GT: what is there is."""
MISMATCH: Final = 4095
"""MAX_ERRNO: from here on librados says at what byte the content of an object differed from what was compared."""
_PREAMBLE: Final = 6
"""Bytes before what Ceph encodes: two versions, and a length."""
_USED: Final = bytes(
    (byte & 3 != 0) + (byte >> 2 & 3 != 0) + (byte >> 4 & 3 != 0) + (byte >> 6 != 0) for byte in range(256)
)
"""How many of the four objects that a byte of an object map stands for are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What is known of an image."""

    id: str
    """Ceph's own, of this image alone: one made later under the same name has another."""
    size: int
    order: int
    """Its objects have ``1 << order`` bytes."""
    mapped: bool
    """Its object map can be relied on."""
    exclusive: bool
    """One client at a time writes to it; what another had begun is refused by Ceph from then on."""
    made: float
    """Seconds since 1970, by the clock of the OSD that made it; 0 where Ceph was too old to note that."""
    metadata: Mapping[str, str]
    """Of the keys that were asked for, those that are set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is known of a snapshot."""

    id: int
    """Ceph's own, of its pool."""
    size: int
    """Of the image when it was taken."""


def identity(ioctx: "Ioctx", name: str) -> str:
    """The id of the image of that name; the caller's own ``ObjectNotFound`` where there is none."""
    return _text(ioctx.read(f"rbd_id.{name}"))


def made(ioctx: "Ioctx", name: str) -> float:
    """When the image of that name was made, in seconds since 1970."""
    _, then = ioctx.stat(f"rbd_id.{name}")
    return time.mktime(then)


def read(ioctx: "Ioctx", image_id: str, keys: Iterable[str] = ()) -> ImageHeader:
    """The header of an image; ``ObjectNotFound`` where it was never finished, or is half removed."""
    asked = ("size", "order", "features", "flags", "create_timestamp", *(f"metadata_{key}" for key in keys))
    op = ioctx.create_read_op()
    try:
        pairs, _ = ioctx.get_omap_vals_by_keys(op, asked)
        ioctx.operate_read_op(op, f"rbd_header.{image_id}")
        found = dict(pairs)
    finally:
        ioctx.release_read_op(op)
    features, flags = _number(found.get("features")), _number(found.get("flags"))
    seconds, nanoseconds = struct.unpack("<II", found.get("create_timestamp") or bytes(8))
    return ImageHeader(
        id=image_id,
        size=_number(found.get("size")),
        order=_number(found.get("order")),
        mapped=bool(features & _OBJECT_MAP) and not flags & _MAP_INVALID,
        exclusive=bool(features & _EXCLUSIVE_LOCK),
        made=seconds + nanoseconds / 1e9,
        metadata={
            key.removeprefix("metadata_"): value.decode(errors="replace")
            for key, value in found.items()
            if key.startswith("metadata_")
        },
    )


def snapshot(ioctx: "Ioctx", image_id: str, name: str) -> Snapshot | None:
    """A snapshot of an image; None where it has none of that name.

    What Ceph may have added to it over the years stands behind what is read here.
    """
    last = ""
    while True:
        op = ioctx.create_read_op()
        try:
            pairs, _ = ioctx.get_omap_vals(op, last, _SNAPSHOT, _AT_ONCE)
            ioctx.operate_read_op(op, f"rbd_header.{image_id}")
            found = list(pairs)
        finally:
            ioctx.release_read_op(op)
        for _, told in found:
            number, length = struct.unpack_from("<QI", told, _PREAMBLE)
            at = _PREAMBLE + 12 + length
            if told[at - length : at] == name.encode():
                return Snapshot(id=number, size=_number(told[at : at + 8]))
        if len(found) < _AT_ONCE:
            return None
        last = found[-1][0]


def protects(ioctx: "Ioctx", image_id: str, snapshot: Snapshot) -> bool:
    """Whether a snapshot is protected, so that clones of the older form can be made of it."""
    _, told = ioctx.execute(f"rbd_header.{image_id}", "rbd", "get_protection_status", struct.pack("<Q", snapshot.id))
    return told[:1] == _PROTECTED


def allocated(ioctx: "Ioctx", header: ImageHeader) -> int:
    """Bytes of the objects that an image has of its own, by its object map (``header.mapped``)."""
    objects = -(-header.size >> header.order)
    _, told = ioctx.execute(
        f"rbd_object_map.{header.id}", "rbd", "object_map_load", b"", objects // 4 + 4 * Ki + objects // 128
    )
    head = struct.unpack_from("<I", told)[0]
    used = told[4 + head :][: -(-objects // 4)]
    return min(sum(used.translate(_USED)) << header.order, header.size)


def taken(ioctx: "Ioctx", image: str, absent: tuple[type[Exception], ...], image_id: str = "") -> int:
    """Bytes of its own that an image has which may be half made, or half removed; 0 where that cannot be told."""
    try:
        header = read(ioctx, image_id or identity(ioctx, image))
        return allocated(ioctx, header) if header.mapped else 0
    except absent:
        return 0


def note(header: ImageHeader, key: str) -> dict[str, Any]:
    """What a program noted under a key, as a JSON object; empty where it is not set, or is none."""
    try:
        found = json.loads(header.metadata.get(key, "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def set_metadata(ioctx: "Ioctx", image_id: str, key: str, value: str, *, before: str | None = None) -> None:
    """Set one key, in one request; the image need not be opened, and nobody's lock is asked for.

    ``before``: only if it has this value, empty where it is not set; otherwise it fails with ECANCELED.
    ``ObjectNotFound`` where the image has gone: its header is not made anew.
    """
    told = struct.pack("<I", 1) + packed(key.encode()) + packed(value.encode())
    op = ioctx.create_write_op()
    try:
        op.omap_cmp("size", "", _GREATER)
        if before is not None:
            op.omap_cmp(f"metadata_{key}", before, _EQUAL)
        op.execute("rbd", "metadata_set", told)
        ioctx.operate_write_op(op, f"rbd_header.{image_id}")
    finally:
        ioctx.release_write_op(op)


def remove_metadata(ioctx: "Ioctx", image_id: str, key: str) -> None:
    """Remove one key; ``ObjectNotFound`` where it is not set."""
    ioctx.execute(f"rbd_header.{image_id}", "rbd", "metadata_remove", packed(key.encode()))


def packed(data: bytes) -> bytes:
    """As Ceph encodes what has a length."""
    return struct.pack("<I", len(data)) + data


def _text(data: bytes) -> str:
    return data[4 : 4 + struct.unpack_from("<I", data)[0]].decode()


def _number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "little")
