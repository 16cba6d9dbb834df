"""What there is: the bases of the base folder and of the stores that keep bases, as one kind of entry."""

from collections.abc import Iterator, Set

from imgbackend.abilities import HoldsBases
from imgbackend.bases import BaseEntry
from imgbackend.cache.policy import CachedBase
from imgbackend.cache.use import Use
from imgbackend.pins import Pin
from imgbackend.types import StoreBase, is_base_name


def of_folder(entry: BaseEntry, use: Use, *, pinned: bool) -> CachedBase:
    """A base of the base folder."""
    manifest = entry.manifest
    return CachedBase(
        store=None,
        name=entry.name,
        allocated=entry.allocated,
        last_used=entry.last_used,
        image_id=manifest.image_id if manifest else None,
        source=manifest.source if manifest else None,
        format=manifest.format if manifest else None,
        virtual_size=manifest.virtual_size if manifest else None,
        cluster_size=manifest.cluster_size if manifest else None,
        digest=manifest.digest if manifest else None,
        size=entry.size,
        path=entry.path,
        disks=use.disks(entry.name),
        pinned=pinned,
        verified=manifest.verified_at if manifest else None,
    )


def of_store(base: StoreBase, store: str, use: Use, *, pinned: bool) -> CachedBase:
    """A base that the store of the backend ``store`` keeps."""
    return CachedBase(
        store=store,
        name=base.name,
        allocated=base.allocated,
        last_used=base.touched,
        image_id=base.tags.get("image_id") or None,
        format=base.tags.get("format") or "raw",
        virtual_size=base.size,
        digest=base.tags.get("digest") or None,
        size=base.size,
        disks=use.disks(base.name, store),
        children=base.children,
        pinned=pinned,
    )


def all_of(name: str, store: HoldsBases, use: Use, pins: Set[Pin]) -> Iterator[CachedBase]:
    """The bases of a store, by name; what has no name that a base can have is none of ours."""
    for base in sorted(store.list_bases(), key=lambda base: base.name):
        if is_base_name(base.name):
            yield of_store(base, name, use, pinned=Pin(name=base.name, store=name) in pins)
