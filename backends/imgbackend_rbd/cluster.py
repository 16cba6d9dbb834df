"""The connection to a Ceph cluster: one per process, with time-outs, and what its errors mean.

It is the only importer of rbd and rados, which come with Ceph's packages and not from the
package index.  A connection does not survive a fork: the child has its sockets and none of
its threads, and hangs at the first use.  So each process makes its own when it first needs
one, and the parent's is never touched, not even to be freed.
"""

import contextlib
import ctypes
import errno
import json
import os
import re
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgbackend import errors

if TYPE_CHECKING:
    from rados import Ioctx, Rados
    from rbd import RBD, Image

_QUIET: Final = {"err_to_stderr": "false", "log_to_stderr": "false", "mon_cluster_log_to_stderr": "false"}
"""librbd's own lines are no reading matter for the user of a command; the errors say what they say."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
_BUSY: Final = frozenset({errno.EBUSY, errno.ENOTEMPTY, errno.EROFS})
_AWAY: Final = frozenset({errno.EIO, errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH})
_ADDRESS: Final = re.compile(r"\[?([^\]]+?)\]?:(\d+)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess:
    """How a cluster is reached."""

    conf: str
    """The file ceph.conf; empty: where Ceph looks for it."""
    user: str | None
    """Without ``client.``; None: Ceph's own default, ``admin``."""
    connect_timeout: int
    """Seconds; 0 or less: what ceph.conf says."""
    operation_timeout: int
    """Seconds that one operation of a monitor or an OSD may take."""

    @property
    def who(self) -> str:
        """The user, as Ceph writes it."""
        return f"client.{self.user or 'admin'}"


@dataclass(slots=True)
class _Connection:
    rados: "Rados"
    pid: int
    pools: dict[str, "Ioctx"] = field(default_factory=dict)

    def close(self, faults: tuple[type[Exception], ...]) -> None:
        """Whatever is raised: nobody can do anything about a connection that is not wanted any more."""
        for let_go in (*(ioctx.close for ioctx in self.pools.values()), self.rados.shutdown):
            with contextlib.suppress(*faults):
                let_go()

    def abandon(self) -> None:
        """See that nothing of it is ever freed in this process."""
        for handle in (self.rados, *self.pools.values()):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))


