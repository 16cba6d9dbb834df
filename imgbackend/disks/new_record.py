"""The record of a disk that is made, or that is adopted: what every one notes, whoever makes the disk."""

import secrets
import time
from typing import TYPE_CHECKING, Any, TypeAlias

from imgbackend.disks import record_stores
from imgbackend.driver.abilities import Marked
from imgbackend.types import Record

if TYPE_CHECKING:
    from imgbackend.driver.contract import Disk

    AnyDisk: TypeAlias = Disk[Any]


def new_identity(disk: "AnyDisk") -> str | None:
    """What is to tell the disk from one that is made later under its name; None: its store cannot note it."""
    return secrets.token_hex(16) if isinstance(disk, Marked) else None


def of(
    disk: "AnyDisk",
    *,
    format: str,
    way: str,
    identity: str | None,
    image_id: str | None = None,
    base: str | None = None,
    digest: str | None = None,
) -> Record:
    """The record of a disk that becomes this host's now, in the store that its backend has."""
    backend = disk.backend
    return Record(
        backend=backend.name,
        driver=backend.driver,
        format=format,
        way=way,
        time=time.time(),
        image_id=image_id,
        base=base,
        digest=digest,
        owner=backend.attached.owners.me(),
        identity=identity,
        store=record_stores.identity_of(backend),
    )
