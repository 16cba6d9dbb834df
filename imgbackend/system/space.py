"""Room: what is free on a file system, less what is already promised to others.

Whoever is about to fill a file tells how large it will be.  The promise is a small file
beside the locks, named by its holder; it counts for what is not yet written, and as
long as the process that made it lives.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import files
from imgbackend.system.locks import Locks
from imgbackend.system.process_identity import ProcessIdentity

_SUFFIX: Final = ".reserved"
_EIGHTH: Final = 3
_AHEAD: Final = 1 << 20
"""Bytes that are promised ahead at least, where nobody knows how many there will be."""


def note_of(folder: Path, target: Path) -> Path:
    """Where the promise for a file is; ``folder`` is that of the locks."""
    return folder / f"{hashlib.sha1(os.fsencode(target), usedforsecurity=False).hexdigest()}{_SUFFIX}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What an operator allows a folder to take, beyond what its file system has."""

    folder: Path
    max_size: int | None = None
    """Bytes that the files right in the folder may take; None: no limit."""
    min_free: int = 0
    """Bytes of the file system that are left to others."""
    without: frozenset[str] = frozenset()
    """Files of the folder that do not count: what is about to be written takes their place."""


class Space:
    """The promises on one ``instances_path``."""

    def __init__(self, folder: Path, locks: Locks, host: str = "localhost") -> None:
        """``folder`` holds the promises: that of the locks; ``host`` is the name of this one."""
        self._folder, self._locks, self._host = folder, locks, host

    @contextlib.contextmanager
    def reserved(self, target: Path, need: int | None, quota: Quota | None = None) -> Iterator[None]:
        """Promise ``need`` bytes on the file system of ``target``, while that file is filled.

        For a driver's own copies to a file, around the writing: what others of this
        ``instances_path`` are about to write counts as used, so that several creations do not rely
        on the same room, and one that cannot end is refused before it begins.  ``need`` is what
        will be allocated, not the virtual size.  The folder of ``target`` is there already.
        It is not for what writes nothing (a reflink, a snapshot), nor for a store that is
        no file system here.  Nothing is promised where ``need`` is None: it is not known.
        ``quota`` is the engine's, for what it puts into the folder of the bases.

        :raises StorageFull: if they are not there, or run out meanwhile; with need and have.
        """
        if need is None:
            yield
            return
        note = note_of(self._folder, target)
        self._promise(note, target, need, quota)
        with _blamed(target, need):
            try:
                yield
            finally:
                note.unlink(missing_ok=True)

    @contextlib.contextmanager
    def growing(self, target: Path, quota: Quota | None = None) -> Iterator[Callable[[], None]]:
        """The same for a file of which nobody knows how large it will be.

        What is yielded is to be called again and again while it is filled: it promises what there is and an eighth
        more, or as much more as there is room for.

        :raises StorageFull: if there is more already than there may be.
        """
        note, promised = note_of(self._folder, target), 0

        def grow() -> None:
            nonlocal promised
            written = _written(target)
            if written < promised or not written:
                return
            ahead = max(written >> _EIGHTH, _AHEAD)
            try:
                promised = self._promise(note, target, written + ahead, quota)
            except errors.StorageFull:
                self._promise(note, target, written, quota)

        with _blamed(target, None):
            try:
                yield grow
            finally:
                note.unlink(missing_ok=True)

    def _promise(self, note: Path, target: Path, need: int, quota: Quota | None) -> int:
        """Write it down, if there is room for it."""
        told = {"file": str(target), "bytes": need, **ProcessIdentity.me(self._host).note()}
        with self._locks.space():
            missing = need - _written(target)
            where, have = self._left(note, target.parent, quota)
            if missing > have:
                raise errors.StorageFull(where, missing, max(have, 0), short=missing - have)
            files.write_whole(note, json.dumps(told).encode(), mode=0o600, durable=False)
        return need

    def _left(self, own: Path, folder: Path, quota: Quota | None) -> tuple[str, int]:
        """What limits a file in ``folder``, and how many bytes that leaves, which may be less than none."""
        device, promised, here = os.stat(folder).st_dev, 0, 0
        for target, size in self._promises(own):
            if target.parent.exists() and os.stat(target.parent).st_dev == device:
                promised += size
                here += size if quota is not None and target.parent == quota.folder else 0
        have = files.free_bytes(folder) - promised
        if quota is None:
            return str(folder), have
        have -= quota.min_free
        if quota.max_size is not None:
            left = quota.max_size - files.folder_bytes(quota.folder, quota.without) - here
            if left < have:
                return f"{folder}, within [image_cache] max_size", left
        return f"{folder}, beside [image_cache] min_free" if quota.min_free else str(folder), have

    def _promises(self, own: Path) -> Iterator[tuple[Path, int]]:
        """What others have still to write, by file; forgets those that died."""
        for note in self._folder.glob(f"*{_SUFFIX}"):
            if note == own:
                continue
            try:
                told = json.loads(files.content(note))
                gone = ProcessIdentity.noted(told).state(self._host) == "gone"
                target, size = Path(told["file"]), int(told["bytes"])
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                continue
            if not gone:
                yield target, max(size - _written(target), 0)
            else:
                note.unlink(missing_ok=True)


@contextlib.contextmanager
def _blamed(target: Path, need: int | None) -> Iterator[None]:
    """An end of the room is told with what was needed, and what there is."""
    try:
        yield
    except OSError as exc:
        if exc.errno in files.FULL:
            raise errors.StorageFull(str(target.parent), need, files.free_bytes(target.parent)) from exc
        raise
    except errors.StorageFull as exc:
        if exc.need is not None:
            raise
        raise errors.StorageFull(str(target.parent), need, files.free_bytes(target.parent)) from exc


def _written(path: Path) -> int:
    try:
        return files.allocated(path)
    except FileNotFoundError:
        return 0
