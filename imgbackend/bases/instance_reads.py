"""What a look at all disks reads in the folder of one instance: when it is asked for, or ahead of that in a thread."""

import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar

from imgbackend import errors
from imgbackend.bases import instance_folders
from imgbackend.state import records
from imgbackend.system import qcow2
from imgbackend.system.host import Host
from imgbackend.types import Record

T = TypeVar("T")

NO_DISKS: Final = frozenset({records.OURS, records.NOVAS, records.DOMAIN})
"""Files of an instance that hosts write, and no guest: they hang on nothing."""
_NOT_TOLD: Final = "console.log"
"""No disk, so Nova's file says nothing of it; a guest writes it, so its header is looked at."""
_MOST: Final = 64
"""Headers of a folder that are read ahead at most, so that a folder with very many files takes little memory."""


class InstanceReads:
    """The reads in one folder.

    What :meth:`ahead` has read is given out once, an error too.  Who asks again, as something was gone that was listed,
    has it read anew.
    """

    def __init__(self, host: Host, folder: str, instance: str) -> None:
        """``folder`` is the instance's, by its real path; nothing is read."""
        self.instance, self.folder = instance, folder
        self._records = host.records
        self._kept: dict[str, Callable[[], Any]] = {}

    def ahead(self) -> "InstanceReads":
        """Read what a look is going to ask for; it may run in a thread, and the others are called after it.

        The folder is listed first: a file of records that is not in it is not asked for, which Nova's instances have
        not.  A disk has its record before it has its file, so that none is without one that has one.
        """
        self._keep("changed", self.changed)
        entries = self._keep("listed", self.listed)
        names = None if entries is None else {entry.name for entry in entries}

        def read(file: str, key: str, look: Callable[[], dict[str, T]]) -> dict[str, T] | None:
            return self._keep(key, look if names is None or file in names else dict)

        recorded = read(records.OURS, "recorded", self.recorded)
        formats = Formats(recorded, lambda: read(records.NOVAS, "novas", self.novas) or {})
        for entry in (entries or [])[:_MOST]:
            if entry.name in NO_DISKS or not is_file(entry) or formats.of(entry.name) == "raw":
                continue
            self._keep(entry.path, functools.partial(self.header, entry.path))
        return self

    def changed(self) -> tuple[int, int]:
        """As :func:`changed_at` of the folder; and when that was asked, by ``time.monotonic_ns``."""
        return self._taken("changed", lambda: (changed_at(self.folder), time.monotonic_ns()))

    def recorded(self) -> dict[str, Record]:
        """See :meth:`imgbackend.state.records.Records.all`."""
        return self._taken("recorded", lambda: self._records.all(self.instance))

    def novas(self) -> dict[str, str]:
        """See :meth:`imgbackend.state.records.Records.nova_formats`."""
        return self._taken("novas", lambda: self._records.nova_formats(self.instance))

    def listed(self) -> list[os.DirEntry[str]]:
        """See :func:`imgbackend.bases.instance_folders.listed`."""
        return self._taken("listed", lambda: instance_folders.listed(self.folder))

    def header(self, path: str) -> qcow2.Qcow2Header:
        """See :func:`imgbackend.system.qcow2.read`."""
        return self._taken(path, lambda: qcow2.read(path))

    def _taken(self, key: str, read: Callable[[], T]) -> T:
        kept: Callable[[], T] | None = self._kept.pop(key, None)
        return read() if kept is None else kept()

    def _keep(self, key: str, read: Callable[[], T]) -> T | None:
        """Keep what a read returns, or raises; None: it raised."""
        try:
            found = read()
        except (OSError, errors.Error) as exc:
            self._kept[key] = functools.partial(_raise, exc)
            return None
        self._kept[key] = lambda: found
        return found


class Formats:
    """The formats on record of the files of one folder.

    Nova's file is read where ours says nothing at all, or nothing of a file; of most instances it says the same again,
    and where the file system answers slowly that costs as much as the header of a disk.
    """

    def __init__(self, recorded: Mapping[str, Record] | None, novas: Callable[[], Mapping[str, str]]) -> None:
        """``recorded`` is what disks.json says, None where it is broken: then Nova's file says nothing either.

        ``novas`` reads that, and is called once at most.
        """
        self._known = {name: record.format for name, record in (recorded or {}).items()}
        self._novas = None if recorded is None else novas
        if not recorded:
            self._ask()

    def of(self, name: str) -> str | None:
        """That of a file, by its name below the folder; None: it is not on record."""
        if self._novas is not None and name not in self._known and name != _NOT_TOLD and "/" not in name:
            self._ask()
        return self._known.get(name)

    def _ask(self) -> None:
        novas, self._novas = self._novas, None
        if novas is not None:
            self._known = {**novas(), **self._known}


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or a link that leads to no folder: to a file, or to nothing."""
    return entry.is_file(follow_symlinks=False) or (entry.is_symlink() and not os.path.isdir(entry.path))


def changed_at(folder: str) -> int:
    """When something was last put into a folder, or taken out, in nanoseconds; -1 where it is gone."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _raise(exc: Exception) -> NoReturn:
    raise exc
