"""Which disks hang on which base, by their headers: no process is started.

A file that is recorded as raw is not read: a guest writes on it what it likes.  Of one that
nobody recorded, the header is believed only to say that a base is in use, never what
the base's format is.

Folders are renamed and files replaced while they are looked at.  What was listed and is gone
is looked for again, so that a disk that only moved is not missed.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.bases import backing_names, instance_folders
from imgbackend.bases.folders_seen import FoldersSeen
from imgbackend.bases.instance_reads import NO_DISKS, Formats, InstanceReads, changed_at
from imgbackend.bases.turns import Turns
from imgbackend.system import clock, qcow2
from imgbackend.system.host import Host
from imgbackend.types import Record, is_base_name

_ROUNDS: Final = 8
"""How often a folder is listed again, in which something was gone when it was its turn."""
_DEEPEST: Final = 16
"""Files that are followed from a disk to its base."""
_SAME_TICK: Final = 2_000_000_000
"""Nanoseconds: a folder that changed so shortly before it was listed may have changed after it with the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A qcow2 file of an instance that refers to a base."""

    instance: str
    name: str
    base: str
    """The name of the base."""
    format: str | None
    """That of the base, as the header states it; None: not stated, or of a base that is known by its name alone."""
    recorded: bool


@dataclass(frozen=True, slots=True)
class _Root:
    """The base at the end of a chain of files."""

    name: str
    format: str | None
    """As the last header states it; None where only the name says that it is a base of this host."""


class OverlayUsers:
    """One look at the folders of all instances, and what it could not see."""

    def __init__(self, host: Host, alive: Callable[[], object] = instance_folders.nothing) -> None:
        """Keep the host; nothing is looked at.  A first look calls ``alive`` before each folder; it may raise."""
        self._host, self._alive = host, alive
        self._bases = os.path.realpath(host.bases)
        self._root = os.path.realpath(host.instances)
        self._real: dict[str, str] = {}
        self._inodes: dict[tuple[int, int] | None, str] | None = None
        self._listed: dict[str, tuple[int, int]] = {}
        self._clock_difference = 0
        self._ahead: dict[str, InstanceReads] = {}
        self._turns = Turns(host.instances)
        self._bases_on_record: dict[str, str] = {}
        self._below: dict[str, dict[str, int]] = {}
        self.unseen: dict[str, None] = {}
        """What may hang on a base and could not be read, a line each: no base is known to be unused."""
        self.foreign: dict[str, None] = {}
        """Files whose headers refer to what is surely no base of this host, a line each; they count for nothing."""
        self.named: dict[tuple[str, str], dict[str, float]] = {}
        """The disks whose records name a base, by backend and base, as ``instance/disk``; and since when they do."""
        self.seen = FoldersSeen()
        """What was in the folders that could be looked at."""

    def overlays(self) -> Iterator[Overlay]:
        """All overlays of all instances on bases of the base folder; a base may be gone.

        Folders of instances that Nova is moving or removing (``_resize``, ``_del``) count too.
        """
        done: set[str] = set()
        for link in instance_folders.lost(self._root):
            self.unseen[_line(f"{link} is a link to nothing that is here now")] = None
        for _ in range(_ROUNDS):
            names = [name for name in self._instances() if name not in done]
            if not names:
                return
            with contextlib.closing(self._turns.each(names, self._reads, InstanceReads.ahead, self._alive)) as turns:
                for name, reads in turns:
                    self._ahead = {name: reads}
                    if (yield from self._instance(name)):
                        done.add(name)
        self.unseen[_line(f"{self._root}: folders come and go too fast to be looked at; try again")] = None

    def again(self) -> Iterator[Overlay]:
        """The overlays in folders that are new, or changed since they were listed."""
        self._compare_clocks()
        self._real.clear()
        self._inodes = None
        with contextlib.closing(self._turns.each(self._instances(), self._has_changed)) as turns:
            for name, has_changed in turns:
                if has_changed:
                    yield from self._instance(name)

    def base_under(self, path: str, format: str | None) -> str | None:
        """The name of the base that a file is, or hangs on, which a domain opens as ``format``; None: it needs none.

        Its files may be anywhere: the domain names the first, and no guest writes a qcow2's header.
        """
        for named in (path, os.path.realpath(path)):
            folder, name = os.path.split(named)
            if os.path.realpath(folder) == self._bases:
                return name
        if is_base_name(os.path.basename(path)) and not self._is_below(os.path.realpath(path)):
            return os.path.basename(path)  # the base folder may be mounted in another place too
        if format != "qcow2":
            return None
        try:
            header = self._header(path, qcow2.read, needed=False, wanted=True)
        except FileNotFoundError:
            return None
        if header is None or header.backing_file is None:
            return None
        root = self._root_of(path, header, recorded=True)
        return None if root is None else root.name

    def _instances(self) -> list[str]:
        try:
            return instance_folders.instances(self._host)
        except OSError as exc:
            self.unseen[_line(_told(exc, self._root))] = None
            return []

    def _reads(self, instance: str) -> InstanceReads:
        return InstanceReads(self._host, f"{self._root}/{instance}", instance)

    def _has_changed(self, instance: str) -> bool:
        """Whether a folder, or one below it, is new or changed since it was listed."""
        before, listed = self._listed.get(instance, (-1, 0))
        folders = {f"{self._root}/{instance}": before, **self._below.get(instance, {})}
        listed += self._clock_difference
        return any(
            changed != changed_at(folder) or listed - changed < _SAME_TICK for folder, changed in folders.items()
        )

    def _compare_clocks(self) -> None:
        """See what the file system's clock says, beside the one that the listings were noted by."""
        with contextlib.suppress(OSError):  # who may not touch the folder removes nothing in it
            now = clock.file_system_now(self._host.instances)
            self._clock_difference = int(now * 1e9) - time.monotonic_ns()

    def _instance(self, instance: str) -> Generator[Overlay, None, bool]:
        """The overlays of one; it returns whether the folder was there."""
        reads = self._ahead.pop(instance, None) or self._reads(instance)
        folder = reads.folder
        self._listed[instance] = reads.changed()
        self._below.pop(instance, None)
        recorded = self._recorded(reads)
        formats = Formats(recorded, functools.partial(self._told_by_nova, reads))
        done: set[str] = set()
        for _ in range(_ROUNDS):
            whole = True
            try:
                entries = reads.listed()
                for path in self._files(instance, entries):
                    name = path[len(folder) + 1 :]
                    if name in done or name in NO_DISKS or formats.of(name) == "raw":
                        continue
                    try:
                        found = self._overlay(reads, name, path, formats.of(name))
                    except FileNotFoundError:
                        whole = False
                        continue
                    done.add(name)
                    if found is not None:
                        yield found
            except FileNotFoundError:
                if not os.path.isdir(folder):
                    return False
                whole = False
            except OSError as exc:
                self.unseen[_line(_told(exc, folder))] = None
                return True
            if whole:
                yield from self._not_read(instance, done)
                self.seen.note(instance, recorded, [entry.name for entry in entries])
                return True
        self.unseen[_line(f"{folder}: files come and go too fast to be looked at; try again")] = None
        return True

    def _files(
        self, instance: str, entries: list[os.DirEntry[str]], followed: frozenset[str] = frozenset()
    ) -> Iterator[str]:
        """The paths of the files and links in a folder and those below it, by name; a link to a folder is ``followed``.

        :raises FileNotFoundError: if a folder below it is gone.
        """
        for entry in entries:
            if not instance_folders.is_folder(entry):
                if entry.is_file(follow_symlinks=False) or entry.is_symlink():
                    yield entry.path
                continue
            inside = followed
            if entry.is_symlink():
                real = os.path.realpath(entry.path)
                if real in {self._root, *followed} or self._is_below(real):
                    continue  # it is looked at anyway
                if f"{self._root}/".startswith(f"{real.rstrip('/')}/"):
                    self.unseen[_line(f"{entry.path} is a link to {real}, which is too much to look at")] = None
                    continue
                inside = followed | {real}
            self._below.setdefault(instance, {})[entry.path] = changed_at(entry.path)
            yield from self._files(instance, instance_folders.listed(entry.path), inside)

    def _recorded(self, reads: InstanceReads) -> dict[str, Record] | None:
        """What is on record; of broken records nothing is believed (None), and their disks count all the same."""
        self._bases_on_record = {}
        try:
            found = reads.recorded()
        except (OSError, errors.DiskError) as exc:
            self._tell_unread(exc, reads.folder)
            return None
        self._note(reads.instance, found)
        return found

    def _told_by_nova(self, reads: InstanceReads) -> dict[str, str]:
        try:
            return reads.novas()
        except (OSError, errors.DiskError) as exc:
            self._tell_unread(exc, reads.folder)
            return {}

    def _tell_unread(self, exc: OSError | errors.DiskError, where: str) -> None:
        self.unseen[_line(_told(exc, where) if isinstance(exc, OSError) else str(exc))] = None

    def _note(self, instance: str, found: Mapping[str, Record]) -> None:
        for name, record in found.items():
            if record.base is not None:
                if record.format == "qcow2" or record.way == "overlay":
                    self._bases_on_record[name] = record.base
                self.named.setdefault((record.backend, record.base), {})[f"{instance}/{name}"] = record.time

    def _overlay(self, reads: InstanceReads, name: str, path: str, format: str | None) -> Overlay | None:
        """What a file hangs on; ``format`` is the one on record, None where there is none."""
        instance, base, recorded = reads.instance, self._bases_on_record.get(name), format is not None
        needed = format == "qcow2" and base is None
        wanted = recorded or instance_folders.is_disk(instance, name)
        header = self._header(path, reads.header, needed=needed, wanted=wanted)
        if header is None and base is not None:  # the header is broken: what is on record holds the base until it goes
            return Overlay(instance=instance, name=name, base=base, format=None, recorded=recorded)
        if header is None or header.backing_file is None:
            return None
        root = self._root_of(path, header, recorded=recorded)
        if root is None:
            return None
        return Overlay(instance=instance, name=name, base=root.name, format=root.format, recorded=recorded)

    def _not_read(self, instance: str, done: set[str]) -> Iterator[Overlay]:
        """Overlays by their records alone: what is no file now, or what the record calls raw as well."""
        for name, base in self._bases_on_record.items():
            if name not in done and os.path.lexists(f"{self._root}/{instance}/{name}"):
                yield Overlay(instance=instance, name=name, base=base, format=None, recorded=True)

    def _header(
        self, path: str, read: Callable[[str], qcow2.Qcow2Header], *, needed: bool, wanted: bool
    ) -> qcow2.Qcow2Header | None:
        """A header, by ``read``.  What is ``needed`` must have one, what is ``wanted`` must be readable.

        :raises FileNotFoundError: if the file is gone.
        """
        try:
            return read(path)
        except errors.DiskError as exc:
            if needed:
                self.unseen[_line(f"{exc}, and is recorded as one")] = None
        except FileNotFoundError:
            if not os.path.islink(path):
                raise
            if wanted:
                self.unseen[_line(f"{path} is a link to nothing that is here now")] = None
        except OSError as exc:
            if wanted:
                self.unseen[_line(_told(exc, path))] = None
        return None

    def _root_of(self, first: str, header: qcow2.Qcow2Header, *, recorded: bool) -> _Root | None:
        """The base at the end of a chain; None: it does not end in one that counts.

        Hosts may have mounted the folder in different places.  So a file outside of it that has the name of
        a base is taken for the one of that name here: to keep a base too long loses nothing.
        """
        path = first
        for _ in range(_DEEPEST):
            backing = str(header.backing_file)
            target = self._resolved(path, backing)
            folder, _, name = (target or backing).rpartition("/")
            if folder == self._bases and target is not None:
                return _Root(name, header.backing_format)
            known = is_base_name(name)
            if known and not self._is_below(target):
                return _Root(name, None)
            readable = self._readable(target, recorded=recorded)
            if readable is None:
                where = f"{target}, which is outside {self._root}" if target else f"{backing}, which is no file"
                self.foreign[_line(f"{first} refers to {where}")] = None
                return None
            try:
                below = self._header(readable, qcow2.read, needed=False, wanted=recorded)
            except FileNotFoundError:
                self._tell(f"{first} refers to {target}, which is not there", recorded=recorded and not known)
                return _Root(name, None) if known else None
            if below is None or below.backing_file is None:
                same = self._base_of_inode(readable)
                return None if same is None else _Root(same, None)
            path, header = readable, below
        self._tell(f"{first} has too many files below it", recorded=recorded)
        return None

    def _base_of_inode(self, path: str) -> str | None:
        """The base that a file is under another name: a hard link, or a mount of the file alone; None: it is none."""
        if self._inodes is None:
            entries = instance_folders.listed(self._bases) if os.path.isdir(self._bases) else ()
            self._inodes = {_inode(entry.path): entry.name for entry in entries}
        return self._inodes.get(_inode(path))

    def _is_below(self, path: str | None) -> bool:
        return path is not None and path.startswith(f"{self._root}/")

    def _readable(self, target: str | None, *, recorded: bool) -> str | None:
        """Where a file of a chain is to be read on this host; None: it is none of this host's.

        Outside of the instances a file is read only where no guest can have named it.
        """
        if target is None or self._is_below(target):
            return target
        inside = f"{self._root}/{'/'.join(target.split('/')[-2:])}"
        if os.path.isfile(inside):
            return inside  # the same file, as a host names it that mounted the folder in another place
        return target if recorded and backing_names.holds_data(target) else None

    def _tell(self, line: str, *, recorded: bool) -> None:
        """What cannot be followed: of a disk on record it may lead to any base; any other a guest may have made up."""
        (self.unseen if recorded else self.foreign)[_line(line)] = None

    def _resolved(self, path: str, backing: str) -> str | None:
        """A backing file's real path; None: it is no path (``nbd://``)."""
        local = backing_names.local_path(backing)
        if local is None:
            return None
        file = local if local[:1] == "/" else f"{os.path.dirname(path)}/{local}"
        if file not in self._real:
            self._real[file] = os.path.realpath(file)
        return self._real[file]


def overlays(host: Host) -> Iterator[Overlay]:
    """All overlays that can be seen; for who need not know whether there are others."""
    return OverlayUsers(host).overlays()


def is_used_by_overlay(host: Host, base: str) -> bool:
    """Whether a disk hangs on a base, or may do so: not every disk could be looked at."""
    look = OverlayUsers(host)
    return any(overlay.base == base for overlay in look.overlays()) or bool(look.unseen)


def stated_formats(host: Host, base: Path) -> set[str]:
    """The formats that recorded overlays of a base state for it; at most one, if all is well."""
    return {
        overlay.format
        for overlay in overlays(host)
        if overlay.base == base.name and overlay.recorded and overlay.format is not None
    }


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _line(told: str) -> str:
    """One line to show to people: a guest may have written what is in it."""
    return told if told.isprintable() else told.encode("unicode_escape").decode()


def _told(exc: OSError, where: str) -> str:
    return f"{exc.filename or where}: {exc.strerror or exc}"
