"""What a look at all disks saw in the folders of instances, for who looks for other things there right after it."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from imgbackend.state import records
from imgbackend.types import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSeen:
    """A disk that an instance's disks.json tells of."""

    name: str
    backend: str
    has_file: bool
    """A file, or whatever else, of that name was in the folder."""


class FoldersSeen:
    """It may be old news: what it shows to be in order is in order until the next look, and all else is looked at anew.

    It is small: of most instances it keeps what others have just so.
    """

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self._recorded: dict[str, tuple[RecordSeen, ...]] = {}
        self._alike: dict[tuple[RecordSeen, ...], tuple[RecordSeen, ...]] = {}
        self._hidden: dict[str, list[str]] = {}
        self._listed: set[str] = set()
        self._spawned: set[str] = set()

    def note(self, instance: str, recorded: Mapping[str, Record] | None, names: Collection[str]) -> None:
        """Keep what the records of an instance tell (None: they are broken), and the ``names`` in its folder."""
        for kept in (self._listed, self._spawned):
            kept.discard(instance)
        for dropped in (self._recorded, self._hidden):
            dropped.pop(instance, None)
        self._listed.add(instance)
        if recorded is not None:
            found = tuple(
                RecordSeen(name=name, backend=record.backend, has_file=name in names)
                for name, record in recorded.items()
            )
            self._recorded[instance] = self._alike.setdefault(found, found)
        if hidden := [name for name in names if name[0] == "."]:
            self._hidden[instance] = hidden
        if records.DOMAIN in names:
            self._spawned.add(instance)

    def recorded(self, instance: str) -> tuple[RecordSeen, ...] | None:
        """The disks that are on record; None: that was not seen, or cannot be read."""
        return self._recorded.get(instance)

    def has(self, instance: str, disk: str | None = None) -> bool:
        """Whether an instance had a folder, or a disk a record; False: it is not known."""
        if disk is None:
            return instance in self._listed
        return any(each.name == disk for each in self._recorded.get(instance, ()))

    def hidden(self, instance: str) -> list[str] | None:
        """What has a name that begins with a dot in an instance's folder, by name; None: it was not listed."""
        return self._hidden.get(instance, []) if instance in self._listed else None

    def has_domain(self, instance: str, instances: Path) -> bool:
        """Whether the description of a domain is in an instance's folder; it is looked up where that was not listed."""
        if instance in self._listed:
            return instance in self._spawned
        return os.path.exists(instances / instance / records.DOMAIN)  # a path's own exists() raises where it is refused
