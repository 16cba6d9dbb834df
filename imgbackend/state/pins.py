"""Pins: bases that stay, whether or not they are used.

A pin is a small file in the folder ``.pins`` of the base folder, ``<base>`` for a base that is
kept there, ``<base>@<backend>`` for one that a backend's store keeps.  It is published whole and
flushed: a pin that was reported survives a kill and a power cut.  It holds for the name, also
while there is no such base.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from imgbackend.system import files
from imgbackend.types import is_base_name

_FOLDER: Final = ".pins"
_LONGEST: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """A base by name, and where it is."""

    name: str
    store: str | None
    """The backend whose store keeps it; None: the base folder."""


class Pins:
    """The pins of one base folder."""

    def __init__(self, bases: Path) -> None:
        """Keep the folder; nothing is touched."""
        self._folder = bases / _FOLDER

    def set(self, name: str, store: str | None = None) -> None:
        """Pin a base; twice is no error.  On return it survives a power cut.

        :raises ValueError: if no base can have this name, or no file that of the pin.
        :raises OSError: as writing a file does.
        """
        path = self._path(name, store)
        changed = files.make_folders(self._folder)
        if not path.exists():
            files.write_whole(path, json.dumps({"time": time.time()}).encode())
        for folder in (*changed, self._folder):
            files.flush_folder(folder)

    def clear(self, name: str, store: str | None = None) -> None:
        """Unpin a base; one that is not pinned is no error.

        :raises OSError: as removing a file does.
        """
        try:
            self._path(name, store).unlink()
        except FileNotFoundError:
            return
        files.flush_folder(self._folder)

    def has(self, name: str, store: str | None = None) -> bool:
        """Whether a base is pinned.

        :raises OSError: if that cannot be told.
        """
        try:
            os.stat(self._path(name, store))
        except FileNotFoundError:
            return False
        return True

    def all(self) -> frozenset[Pin]:
        """All pins.

        :raises OSError: if they cannot be listed.
        """
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return frozenset()
        found = set()
        for entry in names:
            name, at, store = entry.partition("@")
            if is_base_name(name):
                found.add(Pin(name=name, store=unquote(store) if at else None))
        return frozenset(found)

    def _path(self, name: str, store: str | None) -> Path:
        told = name if store is None else f"{name}@{quote(store, safe='')}"
        if not is_base_name(name) or store == "" or len(told) > _LONGEST - len("..tmp"):
            raise ValueError(f"not a name for a pin: {told!r}")
        return self._folder / told
