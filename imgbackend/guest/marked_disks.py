"""The disks that stores note whose they are, for hosts that do not share records."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from imgbackend import errors
from imgbackend.disks.owners import Owners
from imgbackend.driver.abilities import Marked
from imgbackend.driver.contract import Backend, Disk
from imgbackend.system.progress import Watched, translating_errors
from imgbackend.types import Mark, Owner, Record, ignore

LOG = logging.getLogger(__name__)


class Stores(Protocol):
    """What is asked of an engine."""

    owners: Owners

    def backend_names(self) -> Iterable[str]:
        """Of all backends, configured or not."""

    def backend(self, name: str | None = None) -> Backend:
        """One of them, opened."""


@dataclass(frozen=True, slots=True)
class MarkedDisk:
    """A whole disk of a store, and what that notes of it."""

    disk: Disk[Any]
    mark: Mark

    @property
    def owner(self) -> Owner | None:
        """Whose it is; None: the store does not say."""
        return self.mark.owner


def marked_disks(engine: Stores, name: str | None = None) -> list[MarkedDisk]:
    """Those that stores have under an instance's name (None: any); those in files are known by their records.

    A store that cannot be asked, and a disk that cannot be looked at, is no reason to stop: it is found when it can.
    """
    found: list[MarkedDisk] = []
    for backend_name in engine.backend_names():
        try:
            backend = engine.backend(backend_name)
            if backend.traits.files or not issubclass(backend.disk_type, Marked):
                continue
            disks = [backend.disk(disk) for disk in backend.list_disks() if name in (None, disk.instance)]
        except errors.ConfigError:
            continue  # most drivers are installed, and not configured
        except (errors.Error, OSError) as exc:
            LOG.warning("Cannot ask %s whose disks it has, which stay as they are: %s", backend_name, exc)
            continue
        for disk in disks:
            try:
                mark = mark_of(disk)
            except (errors.Error, OSError) as exc:
                LOG.warning("Cannot ask %s whose %s is, which stays as it is: %s", backend_name, disk.id, exc)
                continue
            if mark is not None:
                found.append(MarkedDisk(disk, mark))
    return found


def is_mine(engine: Stores, marked: MarkedDisk) -> bool:
    """Whether the store notes a disk as one that this host may change."""
    return marked.owner is not None and engine.owners.is_mine(marked.disk.id.instance, marked.owner)


def joined(recorded: dict[str, Disk[Any]], marked: Iterable[MarkedDisk]) -> dict[str, Disk[Any]]:
    """The disks on record here and those of stores, by their names.

    :raises DiskError: if two stores have a disk of one name.
    """
    for each in marked:
        disk = each.disk
        if recorded.setdefault(disk.id.name, disk).backend is not disk.backend:
            raise errors.DiskError(
                f"{disk.id} on {disk.backend.name} is {each.owner}'s, and another disk of that name is on record "
                "here, in another store; remove one of them"
            )
    return recorded


def mark_of(disk: Disk[Any]) -> Mark | None:
    """What the store notes of a disk; None: nothing, or there is no whole one.

    Also of one whose name is on record here as another store's: that is another disk.
    """
    if not isinstance(disk, Marked):
        return None
    try:
        with disk.reading():
            return disk.mark()
    except (errors.WrongStore, errors.DiskElsewhere):
        return None  # a disk of that name is on record, and is in another store: this is not it
    except errors.DiskError:
        disk.recorded = None
        with translating_errors(disk.backend.host, Watched(ignore)):
            return disk.mark()


def strays(engine: Stores, name: str) -> list[Disk[Any]]:
    """Disks of an instance without records: those that their stores note as ours, each with its identity on record."""
    found = []
    for each in marked_disks(engine, name):
        if not is_mine(engine, each):
            continue
        backend = each.disk.backend
        each.disk.given_record = Record(
            backend=backend.name,
            driver=backend.driver,
            format=backend.traits.formats[0],
            way="",
            time=0.0,
            owner=each.owner,
            identity=each.mark.identity,
        )
        found.append(each.disk)
    return found
