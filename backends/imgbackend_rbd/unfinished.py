"""The list of what is unfinished in a pool: images that are being made or removed, by their names.

librbd clones and removes in many steps, and a killed process leaves an image that can be
opened and is not whole.  So the name of a disk is on this list before the first step, and
off it after the last: an image whose name is not on it is whole.  The list is one object of
the pool, which all hosts see; each entry says which host is at it.  While somebody is, the
entry's lease is held, a lock on the same object; an entry whose lease has run out, by the
clock of the OSD, is abandoned.  How old an entry is says nothing: hosts' clocks differ.

The entries are keys of that object.  Its content, ``{"format": 2}``, is the format of all that imgbackend keeps in the
pool.  The request that puts a name on the list compares it, so that it costs no other.
"""

import contextlib
import errno
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from imgbackend import errors
from imgbackend_rbd import headers
from imgbackend_rbd.lock import Holders, Lease

if TYPE_CHECKING:
    from rados import Ioctx, WriteOp

    from imgbackend.system.host import Host
    from imgbackend_rbd.cluster import Cluster

OBJECT: Final = "imgbackend.unfinished"
FORMAT: Final = 2
"""Of what this version keeps in a pool: disks are marked with owners.  Where none is noted it is 1."""
_CONTENT: Final = json.dumps({"format": FORMAT}).encode()
_EMPTY: Final = b"\0"
"""As what an object without content compares."""
_LARGEST: Final = 4096
_PAGE: Final = 1000
_EQUAL: Final = 1
"""LIBRADOS_CMPXATTR_OP_EQ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Who is at it."""

    host: str
    instances: str
    """The ``instances_path``: with the host, those whose locks exclude each other."""
    time: float
    """By the clock of that host; for people."""
    lease: str
    """The cookie of the lock that is held by who is at it."""
    image: str = ""
    """The id of the image that is being removed; empty: one is being made."""
    copy: str = ""
    """``pool/image``: what is being made of the disk, in another pool; the disk is whole."""


class Work:
    """An image that is being made or removed by this process."""

    def __init__(self, unfinished: "Unfinished", name: str, lease: Lease, entry: Entry) -> None:
        """Keep what is to be on the list."""
        self._unfinished, self._name, self._lease = unfinished, name, lease
        self._listed = False
        self.entry = entry

    def begin(self, before: str) -> None:
        """Put it on the list in place of the entry ``before``; empty: there is none.

        :raises DiskBusy: if there is another entry.
        """
        if not self._unfinished.change(self._name, before, _written(self.entry), self._lease):
            raise errors.DiskBusy(f"{self._unfinished.pool}/{self._name} is being made or removed; try again later")
        self._listed = True

    def drop(self) -> None:
        """Take the image off the list, after its last step; twice is no error.

        :raises StorageUnavailable: if somebody else took it over meanwhile.
        """
        was, self._listed = self._listed, False
        if was and not self._unfinished.change(self._name, _written(self.entry), None, self._lease):
            raise errors.StorageUnavailable(
                f"{self._unfinished.pool}/{self._name} was taken over by another host, for this one stood still for "
                "long; try again"
            )

    def give_up(self) -> None:
        """What was not dropped stays on the list, and whoever comes may clear it at once."""
        if self._listed:
            self._unfinished.give_back(self._lease)


