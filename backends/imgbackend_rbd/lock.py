"""A lock over all hosts: RADOS' advisory lock, renewed while it is held.

It expires by itself, so that whoever is killed holds nobody up for long.  A holder that
could not renew it in time, for its host or the network stood still, has lost it, and is told
so before it publishes what the lock was for.
"""

import contextlib
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from imgbackend import errors
from imgbackend.types import Progress

if TYPE_CHECKING:
    from imgbackend_rbd.cluster import Cluster

_NAME: Final = "imgbackend"
_EXCLUSIVE: Final = 1
"""LOCK_EXCLUSIVE of src/cls/lock."""
_MAY_RENEW: Final = 1
"""LIBRADOS_LOCK_FLAG_MAY_RENEW: an attempt that timed out may have had success."""
_MUST_RENEW: Final = 2
"""LIBRADOS_LOCK_FLAG_MUST_RENEW."""
_POLL: Final = (0.01, 0.25)
"""Seconds between two attempts: the first, and the longest."""


def object_of(name: str) -> str:
    """The object that a lock is on; one that a killed holder left does no harm, and is removed by the next."""
    return f"imgbackend.lock.{name}"


class StoreLock:
    """A lock on one object of a pool, which is there while the lock is held."""

    def __init__(self, cluster: "Cluster", pool: str, name: str, seconds: int) -> None:
        """``seconds`` after its holder died others get it."""
        self._cluster, self._pool, self._seconds = cluster, pool, seconds
        self._object = object_of(name)
        self._cookie = uuid.uuid4().hex
        self._renewed = 0.0
        self._end = threading.Event()

    @contextlib.contextmanager
    def held(self, progress: Progress) -> Iterator["StoreLock"]:
        """Wait for it, and hold it; whoever waits is cancelled through ``progress``.

        :raises StorageUnavailable: if the cluster does not answer.
        """
        self._wait(progress)
        self._end.clear()
        renewing = threading.Thread(target=self._renew, name=f"renew {self._object}", daemon=True)
        renewing.start()
        try:
            yield self
        finally:
            self._end.set()
            renewing.join()
            self._release()

    def check(self) -> None:
        """Make sure that it is held still, and for a while.

        :raises StorageUnavailable: if it was lost.
        """
        try:
            with self._cluster.asked("renewing a lock", self._pool):
                self._lock(_MUST_RENEW)
        except errors.Error as exc:
            raise errors.StorageUnavailable(
                f"the lock {self._pool}/{self._object} was lost, for it could not be renewed in time; try again"
            ) from exc

    def _wait(self, progress: Progress) -> None:
        delay = _POLL[0]
        while True:
            with self._cluster.asked("waiting for a lock", self._pool):
                try:
                    self._lock(_MAY_RENEW)
                except self._cluster.busy:
                    pass
                else:
                    return
            progress("wait", 0, None)
            time.sleep(delay)
            delay = min(2 * delay, _POLL[1])

    def _lock(self, flags: int) -> None:
        asked = time.monotonic()
        ioctx = self._cluster.pool(self._pool)
        ioctx.lock_exclusive(self._object, _NAME, self._cookie, duration=self._seconds, flags=flags)
        self._renewed = asked

    def _renew(self) -> None:
        """Until the end; what cannot be renewed is noticed by :meth:`check`."""
        while not self._end.wait(self._seconds / 3):
            with contextlib.suppress(errors.Error), self._cluster.asked("renewing a lock", self._pool):
                self._lock(_MUST_RENEW)

    def _release(self) -> None:
        """Remove the object, if the lock on it is this one; what cannot be released expires."""
        held = struct.pack("<I", len(_NAME)) + _NAME.encode() + struct.pack("<B", _EXCLUSIVE)
        held += struct.pack("<I", len(self._cookie)) + self._cookie.encode() + struct.pack("<I", 0)
        # as encoded by src/cls/lock/cls_lock_ops.h: version, oldest version that can read it, length
        told = struct.pack("<BBI", 1, 1, len(held)) + held
        with contextlib.suppress(errors.Error), self._cluster.asked("releasing a lock", self._pool):
            ioctx = self._cluster.pool(self._pool)
            op = ioctx.create_write_op()
            try:
                op.execute("lock", "assert_locked", told)
                op.remove()
                ioctx.operate_write_op(op, self._object)
            finally:
                ioctx.release_write_op(op)
