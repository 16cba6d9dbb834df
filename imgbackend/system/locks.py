"""The locks, in the order in which they may be taken: instance, disk, base, store, record.

Each is an external lock of oslo.concurrency under ``instances_path/locks``, for other
processes, with a semaphore before it, for the threads of this one: fcntl's locks belong
to a process, two of them in one process both succeed, and closing any descriptor of the
file drops them, so nobody else may open a lock file.  Since Nova, and :meth:`Held.forget`,
unlink lock files, a lock counts only if the file under the name is still the one locked.

A base's lock is named as Nova's, ``nova-<name>``, so that both may use one folder.
"""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from oslo_concurrency import lockutils

from imgbackend import errors
from imgbackend.system import files, shared_storage, stale
from imgbackend.types import DiskId, Progress, ignore

INSTANCE: Final = -1
DISK: Final = 0
BASE: Final = 1
STORE: Final = 2
RECORD: Final = 3

BASE_PREFIX: Final = "nova-"
DISK_PREFIX: Final = "imgbackend-d."
INSTANCE_PREFIX: Final = "imgbackend-i."
RECORD_PREFIX: Final = "imgbackend-r."
SPACE: Final = "imgbackend-space"
"""The names of lock files: prefixes before what is locked, a disk as ``<instance>_<disk>``."""

_POLL: Final = (0.002, 0.02)
_LOOK: Final = 0.1
"""Seconds between two calls of progress while waiting, which is how a waiter is cancelled."""

_semaphores: dict[str, lockutils.Semaphores] = {}
_guard = threading.Lock()
_mine = threading.local()


def _after_fork() -> None:
    """Threads of the parent, and what they hold, are not in the child."""
    global _guard, _mine
    _semaphores.clear()
    _guard, _mine = threading.Lock(), threading.local()


os.register_at_fork(after_in_child=_after_fork)


class Held:
    """A lock that is held."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def forget(self) -> None:
        """Remove the lock's file: what it guards is gone.  Waiters look again."""
        self._path.unlink(missing_ok=True)


