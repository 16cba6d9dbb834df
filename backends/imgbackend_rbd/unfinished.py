"""The list of what is unfinished in a pool: images that are being made or removed, by their names.

librbd clones and removes in many steps, and a killed process leaves an image that can be
opened and is not whole.  So the name of a disk is on this list before the first step, and
off it after the last: an image whose name is not on it is whole.  The list is one object of
the pool, which all hosts see; each entry says which host is at it.
"""

import errno
import json
import socket
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from imgbackend import errors

if TYPE_CHECKING:
    from pathlib import Path

    from rados import Ioctx, WriteOp

    from imgbackend_rbd.cluster import Cluster

OBJECT: Final = "imgbackend.unfinished"
_ABANDONED: Final = 3600.0
"""Seconds after which nobody is at it any more, whatever host it was."""
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


class Unfinished:
    """The list of one pool, as one host changes it."""

    def __init__(self, cluster: "Cluster", pool: str, instances: "Path") -> None:
        """Keep them."""
        self._cluster, self._pool = cluster, pool
        self.here = {"host": socket.gethostname(), "instances": str(instances)}
        """This host, as entries name it."""

    def has(self, name: str) -> bool:
        """Whether that image is unfinished."""
        return self._get(name) is not None

    def all(self) -> dict[str, Entry]:
        """The whole list, of all hosts."""
        found: dict[str, Entry] = {}
        while told := self._page(max(found, default="")):
            found |= {name: Entry(**json.loads(entry)) for name, entry in told.items()}
        return found

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

    def add(self, name: str) -> str:
        """Put an image on the list, before its first step; the entry is for :meth:`drop`.

        :raises DiskBusy: if somebody is at it.
        """
        told = json.dumps(asdict(Entry(**self.here, time=time.time())))
        for _ in range(2):
            try:
                self._change(name, "", told)
            except self._cluster.absent:
                self._make()
            except Exception as exc:
                if getattr(exc, "errno", None) != errno.ECANCELED:
                    raise
                raise errors.DiskBusy(f"{self._pool}/{name} is being made or removed; try again later") from exc
            else:
                return told
        raise errors.StorageUnavailable(f"the list {self._pool}/{OBJECT} was removed just now; try again")

    def settle(self, name: str) -> str | None:
        """The entry of an image that a killed call left on the list, for :meth:`drop`; None: it is not on it.

        The caller holds the disk's lock, so nobody else of this host is at it.

        :raises DiskBusy: if another host may be.
        """
        found = self._get(name)
        if found is None:
            return None
        entry = Entry(**json.loads(found))
        mine = {"host": entry.host, "instances": entry.instances} == self.here
        if not mine and time.time() - entry.time < _ABANDONED:
            raise errors.DiskBusy(
                f"{self._pool}/{name} is being made or removed on the host {entry.host} ({entry.instances}); "
                f"if that was broken off, remove the disk there, or try again in {_ABANDONED / 60:.0f} min"
            )
        return found

    def drop(self, name: str, entry: str) -> None:
        """Take an image off the list, after its last step, if the entry is that one."""
        try:
            self._change(name, entry, None)
        except Exception as exc:
            if getattr(exc, "errno", None) != errno.ECANCELED:
                raise  # somebody else is at it now, and the list says so

    def _get(self, name: str) -> str | None:
        ioctx = self._ioctx
        op = ioctx.create_read_op()
        try:
            pairs, _ = ioctx.get_omap_vals_by_keys(op, (name,))
            ioctx.operate_read_op(op, OBJECT)
            found = dict(pairs).get(name)
            return found.decode() if found is not None else None
        except self._cluster.absent:
            return None
        finally:
            ioctx.release_read_op(op)

    def _change(self, name: str, before: str, after: str | None) -> None:
        """Replace an entry, in one step, if it is ``before``: empty where there is none."""
        ioctx = self._ioctx
        op = ioctx.create_write_op()
        try:
            op.omap_cmp(name, before, _EQUAL)
            if after is None:
                ioctx.remove_omap_keys(op, (name,))
            else:
                ioctx.set_omap(op, (name,), (after.encode(),))
            ioctx.operate_write_op(op, OBJECT)
        finally:
            ioctx.release_write_op(op)

    def _make(self) -> None:
        ioctx = self._ioctx
        op: WriteOp = ioctx.create_write_op()
        try:
            op.new(0)
            ioctx.operate_write_op(op, OBJECT)
        finally:
            ioctx.release_write_op(op)

    @property
    def _ioctx(self) -> "Ioctx":
        return self._cluster.pool(self._pool)
