"""A backend as its disks see it: one pool, and the connection to its cluster."""

import contextlib
import time
from typing import TYPE_CHECKING, Final

from oslo_config import cfg

from imgbackend import errors
from imgbackend.driver.abilities import ChecksBases
from imgbackend.driver.contract import Backend
from imgbackend.system.host import Host
from imgbackend_rbd.cluster import Cluster, ClusterAccess
from imgbackend_rbd.images import Patience
from imgbackend_rbd.lock import StoreLock
from imgbackend_rbd.unfinished import Unfinished

if TYPE_CHECKING:
    from rados import Ioctx

_ROLLBACK_SECONDS: Final = 6
"""How long a rollback that was killed holds up whoever looks at the disk."""


class PoolBackend(Backend, ChecksBases):
    """A backend whose disks are images of one pool, which keeps their bases too."""

    def __init__(self, name: str, conf: cfg.ConfigOpts.GroupAttr, host: Host) -> None:
        """Keep them; a cluster that is not open asks nobody."""
        super().__init__(name, conf, host)
        self.cluster = Cluster(ClusterAccess(conf="", user=None, connect_timeout=0, operation_timeout=1))
        self.pool = ""

    def open(self) -> None:
        """Connect, find the pool, and see that we may read it, and know what is there."""
        conf = self.conf
        self.pool = conf.pool
        self.patience = Patience(retries=conf.destroy_volume_retries, interval=conf.destroy_volume_retry_interval)
        access = ClusterAccess(
            conf=conf.ceph_conf,
            user=conf.user or None,
            connect_timeout=conf.connect_timeout,
            operation_timeout=conf.operation_timeout,
        )
        self.cluster = Cluster(access)
        self.unfinished = Unfinished(self.cluster, self.pool, self.host)
        try:
            self.cluster.open()
            with self.cluster.asked(f"reading the pool {self.pool}", self.pool):
                self.unfinished.expect_known_format()
        except BaseException:
            self.cluster.close()
            raise

    def close(self) -> None:
        """Disconnect."""
        self.cluster.close()

    @property
    def ioctx(self) -> "Ioctx":
        """The pool, over this process's connection."""
        return self.cluster.pool(self.pool)

    def rolling(self, image: str) -> contextlib.AbstractContextManager[StoreLock]:
        """The lock of one disk's rollback.

        :raises StorageUnavailable: if it is held for long: somebody is at it.
        """
        end = time.monotonic() + 2 * _ROLLBACK_SECONDS

        def wait(_phase: str, _done: int, _total: int | None) -> None:
            if time.monotonic() > end:
                raise errors.StorageUnavailable(f"{self.pool}/{image} is being rolled back just now; try again later")

        return StoreLock(self.cluster, self.pool, f"rollback.{image}", _ROLLBACK_SECONDS).held(wait)