class Locks:
    """The locks of one ``instances_path``; shared by all engines of this process that use it."""

    def __init__(self, folder: Path, bases: Path | None = None) -> None:
        """Keep the folder; it is made when the first lock is taken.  ``bases`` is the folder of the bases."""
        self._folder, self._bases = folder, bases
        self._looked_at: Path | None = None

    def instance(self, instance: str, progress: Progress = ignore) -> contextlib.AbstractContextManager[Held]:
        """Of one instance: held while it is spawned, started, stopped or destroyed."""
        return self._lock(INSTANCE, f"{INSTANCE_PREFIX}{instance}", progress)

    def disk(self, disk: DiskId, progress: Progress = ignore) -> contextlib.AbstractContextManager[Held]:
        """Of one disk: held where it is made, changed or removed."""
        return self._lock(DISK, name_of(disk), progress)

    def forget(self, disk: DiskId) -> None:
        """Remove the lock's file of a disk that is gone; by its holder.  Waiters look again."""
        (self._folder / name_of(disk)).unlink(missing_ok=True)

    def base(self, name: str, progress: Progress = ignore) -> contextlib.AbstractContextManager[Held]:
        """Of one base: held while it is looked at or fetched, not while it is copied."""
        return self._base(name, progress)

    def spare_base(self, name: str, give_up: Progress) -> contextlib.AbstractContextManager[Held]:
        """Of a base that may go, also while another's is held: ``give_up`` raises, so that nobody is waited for."""
        return self._base(name, give_up, beside=True)

    @contextlib.contextmanager
    def _base(self, name: str, progress: Progress, *, beside: bool = False) -> Iterator[Held]:
        """The lock below ``instances_path``, for a Nova here; and where the base folder is a link, one beside what it
        leads to: hosts that share that folder alone have no other lock in common.

        :raises ConfigError: if hosts share the bases, and can share no lock.
        """
        with self._lock(BASE, f"{BASE_PREFIX}{name}", progress, beside=beside) as held:
            common = self._beside_the_bases()
            if common is None:
                yield held
            else:
                with Locks(common)._lock(BASE, f"{BASE_PREFIX}{name}", progress, beside=True):
                    yield held

    def _beside_the_bases(self) -> Path | None:
        if self._bases is None:
            return None
        linked = self._bases.is_symlink()
        bases = Path(os.path.realpath(self._bases)) if linked else self._bases
        if bases != self._looked_at:
            shared_storage.expect_locks_shared(bases)
            self._looked_at = bases
        return bases.parent / self._folder.name if linked else None

    def record(self, instance: str, progress: Progress = ignore) -> contextlib.AbstractContextManager[Held]:
        """Of the records of one instance."""
        return self._lock(RECORD, f"{RECORD_PREFIX}{instance}", progress)

    def space(self, progress: Progress = ignore) -> contextlib.AbstractContextManager[Held]:
        """Of the list of what is being fetched."""
        return self._lock(RECORD, SPACE, progress)

    def hosts(self) -> contextlib.AbstractContextManager[Held]:
        """Of the list of the hosts that share the folder; a Nova's own lock."""
        return self._lock(RECORD, "nova-storage-registry-lock", ignore)

    @contextlib.contextmanager
    def _lock(self, rank: int, name: str, progress: Progress, *, beside: bool = False) -> Iterator[Held]:
        held: list[int] = _mine.__dict__.setdefault("ranks", [])
        if held and (rank < held[-1] or (rank == held[-1] and not beside)):
            raise errors.DiskBusy(
                "this call comes from inside another one, such as its progress callback, and would wait for itself"
            )
        semaphore = self._semaphore(name)
        held.append(rank)  # while it is waited for too: the callback of a waiter may not take locks either
        try:
            _wait_for(lambda: semaphore.acquire(timeout=_LOOK), progress)
            try:
                path = self._folder / name
                external = self._locked(path, progress)
                try:
                    yield Held(path)
                finally:
                    _release(external)
            finally:
                semaphore.release()
        finally:
            held.pop()

    def _semaphore(self, name: str) -> threading.Semaphore:
        with _guard:
            return _semaphores.setdefault(self._real, lockutils.Semaphores()).get(name)

    @functools.cached_property
    def _real(self) -> str:
        return os.path.realpath(self._folder)

    def _locked(self, path: Path, progress: Progress) -> Any:
        """An external lock of the file that is under ``path`` now."""
        files.make_folders(self._folder)
        external = lockutils.external_lock(path.name, lock_path=str(self._folder))
        last, delay = time.monotonic(), _POLL[0]
        try:
            while True:
                if _acquired(external):
                    if _is_under(external.lockfile.fileno(), path):
                        return external
                    external.release()
                    continue
                time.sleep(delay)
                delay = min(delay * 2, _POLL[1])
                if time.monotonic() - last > _LOOK:
                    last = time.monotonic()
                    progress("wait", 0, None)
        except threading.ThreadError as exc:  # how fasteners reports what fcntl refused
            raise errors.StorageUnavailable(f"cannot lock {path}: {exc}") from exc
        finally:
            if not external.acquired and external.lockfile is not None:
                external.lockfile.close()


def name_of(disk: DiskId) -> str:
    """The name of the lock's file of a disk."""
    return f"{DISK_PREFIX}{disk.instance}_{disk.name}"


def _release(external: Any) -> None:
    """Let go of a lock, also where its file system went away, and all its locks with it: that hides no error."""
    with contextlib.suppress(OSError):
        external.unlock()
    external.acquired = False
    with contextlib.suppress(OSError):
        external.lockfile.close()  # the descriptor is free, whatever the file system answers


def _acquired(external: Any) -> bool:
    """Whether a lock was to be had.  Of a file that another host removed none is: the next call opens another."""
    try:
        return bool(external.acquire(blocking=False))
    except threading.ThreadError as exc:
        if exc.__context__ is None or not stale.is_stale(exc.__context__):
            raise
        external.lockfile.close()
        return False


def _is_under(fd: int, path: Path) -> bool:
    """Whether the file that is open is the one under the name; asked in this order, for NFS tells the first anew."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError as exc:
        if not stale.is_gone(exc):
            raise
        return False


def _wait_for(acquire: Callable[[], bool], progress: Progress) -> None:
    while not acquire():
        progress("wait", 0, None)