class Unfinished:
    """The list of one pool, as one host changes it."""

    def __init__(self, cluster: "Cluster", pool: str, host: "Host") -> None:
        """Keep them."""
        self._cluster, self.pool = cluster, pool
        self.here = {"host": host.settings.hostname, "instances": str(host.instances)}
        """This host, as entries name it."""

    def has(self, name: str) -> bool:
        """Whether that image is unfinished."""
        return bool(self.left(name))

    def all(self) -> dict[str, Entry]:
        """The whole list, of all hosts."""
        found: dict[str, Entry] = {}
        while page := self._page(max(found, default="")):
            found |= {name: _parsed(entry.decode()) for name, entry in page.items()}
        return found

    def holders(self) -> Holders:
        """The leases that are held: of entries that somebody is at."""
        return Holders(self._cluster, self.pool, OBJECT)

    def _page(self, after: str) -> dict[str, bytes]:
        ioctx = self._ioctx
        op = ioctx.create_read_op()
        try:
            pairs, _ = ioctx.get_omap_vals(op, after, "", _PAGE)
            ioctx.operate_read_op(op, OBJECT)
            return dict(pairs)
        except self._cluster.absent:
            return {}
        finally:
            ioctx.release_read_op(op)

    @contextlib.contextmanager
    def working(self, name: str, *, image_id: str = "", copy: str = "", before: str = "") -> Iterator[Work]:
        """Put an image on the list, before its first step, and hold the entry's lease.

        ``image_id`` and ``copy`` are as in :class:`Entry`.  Where the work ends without
        :meth:`Work.drop` the entry stays, and the image can be cleared.

        :raises DiskBusy: if somebody is at it.
        """
        lease = Lease(self._cluster, self.pool, OBJECT)
        entry = Entry(**self.here, time=time.time(), lease=lease.cookie, image=image_id, copy=copy)
        work = Work(self, name, lease, entry)
        work.begin(before)
        with lease.renewed():
            try:
                yield work
            finally:
                work.give_up()

    @contextlib.contextmanager
    def taking_over(self, name: str, before: str, *, locked: bool) -> Iterator[Work]:
        """Go on with what a killed call left on the list, see :meth:`left`.

        ``locked``: the caller holds a lock of this host and this ``instances_path`` that
        everybody takes who works on this name, so that an entry of theirs is abandoned.

        :raises DiskBusy: if somebody is at it.
        """
        entry = _parsed(before)
        ours = locked and {"host": entry.host, "instances": entry.instances} == self.here
        if not ours and entry.lease in self.holders():
            raise errors.DiskBusy(
                f"{self.pool}/{name} is being made or removed on the host {entry.host} ({entry.instances}); "
                "if that was broken off, try again in half a minute"
            )
        with self.working(name, image_id=entry.image, copy=entry.copy, before=before) as work:
            yield work

    def left(self, *names: str) -> dict[str, str]:
        """What there is of these names on the list, for :meth:`taking_over`."""
        ioctx = self._ioctx
        op = ioctx.create_read_op()
        try:
            pairs, _ = ioctx.get_omap_vals_by_keys(op, names)
            ioctx.operate_read_op(op, OBJECT)
            return {name: entry.decode() for name, entry in pairs}
        except self._cluster.absent:
            return {}
        finally:
            ioctx.release_read_op(op)

    def change(self, name: str, before: str, after: str | None, lease: Lease) -> bool:
        """Replace an entry in one step, if it is ``before``; the lease is taken, or given back, with it."""
        try:
            try:
                self._changed(name, before, after, lease)
            except self._cluster.absent:
                if after is not None:
                    self._note_format()
                self._changed(name, before, after, lease if after is not None else None)  # it has run out
        except Exception as exc:
            if getattr(exc, "errno", None) != errno.ECANCELED:
                raise
            return False
        return True

    def _changed(self, name: str, before: str, after: str | None, lease: Lease | None) -> None:
        """Who takes a name off the list finishes what was begun, in whichever format the pool is by then."""
        try:
            self._change_once(name, before, after, lease)
        except Exception as exc:
            if (getattr(exc, "errno", None) or 0) < headers.MISMATCH:
                raise
            self._note_format()
            self._change_once(name, before, after, lease)

    def _change_once(self, name: str, before: str, after: str | None, lease: Lease | None) -> None:
        ioctx = self._ioctx
        op = ioctx.create_write_op()
        try:
            if after is not None:
                op.cmpext(_CONTENT, 0)
            op.omap_cmp(name, before, _EQUAL)
            if after is None:
                ioctx.remove_omap_keys(op, (name,))
            else:
                ioctx.set_omap(op, (name,), (after.encode(),))
            if lease is not None:
                (lease.give_back if after is None else lease.take)(op)
            ioctx.operate_write_op(op, OBJECT)
        finally:
            ioctx.release_write_op(op)

    def give_back(self, lease: Lease) -> None:
        """Give a lease back alone; one that cannot be runs out."""
        with contextlib.suppress(errors.Error), self._cluster.asked("giving a lease back", self.pool):
            ioctx = self._ioctx
            op = ioctx.create_write_op()
            try:
                lease.give_back(op)
                ioctx.operate_write_op(op, OBJECT)
            finally:
                ioctx.release_write_op(op)

    def expect_known_format(self) -> None:
        """Refuse a pool that a newer version uses, by one small request.

        :raises ConfigError: with what to do.
        """
        try:
            content = self._ioctx.read(OBJECT, _LARGEST)
        except self._cluster.absent:
            return
        try:
            noted = json.loads(content)["format"] if content else FORMAT
        except (ValueError, KeyError, TypeError) as exc:
            raise errors.ConfigError(
                f"{self.pool}/{OBJECT} is broken ({exc}): it begins with {content[:40]!r} and not with a format that "
                "imgbackend writes; find out what wrote there"
            ) from exc
        if noted != FORMAT:
            raise errors.ConfigError(
                f"the pool {self.pool} has format {noted}, which this imgbackend does not know; use a newer one"
            )

    def _note_format(self) -> None:
        """Note the format, once by all hosts; the object is made where there is none.

        :raises ConfigError: if a newer version has noted another one.
        """
        ioctx = self._ioctx
        op: WriteOp = ioctx.create_write_op()
        try:
            op.new(0)
            op.cmpext(_EMPTY, 0)
            op.write_full(_CONTENT)
            ioctx.operate_write_op(op, OBJECT)
        except Exception as exc:
            if (getattr(exc, "errno", None) or 0) < headers.MISMATCH:
                raise
            self.expect_known_format()
        finally:
            ioctx.release_write_op(op)

    @property
    def _ioctx(self) -> "Ioctx":
        return self._cluster.pool(self.pool)


def _written(entry: Entry) -> str:
    return json.dumps(asdict(entry))


def _parsed(entry: str) -> Entry:
    fields = json.loads(entry)
    return Entry(**{"lease": "", **fields})
