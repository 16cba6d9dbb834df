"""What there is: the bases of the base folder and of the stores that keep bases, as one kind of entry."""

from collections.abc import Iterator, Mapping, Set

from imgbackend import errors
from imgbackend.bases.store import BaseEntry, Bases
from imgbackend.cache.policy import CachedBase
from imgbackend.cache.usage import Use
from imgbackend.driver.abilities import HoldsBases
from imgbackend.state.pins import Pin
from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.types import StoreBase, is_base_name


def everything(
    host: Host, bases: Bases, stores: Mapping[str, HoldsBases], use: Use
) -> tuple[list[CachedBase], list[str]]:
    """All bases, those of the folder first, then each store's, by name; and what could not be listed, a line each."""
    pins = host.pins.all()
    found = [of_folder(entry, use, pinned=Pin(name=entry.name, store=None) in pins) for entry in bases.entries()]
    faults = []
    for name, store in sorted(stores.items()):
        try:
            found += all_of(name, store, use, pins)
        except OSError as exc:
            faults.append(f"the bases of {name} cannot be listed: {files.as_error(exc, host.instances)}")
        except errors.Error as exc:
            faults.append(f"the bases of {name} cannot be listed: {exc}")
    return found, faults


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
    """A base that the store of the backend ``store`` keeps.

    Records of disks on one that was put aside name what it was before; those of a later copy are younger.
    """
    was, since = base.tags.get("was") or base.name, _number(base.tags.get("since"))
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
        disks=use.disks(was, store, before=since),
        children=base.children,
        pinned=pinned,
        verified=_number(base.tags.get("verified")),
        bad=base.tags.get("bad") or None,
    )


def all_of(name: str, store: HoldsBases, use: Use, pins: Set[Pin]) -> Iterator[CachedBase]:
    """The bases of a store, by name; what has no name that a base can have is none of ours."""
    for base in sorted(store.list_bases(), key=lambda base: base.name):
        if is_base_name(base.name):
            yield of_store(base, name, use, pinned=Pin(name=base.name, store=name) in pins)


def _number(told: str | None) -> float | None:
    """A tag that is a time; None where it is not set, or somebody else set it."""
    try:
        return float(told) if told else None
    except ValueError:
        return None
