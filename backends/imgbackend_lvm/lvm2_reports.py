"""What lvm2 reports, as values with its own names for the fields; lvmreport(7)."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from imgbackend import errors

OPTIONS: Final = ("--reportformat", "json", "--units", "b", "--nosuffix", "--config", "report/time_format=%s")
"""With these a report can be read: JSON, bytes, seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeGroup:
    """What ``vgs`` says of a group; sizes are bytes."""

    vg_name: str
    vg_uuid: str
    """Of this very group: one that is made later under its name has another; a renamed one keeps it."""
    vg_size: int
    vg_free: int
    vg_extent_size: int
    vg_tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalVolume:
    """What ``lvs`` says of a volume; sizes are bytes, None is what lvm2 leaves empty."""

    vg_name: str
    vg_uuid: str
    lv_name: str
    lv_uuid: str
    lv_path: str
    """``/dev/<group>/<name>``; empty for a thin pool."""
    lv_size: int
    lv_attr: str
    """Ten letters, lvs(8)."""
    lv_tags: tuple[str, ...]
    lv_time: int
    """When it was made, in seconds since 1970."""
    origin: str | None
    """The volume that this is a snapshot of."""
    pool_lv: str | None
    """The thin pool that it is in."""
    data_percent: float | None
    """How much of it, or of the pool, is used; None while it is not active."""
    metadata_percent: float | None
    """Of a pool."""
    lv_metadata_size: int | None
    """Of a pool."""
    chunk_size: int
    """Of a pool; 0 for other volumes."""
    lv_when_full: str | None
    """``queue`` or ``error``; of a pool."""

    @property
    def is_thin_pool(self) -> bool:
        """Whether thin volumes are made in it."""
        return self.lv_attr[0] == "t"

    @property
    def is_thin(self) -> bool:
        """Whether it is in a thin pool."""
        return self.lv_attr[0] == "V"

    @property
    def read_only(self) -> bool:
        """Whether its metadata forbid writing."""
        return self.lv_attr[1] in "rR"

    @property
    def active(self) -> bool:
        """Whether its device is there."""
        return self.lv_attr[4] not in "-X"

    @property
    def open(self) -> bool:
        """Whether something has its device open."""
        return self.lv_attr[5] == "o"

    @property
    def zeroes(self) -> bool:
        """Of a pool: whether new chunks are zeroed before they are given out."""
        return self.lv_attr[7] == "z"

    @property
    def health(self) -> str:
        """``-`` is well; of a pool ``F`` failed, ``D`` out of data space, ``M`` its metadata are read only."""
        return self.lv_attr[8]

    @property
    def skips_activation(self) -> bool:
        """Whether it is activated only on special request."""
        return self.lv_attr[9] == "k"

    @property
    def spent(self) -> int:
        """Bytes that the storage spends on it.

        A thin one's are those that it maps: device-mapper does not tell which it shares with its base, and lvm2 tells
        a hundredth of a per cent.
        """
        if not self.is_thin or self.data_percent is None:
            return self.lv_size
        return math.ceil(self.lv_size * self.data_percent / 100)


def _text(value: str) -> str | None:
    return value or None


def _words(value: str) -> tuple[str, ...]:
    return tuple(value.split(",")) if value else ()


def _part(value: str) -> float | None:
    return float(value) if value else None


def _bytes(value: str) -> int | None:
    return int(value) if value else None


_GROUP: Final[Mapping[str, Callable[[str], object]]] = {
    "vg_name": str,
    "vg_uuid": str,
    "vg_size": int,
    "vg_free": int,
    "vg_extent_size": int,
    "vg_tags": _words,
}
_VOLUME: Final[Mapping[str, Callable[[str], object]]] = {
    **dict.fromkeys(("vg_name", "vg_uuid", "lv_name", "lv_uuid", "lv_path", "lv_attr"), str),
    **dict.fromkeys(("lv_size", "lv_time", "chunk_size"), int),
    "lv_tags": _words,
    **dict.fromkeys(("origin", "pool_lv", "lv_when_full"), _text),
    **dict.fromkeys(("data_percent", "metadata_percent"), _part),
    "lv_metadata_size": _bytes,
}
GROUP_FIELDS: Final = ",".join(_GROUP)
"""What ``vgs --options`` is given."""
VOLUME_FIELDS: Final = ",".join(_VOLUME)
"""What ``lvs --options`` is given."""


def groups(printed: str) -> list[VolumeGroup]:
    """The groups of a report of ``vgs``.

    :raises StorageError: if it is no such report.
    """
    return [VolumeGroup(**row) for row in _rows(printed, "vg", _GROUP)]  # type: ignore[arg-type]  # each field by its own reader


def volumes(printed: str) -> list[LogicalVolume]:
    """The volumes of a report of ``lvs``, each once: lvm2 has a row for each of its segments.

    :raises StorageError: if it is no such report.
    """
    found = [LogicalVolume(**row) for row in _rows(printed, "lv", _VOLUME)]  # type: ignore[arg-type]  # as above
    return list({volume.lv_uuid: volume for volume in found}.values())


def extents(printed: str) -> list[str]:
    """The ranges of a report of ``lvs --options seg_pe_ranges``, one for each segment of a linear volume.

    :raises StorageError: if it is no such report.
    """
    return [str(row["seg_pe_ranges"]) for row in _rows(printed, "lv", {"seg_pe_ranges": str})]


def _rows(printed: str, kind: str, fields: Mapping[str, Callable[[str], object]]) -> list[dict[str, object]]:
    try:
        rows = [row for report in json.loads(printed)["report"] for row in report[kind]]
        return [{name: read(row[name]) for name, read in fields.items()} for row in rows]
    except (KeyError, TypeError, ValueError) as exc:
        raise errors.StorageError(f"lvm2's report cannot be read: {exc}; it has to be 2.02.158 or newer") from exc
