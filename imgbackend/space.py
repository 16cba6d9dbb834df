"""Room: what is free on a file system, less what is already promised to others.

Whoever is about to fill a file tells how large it will be.  The promise is a small file
beside the locks, named by its holder; it counts for what is not yet written, and as
long as the process that made it lives.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from imgbackend import errors, files
from imgbackend.locks import Locks

_SUFFIX = ".reserved"


def _started(pid: int) -> str | None:
    """When a process of this boot started, in clock ticks; None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[19]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Space:
    """The promises on one ``instances_path``."""

    def __init__(self, folder: Path, locks: Locks) -> None:
        """``folder`` holds the promises: that of the locks."""
        self._folder, self._locks = folder, locks

    @contextlib.contextmanager
    def reserved(self, target: Path, need: int | None) -> Iterator[None]:
        """Promise ``need`` bytes on the file system of ``target``, while that file is filled.

        For a driver's own copies to a file, around the writing: what others of this
        ``instances_path`` are about to write counts as used, so that several creations do not rely
        on the same room, and one that cannot end is refused before it begins.  ``need`` is what
        will be allocated, not the virtual size.  The folder of ``target`` is there already.
        It is not for what writes nothing (a reflink, a snapshot), nor for a store that is
        no file system here.  Nothing is promised where ``need`` is None: it is not known.

        :raises StorageFull: if they are not there, or run out meanwhile; with need and have.
        """
        if need is None:
            yield
            return
        note = self._folder / f"{hashlib.sha1(os.fsencode(target), usedforsecurity=False).hexdigest()}{_SUFFIX}"
        told = {
            "file": str(target),
            "bytes": need,
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "boot": _boot(),
        }
        with self._locks.space():
            have = files.free_bytes(target.parent) - self._promised(note, target.parent)
            missing = need - _written(target)
            if missing > have:
                raise errors.StorageFull(str(target.parent), missing, max(have, 0))
            files.write_whole(note, json.dumps(told).encode(), mode=0o600, durable=False)
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
        finally:
            note.unlink(missing_ok=True)

    def _promised(self, own: Path, folder: Path) -> int:
        """What others of this file system have still to write; forgets those that died."""
        device, total = os.stat(folder).st_dev, 0
        for note in self._folder.glob(f"*{_SUFFIX}"):
            if note == own:
                continue
            try:
                told = json.loads(note.read_text())
                alive = told["boot"] == _boot() and _started(told["pid"]) == told["started"]
                target, size = Path(told["file"]), int(told["bytes"])
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                continue
            if not alive:
                note.unlink(missing_ok=True)
            elif target.parent.exists() and os.stat(target.parent).st_dev == device:
                total += max(size - _written(target), 0)
        return total


def _written(path: Path) -> int:
    try:
        return files.allocated(path)
    except FileNotFoundError:
        return 0
