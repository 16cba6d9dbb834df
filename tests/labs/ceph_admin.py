"""What ``ceph-lab.sh`` and the tests ask of a cluster as its administrator.

A program too: ``ceph_admin.py DIR register OSD_UUID POOLS | file-system | wait POOLS | status``.  It needs
nothing but ``rados`` and ``rbd``, so that Debian's own Python can run it.
"""

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PGS = 8
_METADATA_POOL, DATA_POOL = "shared_metadata", "shared_data"
"""Of the file system."""


class CephError(Exception):
    """The cluster did not do what was asked; the message says why."""


class Admin:
    """A connection as ``client.admin``; see :func:`connected`."""

    def __init__(self, rados: Any) -> None:
        self.rados = rados

    def ask(self, prefix: str, **arguments: Any) -> Any:
        """A command to the monitor; what it answers, read as JSON.

        :raises CephError: if it refuses.
        """
        command = json.dumps({**arguments, "prefix": prefix, "format": "json"})
        status, answer, said = self.rados.mon_command(command, b"")
        if status:
            raise CephError(f"{prefix}: {status} {said}")
        return json.loads(answer) if answer.strip() else None

    def declare_pool(self, name: str) -> None:
        """Make a pool for images; it can be used after :meth:`ready_pool`."""
        self.ask("osd pool create", pool=name, pg_num=_PGS)
        self.ask("osd pool application enable", pool=name, app="rbd", yes_i_really_mean_it=True)

    def ready_pool(self, name: str) -> None:
        """Return when all of the pool answers."""
        rbd = importlib.import_module("rbd")
        with self.pool(name) as pool:
            # The names spread over all placement groups, most likely.
            reads = [pool.aio_read(f"probe{number}", 1, 0, lambda *_: None) for number in range(8 * _PGS)]
            for read in reads:
                read.wait_for_complete()
            rbd.RBD().pool_init(pool, True)

    def declare_file_system(self) -> None:
        """Make a CephFS; it can be mounted after :meth:`await_file_system`."""
        for pool in (_METADATA_POOL, DATA_POOL):
            self.ask("osd pool create", pool=pool, pg_num=_PGS)
        self.ask("fs new", fs_name="shared", metadata=_METADATA_POOL, data=DATA_POOL)

    def await_file_system(self) -> None:
        """Return when a metadata server serves."""
        while not any(one["state"] == "up:active" for one in self._metadata_servers()):
            time.sleep(0.02)

    def _metadata_servers(self) -> Any:
        return [one for system in self.ask("fs dump")["filesystems"] for one in system["mdsmap"]["info"].values()]

    def remove_pool(self, name: str) -> None:
        """With all that is in it."""
        self.ask("osd pool delete", pool=name, pool2=name, yes_i_really_really_mean_it=True)

    @contextlib.contextmanager
    def pool(self, name: str) -> Iterator[Any]:
        """An ``IoCtx`` of a pool."""
        with contextlib.closing(self.rados.open_ioctx(name)) as pool:
            yield pool

    def objects(self, pool: str) -> set[str]:
        """The names of all objects of a pool."""
        with self.pool(pool) as opened:
            return {found.key for found in opened.list_objects()}

    def await_osd(self) -> None:
        """Return when the OSD serves; what is sent to it before waits for the client's next tick, 5 s."""
        while not (self.ask("osd stat") or {}).get("num_up_osds"):
            time.sleep(0.02)

    def await_statistics(self, pools: int) -> None:
        """Return when a manager has told the sizes of so many pools."""
        while True:
            told = self.ask("df")
            if told["stats"]["total_bytes"] and len(told["pools"]) >= pools:
                return
            time.sleep(0.1)


@contextlib.contextmanager
def connected(folder: Path, timeout: int = 20) -> Iterator[Admin]:
    """A connection to the cluster of a folder.

    :raises CephError: if it does not answer within ``timeout`` seconds.
    """
    rados = importlib.import_module("rados")
    limits = {"client_mount_timeout": str(timeout), "rados_mon_op_timeout": str(timeout)}
    limits["rados_osd_op_timeout"] = str(timeout)
    cluster = rados.Rados(conffile=str(folder / "ceph.conf"), name="client.admin", conf=limits)
    try:
        try:
            cluster.connect()
        except rados.Error as exc:
            raise CephError(f"no connection to the cluster in {folder}: {exc}") from exc
        yield Admin(cluster)
    finally:
        cluster.shutdown()  # descriptors stay open without it, even where no connection was made


def _register(admin: Admin, osd: str, pools: list[str]) -> None:
    # Where a manager is to come, it would make a pool of its own for the health of drives.
    admin.ask("config set", who="mgr", name="mgr/devicehealth/enable_monitoring", value="false", force=True)
    admin.ask("osd new", uuid=osd)  # the first one is osd.0
    for pool in pools:
        admin.declare_pool(pool)


def _wait(admin: Admin, pools: list[str], manager: bool, file_system: bool) -> None:
    admin.await_osd()
    for pool in pools:
        admin.ready_pool(pool)
    if file_system:
        admin.await_file_system()
        pools = [*pools, _METADATA_POOL, DATA_POOL]
    if manager:
        admin.await_statistics(len(pools))


def main(folder: Path, verb: str, arguments: list[str]) -> int:
    """The exit status."""
    try:
        with connected(folder) as admin:
            if verb == "register":
                _register(admin, arguments[0], arguments[1].split())
            elif verb == "file-system":
                admin.declare_file_system()
            elif verb == "wait":
                manager, file_system = ((folder / "run" / name).exists() for name in ("mgr.pid", "mds.pid"))
                _wait(admin, arguments[0].split(), manager, file_system)
            else:
                told = admin.ask("status")
                up, known = told["osdmap"]["num_up_osds"], told["osdmap"]["num_osds"]
                print(f"cluster {told['fsid']}: {told['health']['status']}, {up} of {known} OSDs up")
                return 0 if up == known else 3
    except CephError as error:
        print(f"ceph-lab: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
