"""What Glance keeps of an image: its record, read into a value."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from imgbackend.errors import ImageNotFound, SourceDenied, TemplateError
from imgbackend.types import Declared, Gi, Location, Role

_CONTAINERS = frozenset({None, "bare", "ovf", "ami", "aki", "ari"})
_COMING = frozenset({"queued", "saving", "uploading", "importing"})
_OWN = frozenset(
    {
        *("id", "name", "status", "visibility", "owner", "protected", "tags", "created_at", "updated_at"),
        *("disk_format", "container_format", "size", "virtual_size", "min_disk", "min_ram"),
        *("checksum", "os_hash_algo", "os_hash_value", "os_hidden", "locations", "direct_url", "stores"),
        *("kernel_id", "ramdisk_id", "self", "file", "schema"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GlanceRecord:
    """An image's record in Glance's API, version 2."""

    id: str
    name: str | None
    status: str
    disk_format: str | None
    container_format: str | None
    size: int | None
    virtual_size: int | None
    min_disk: int
    """GiB."""
    digests: tuple[tuple[str, str], ...]
    """The multihash, else the MD5: what hashlib can compute here."""
    urls: tuple[str, ...]
    """Where its bytes are in the stores, as far as Glance shows that; none with a password in it."""
    kernel_id: str | None
    ramdisk_id: str | None
    properties: Mapping[str, str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "GlanceRecord":
        """From what glanceclient returns.

        :raises KeyError: if that has no id or status; also TypeError, ValueError.
        """
        return cls(
            id=str(told["id"]),
            name=told.get("name"),
            status=str(told["status"]),
            disk_format=told.get("disk_format"),
            container_format=told.get("container_format"),
            size=_size(told.get("size")),
            virtual_size=_size(told.get("virtual_size")),
            min_disk=int(told.get("min_disk") or 0),
            digests=_digests(told),
            urls=_urls(told),
            kernel_id=told.get("kernel_id") or None,
            ramdisk_id=told.get("ramdisk_id") or None,
            properties={str(k): v for k, v in told.items() if k not in _OWN and isinstance(v, str)},
        )

    def check(self) -> None:
        """Refuse an image whose bytes cannot be had, or are no disk; the line says why."""
        what = f"image {self.id}"
        if self.status == "deactivated":
            raise SourceDenied(f"{what} is deactivated in Glance: its administrators hold it back")
        if self.status in _COMING:
            raise ImageNotFound(f"{what} has no data yet (its status in Glance is {self.status})")
        if self.status != "active":
            raise ImageNotFound(f"{what} has no data any more (its status in Glance is {self.status})")
        if self.container_format not in _CONTAINERS:
            raise TemplateError(f"{what} is a container ({self.container_format}), not a disk; upload what is in it")

    def declared(self, role: Role) -> Declared:
        """What the engine is told; see :meth:`check` for what is raised."""
        self.check()
        declared = self.disk_format if role == "image" else None
        virtual_size = self.virtual_size or (self.size if declared in ("raw", "iso") else None)
        return Declared(
            image_id=self.id,
            source=f"glance:{self.id}",
            role=role,
            format=declared,
            size=self.size,
            virtual_size=virtual_size if role == "image" else None,
            min_disk=self.min_disk * Gi,
            digests=self.digests,
            locations=tuple(Location(url=url, format=declared, virtual_size=virtual_size) for url in self.urls),
        )


def _size(told: Any) -> int | None:
    # Glance says 0 or nothing where it does not know.
    return int(told) if told else None


def _digests(told: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    algorithm, value = told.get("os_hash_algo"), told.get("os_hash_value")
    if algorithm and value and algorithm in hashlib.algorithms_available:
        return ((str(algorithm), str(value).lower()),)
    checksum = told.get("checksum")
    return (("md5", str(checksum).lower()),) if checksum else ()


def _urls(told: Mapping[str, Any]) -> tuple[str, ...]:
    shown = [place.get("url") for place in told.get("locations") or () if isinstance(place, Mapping)]
    urls = dict.fromkeys(str(url) for url in (*shown, told.get("direct_url")) if url)
    return tuple(url for url in urls if "@" not in urlsplit(url).netloc)