class Cluster:
    """A cluster, as one backend reaches it."""

    def __init__(self, access: ClusterAccess) -> None:
        """Keep how; nothing is imported, and nobody is asked."""
        self.access = access
        self.fsid = ""
        """Known once it is open, as are the monitors."""
        self.monitors: tuple[tuple[str, int], ...] = ()
        self.absent: tuple[type[Exception], ...] = ()
        """What is raised where there is no such image, snapshot or object."""
        self.taken: tuple[type[Exception], ...] = ()
        """What is raised where a name is taken."""
        self.busy: tuple[type[Exception], ...] = ()
        """What is raised where somebody holds a lock, has an image open, or hangs on a snapshot."""
        self.invalid: tuple[type[Exception], ...] = ()
        """What is raised where the state of an image does not allow it."""
        self._faults: tuple[type[Exception], ...] = ()
        self._connection: _Connection | None = None
        self._broken: list[_Connection] = []
        self._guard = threading.Lock()
        _clusters.add(self)

    def open(self) -> None:
        """Connect, and learn who the cluster is.

        :raises ConfigError: if a module, a file, a key or a right is missing; it says what to do.
        :raises StorageUnavailable: if no monitor answers in time.
        """
        self._learn_errors()
        with self.asked("connecting to the cluster"):
            rados = self._connected().rados
            self.fsid = rados.get_fsid()
        found = self.monitor("mon dump")
        self.monitors = tuple(_addresses(found.get("mons", [])))

    def close(self) -> None:
        """Let go of the connection; twice is no error."""
        with self._guard:
            connection, self._connection = self._connection, None
            broken, self._broken = self._broken, []
        for each in [*broken, *([connection] if connection else [])]:
            if each.pid == os.getpid():
                each.close(self._faults)

    def abandon(self) -> None:
        """In a child, after a fork: forget the parent's connection, and whoever held the guard."""
        self._guard = threading.Lock()
        for each in [*self._broken, *([self._connection] if self._connection else [])]:
            each.abandon()
        self._connection, self._broken = None, []

    def has(self, pool: str) -> bool:
        """Whether there is a pool of this name.

        :raises StorageUnavailable: if the monitors do not answer in time.
        """
        rados = self._connected().rados
        if pool in rados.list_pools():
            return True
        # it may be new; this call, and opening a pool that is not in the map, have no time limit of their own
        asked = threading.Thread(target=rados.wait_for_latest_osdmap, name="imgbackend-rbd-map", daemon=True)
        asked.start()
        asked.join(self.access.operation_timeout)
        if asked.is_alive():
            raise self._meaning(errno.ETIMEDOUT, f"looking for the pool {pool}", None)
        return pool in rados.list_pools()

    def pool(self, name: str) -> "Ioctx":
        """A pool.

        :raises ConfigError: if there is none of this name.
        """
        connection = self._connected()
        if name not in connection.pools and not self.has(name):
            raise errors.ConfigError(
                f"there is no pool {name} in the Ceph cluster {self.fsid}; name another, or make it: "
                f"ceph osd pool create {name} && rbd pool init {name}"
            )
        with self._guard:
            if name not in connection.pools:
                ioctx = connection.rados.open_ioctx(name)
                ioctx.set_osdmap_full_try()  # where it is full the answer is an error, and not none
                connection.pools[name] = ioctx
            return connection.pools[name]

    def identity(self, pool: str) -> str:
        """What tells a pool from any other: the cluster's id, and the pool's number, which Ceph gives no other.

        Both are known to whoever is connected, over the connection that the next request goes through.
        """
        with self.asked(f"looking which pool {pool} is", pool):
            ioctx = self.pool(pool)
            return f"pool {ioctx.get_pool_id()} of the Ceph cluster {self._connected().rados.get_fsid()}"

    def expect_pool(self, name: str) -> None:
        """See, where something is absent from a pool, that it is the pool that was opened; nobody is asked.

        One that was removed answers that it has nothing, though another may have its name by now.

        :raises StorageUnavailable: if it is gone.
        """
        with self.asked(f"looking for the pool {name}", name):
            connection = self._connected()
            opened = self.pool(name).get_pool_id()
            if name in connection.rados.list_pools():
                with connection.rados.open_ioctx(name) as now:
                    if now.get_pool_id() == opened:
                        return
        raise errors.StorageUnavailable(
            f"the pool {name} was removed, renamed or made anew; bring it back, or restart this process if that was "
            "done on purpose"
        )

    def rbd(self) -> "RBD":
        """librbd's functions that take pools and names."""
        import rbd

        return rbd.RBD()

    def image(
        self, pool: str, name: str, *, image_id: str = "", snapshot: str | None = None, read_only: bool = False
    ) -> "Image":
        """An image, opened; a context manager.  Who opens it read-only is no watcher of it.

        ``image_id``: of the image that is wanted, whatever the name points to.
        """
        import rbd

        if image_id:
            return rbd.Image(self.pool(pool), image_id=image_id, snapshot=snapshot, read_only=read_only)
        return rbd.Image(self.pool(pool), name, snapshot=snapshot, read_only=read_only)

    def setting(self, option: str) -> str:
        """An option of ceph.conf or the cluster's own configuration, as it is in force."""
        return self._connected().rados.conf_get(option) or ""

    def set(self, option: str, value: str) -> None:
        """Change an option of librbd's or librados' for this connection, where it can be changed then."""
        self._connected().rados.conf_set(option, value)

    def monitor(self, command: str) -> dict[str, object]:
        """What the monitors say to a command that only asks.

        :raises StorageUnavailable: if they do not answer in time.
        """
        told = json.dumps({"prefix": command, "format": "json"})
        with self.asked(f"asking the monitors for {command!r}"):
            code, out, _err = self._connected().rados.mon_command(told, b"")
        if code:
            raise self._meaning(-code, f"asking the monitors for {command!r}", None)
        found: dict[str, object] = json.loads(out)
        return found

    def allows(self, command: Mapping[str, str]) -> bool:
        """Whether the monitors would do a command of which they can make nothing; it changes nothing.

        :raises StorageUnavailable: if they do not answer in time.
        """
        with self.asked("asking the monitors for rights"):
            code, _out, _err = self._connected().rados.mon_command(json.dumps(dict(command)), b"")
        if code == -errno.ETIMEDOUT:
            raise self._meaning(-code, "asking the monitors for rights", None)
        return -code not in _DENIED

    @contextlib.contextmanager
    def asked(self, what: str, pool: str | None = None, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """Let no error of librbd or librados out, except those of ``but``: only ours, that say what was being done."""
        try:
            yield
        except but:
            raise
        except self._faults as exc:
            code: int | None = getattr(exc, "errno", None)
            if code == errno.ESHUTDOWN:
                self._break()
            raise self._meaning(code, what, pool, str(exc)) from exc

    def _meaning(self, code: int | None, what: str, pool: str | None, told: str = "") -> errors.Error:
        reason = os.strerror(code) if code else told
        if code in _FULL:
            return errors.StorageFull(f"the pool {pool}" if pool else f"the Ceph cluster {self.fsid}", None, None)
        if code == errno.ETIMEDOUT:
            limit = self.access.operation_timeout if self.fsid else self.access.connect_timeout
            return errors.StorageUnavailable(f"{what}: the Ceph cluster did not answer within {limit} s")
        if code == errno.ESHUTDOWN:
            return errors.StorageUnavailable(f"{what}: the Ceph cluster shut this client out; try again")
        if code in _DENIED:
            caps = f"mon 'profile rbd' osd 'profile rbd pool={pool or 'POOL'}'"
            return errors.ConfigError(
                f"{what}: the Ceph cluster does not allow it to {self.access.who}; see its key and its rights: "
                f"ceph auth caps {self.access.who} {caps}"
            )
        if code in _BUSY:
            return errors.DiskBusy(f"{what}: {reason}; somebody has it open, or depends on it")
        if code in _AWAY:
            return errors.StorageUnavailable(f"{what}: {reason}")
        return errors.StorageError(f"{what}: {reason}".replace("\n", " "))

    def _break(self) -> None:
        """Use this connection no more; who still does may finish."""
        with self._guard:
            if self._connection is not None:
                self._broken.append(self._connection)
                self._connection = None

    def _connected(self) -> _Connection:
        with self._guard:
            if self._connection is None:
                if not self._faults:
                    raise errors.StorageError("a driver used a cluster that is not open")
                self._connection = self._connect()
            return self._connection

    def _connect(self) -> _Connection:
        """In a thread of its own.

        librados draws the number that tells its clients apart from a generator that each
        thread seeds once.  Children of one process would draw the same, and where one of
        them is killed and shut out, so would be its siblings.
        """
        made: list[_Connection] = []
        raised: list[BaseException] = []

        def connect() -> None:
            try:
                made.append(self._reached())
            except BaseException as exc:
                raised.append(exc)

        thread = threading.Thread(target=connect, name="imgbackend-rbd-connect", daemon=True)
        thread.start()
        thread.join()
        if raised:
            raise raised[0]
        return made[0]

    def _reached(self) -> _Connection:
        import rados

        limits = {"rados_mon_op_timeout": str(self.access.operation_timeout)}
        limits["rados_osd_op_timeout"] = str(self.access.operation_timeout)
        if self.access.connect_timeout > 0:
            limits["client_mount_timeout"] = str(self.access.connect_timeout)
        conf = self.access.conf
        if conf and not os.access(conf, os.R_OK):
            raise errors.ConfigError(f"ceph_conf: cannot read {conf}; name the cluster's ceph.conf, or let us read it")
        try:
            made = rados.Rados(rados_id=self.access.user, conffile=conf, conf={**_QUIET, **limits})
        except rados.ObjectNotFound as exc:
            raise errors.ConfigError("there is no /etc/ceph/ceph.conf; name the cluster's with ceph_conf") from exc
        except rados.Error as exc:
            raise errors.ConfigError(
                f"{conf or 'ceph.conf'} is none, or has no line end at its last line: {exc}"
            ) from exc
        with contextlib.ExitStack() as failed:
            failed.callback(made.shutdown)  # it has threads and pipes, connected or not
            self._log_in(made)
            failed.pop_all()
        return _Connection(made, os.getpid())

    def _log_in(self, made: "Rados") -> None:
        import rados

        try:
            made.connect()
        except rados.ObjectNotFound as exc:
            rings = made.conf_get("keyring") or "no file"
            raise errors.ConfigError(
                f"there is no key of {self.access.who} in {rings}; put one there: ceph auth get {self.access.who}"
            ) from exc
        except rados.PermissionDeniedError as exc:
            raise errors.ConfigError(
                f"the Ceph cluster does not accept the key of {self.access.who}, or knows no such user; "
                f"compare with: ceph auth get {self.access.who}"
            ) from exc

    def _learn_errors(self) -> None:
        try:
            import rados
            import rbd
        except ImportError as exc:
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise errors.ConfigError(
                f"this Python ({version}) cannot import rbd and rados ({exc}); install Debian's python3-rbd, which "
                "fits Debian's python3 (3.11 in Debian 12, 3.13 in 13), and let this environment see both modules"
            ) from exc
        self.absent = (rados.ObjectNotFound, rbd.ImageNotFound)
        self.taken = (rados.ObjectExists, rbd.ImageExists)
        self.busy = (rados.ObjectBusy, rbd.ImageBusy, rbd.ImageHasSnapshots)
        self.invalid = (rbd.InvalidArgument,)
        self._faults = (rados.Error, rbd.Error, OSError)


_clusters: "weakref.WeakSet[Cluster]" = weakref.WeakSet()


def _after_fork() -> None:
    for cluster in list(_clusters):
        cluster.abandon()


os.register_at_fork(after_in_child=_after_fork)


def _addresses(monitors: object) -> Iterator[tuple[str, int]]:
    """``(host, port)`` of each monitor in a monitor map; of the newer protocol where it speaks that."""
    for each in monitors if isinstance(monitors, list) else []:
        spoken = {address["type"]: address["addr"] for address in each["public_addrs"]["addrvec"]}
        match = _ADDRESS.match(spoken.get("v2") or spoken.get("v1") or "")
        if match is not None:
            yield match[1], int(match[2])
