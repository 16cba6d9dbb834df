"""Locks over all hosts: RADOS' advisory locks, renewed while they are held.

They expire by themselves, so that whoever is killed holds nobody up for long; when, the OSD
says by its own clock, and no host compares its clock with another's.  A holder that could not
renew its lock in time, for its host or the network stood still, has lost it, and is told so
before it publishes what the lock was for.
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
    from rados import WriteOp

    from imgbackend_rbd.cluster import Cluster

_NAME: Final = "imgbackend"
_EXCLUSIVE: Final = 1
"""LOCK_EXCLUSIVE of src/cls/lock."""
_SHARED: Final = 2
"""LOCK_SHARED."""
_MAY_RENEW: Final = 1
"""LIBRADOS_LOCK_FLAG_MAY_RENEW: an attempt that timed out may have had success."""
_MUST_RENEW: Final = 2
"""LIBRADOS_LOCK_FLAG_MUST_RENEW."""
_LEASE_SECONDS: Final = 30
"""How long a lease outlives a holder that was killed."""
_MOST: Final = 1 << 18
"""Bytes that the list of those who hold a lock may have: thousands of them."""
_PREAMBLE: Final = 6
"""Bytes before what Ceph encodes: two versions, and a length."""
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
        held = _text(_NAME) + struct.pack("<B", _EXCLUSIVE) + _text(self._cookie) + _text("")
        with contextlib.suppress(errors.Error), self._cluster.asked("releasing a lock", self._pool):
            ioctx = self._cluster.pool(self._pool)
            op = ioctx.create_write_op()
            try:
                op.execute("lock", "assert_locked", _request(held))
                op.remove()
                ioctx.operate_write_op(op, self._object)
            finally:
                ioctx.release_write_op(op)


class Lease:
    """Says that its holder is alive: one of many shared locks on an object that is there.

    It is taken and given back in the same request that changes the object, and costs none.
    """

    def __init__(self, cluster: "Cluster", pool: str, object_name: str) -> None:
        """Nothing is taken yet."""
        self._cluster, self._pool, self._object = cluster, pool, object_name
        self.cookie = uuid.uuid4().hex
        """What tells it from all others."""

    def take(self, op: "WriteOp") -> None:
        """Take it, or make it last longer, with this request."""
        what = _text(_NAME) + struct.pack("<B", _SHARED) + _text(self.cookie) + _text("") + _text("")
        op.execute("lock", "lock", _request(what + struct.pack("<IIB", _LEASE_SECONDS, 0, _MAY_RENEW)))

    def give_back(self, op: "WriteOp") -> None:
        """With this request; it fails as absent where the lease has run out."""
        op.execute("lock", "unlock", _request(_text(_NAME) + _text(self.cookie)))

    @contextlib.contextmanager
    def renewed(self) -> Iterator[None]:
        """It does not run out meanwhile, unless this host or the network stands still."""
        end = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(end,), name=f"renew {self.cookie}", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            end.set()
            renewing.join()

    def _renew(self, end: threading.Event) -> None:
        while not end.wait(_LEASE_SECONDS / 3):
            with contextlib.suppress(errors.Error), self._cluster.asked("renewing a lease", self._pool):
                ioctx = self._cluster.pool(self._pool)
                op = ioctx.create_write_op()
                try:
                    self.take(op)
                    ioctx.operate_write_op(op, self._object)
                finally:
                    ioctx.release_write_op(op)


class Holders:
    """Who holds the locks on an object, as its OSD says: those that have run out are not among them."""

    def __init__(self, cluster: "Cluster", pool: str, object_name: str) -> None:
        """One request; the caller translates its errors."""
        try:
            asked = _request(_text(_NAME))
            _, self._answer = cluster.pool(pool).execute(object_name, "lock", "get_info", asked, _MOST)
        except cluster.absent:
            self._answer = b""

    def __bool__(self) -> bool:
        return any(self._answer[_PREAMBLE : _PREAMBLE + 4])

    def __contains__(self, cookie: str) -> bool:
        return bool(cookie) and _text(cookie) in self._answer


def _request(what: bytes) -> bytes:
    """As src/cls/lock/cls_lock_ops.h encodes requests: version, oldest version that can read it, length."""
    return struct.pack("<BBI", 1, 1, len(what)) + what


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()
