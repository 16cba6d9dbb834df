"""Fixtures with a real Ceph; ``ceph-lab.sh`` in this folder runs it.

The cluster that all tests share has each test's pools made for it.  A test that does harm
(freezes, kills, fills) starts a cluster of its own.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import pytest

from imgbackend.types import Gi
from labs import ceph_admin
from labs.ceph_admin import CephError
from labs.freezing import freeze, thaw
from labs.leaks import FAILED
from labs.require import require
from labs.sharing import owner, shared

_SCRIPT: Final = Path(__file__).with_name("ceph-lab.sh")
_TIMEOUT: Final = 90.0

Daemon = Literal["mon", "osd", "mgr", "mds"]
Store = Literal["memstore", "bluestore"]


class Cluster:
    """A Ceph on a folder of its own."""

    user: Final = "imgbackend"
    """May do in every pool what images need, and nothing else."""

    def __init__(
        self,
        folder: Path,
        *,
        store: Store = "memstore",
        size: int = 2 * Gi,
        manager: bool = False,
        pools: str = "",
        file_system: bool = False,
    ) -> None:
        """``size`` is in bytes; where the store is memstore, that is memory.  ``pools`` are there from the start.

        ``file_system``: with a CephFS, and the manager that it needs to report room.
        """
        self.folder = folder
        self._settings = {
            "CEPH_LAB_STORE": store,
            "CEPH_LAB_SIZE": str(size),
            "CEPH_LAB_MGR": "yes" if manager else "no",
            "CEPH_LAB_MDS": "yes" if file_system else "no",
            "CEPH_LAB_POOLS": pools or "images vms",
            "CEPH_LAB_OWNER": str(owner()),
            "CEPH_LAB_PYTHON": sys.executable,
        }

    @property
    def conf(self) -> Path:
        return self.folder / "ceph.conf"

    @property
    def keyring(self) -> Path:
        """Of :attr:`user`; the configuration names it too."""
        return self.folder / f"ceph.client.{self.user}.keyring"

    @property
    def fsid(self) -> str:
        """Of the cluster that runs."""
        lines = (line.partition(" = ") for line in self.conf.read_text().splitlines())
        return next(value for name, _, value in lines if name == "fsid")

    def start(self) -> None:
        """A new, empty cluster; the one that was there before must be stopped."""
        self._run("start")

    def stop(self) -> None:
        """Also of one that is frozen, or partly dead; twice is no error."""
        self._run("stop")

    def runs(self) -> bool:
        """Whether all its processes are there."""
        names = [file.stem for file in (self.folder / "run").glob("*.pid")]
        return bool(names) and all(self._processes(name) for name in names)

    def _run(self, command: str) -> None:
        try:
            done = subprocess.run(
                [_SCRIPT, command, self.folder],
                env={**os.environ, **self._settings},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise CephError(str(exc)) from exc
        if done.returncode:
            raise CephError(done.stderr.strip().replace("\n", "; ") or f"status {done.returncode}")

    def admin(self) -> contextlib.AbstractContextManager[ceph_admin.Admin]:
        """A connection as administrator."""
        return ceph_admin.connected(self.folder)

    @contextlib.contextmanager
    def pool(self, name: str) -> Iterator[str]:
        """A new pool, which goes with all that is in it."""
        with self.admin() as admin:
            admin.declare_pool(name)
            admin.ready_pool(name)
        try:
            yield name
        finally:
            with self.admin() as admin:
                admin.remove_pool(name)

    def freeze_mon(self) -> None:
        """The monitor answers no more; nothing is closed."""
        freeze(self._running("mon"))

    def freeze_osd(self) -> None:
        """The OSD answers no more; nothing is closed."""
        freeze(self._running("osd"))

    def thaw(self) -> None:
        """What was frozen goes on.  Clients of an OSD may still time out once."""
        for name in ("mon", "osd"):
            thaw(self._processes(name))

    def kill(self, daemon: Daemon) -> None:
        """SIGKILL; there is no coming back."""
        for pid in self._running(daemon):
            os.kill(pid, signal.SIGKILL)

    def _running(self, daemon: Daemon) -> list[int]:
        processes = self._processes(daemon)
        assert processes, f"there is no {daemon} that runs"
        return processes

    def _processes(self, daemon: str) -> list[int]:
        """The daemon is the child of the process that bounds its life."""
        try:
            leader = int((self.folder / "run" / f"{daemon}.pid").read_text())
            return [int(pid) for pid in Path(f"/proc/{leader}/task/{leader}/children").read_text().split()]
        except OSError:
            return []


def need_modules(lab: str = "rbd") -> None:
    """Require ``lab``, as :func:`labs.require.require` does, where this Python cannot ask a cluster."""
    if find_spec("rados") is None or find_spec("rbd") is None:
        told = f"rados and rbd are not there for {sys.executable}; run tests/labs/ceph-lab.sh link .venv"
        require(lab, told)


@pytest.fixture(scope="session")
def rbd_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for tests that do it no harm; its store is 2 GiB of memory at most."""
    need_modules()

    def start(folder: Path) -> None:
        lab = Cluster(folder)
        if not lab.runs():
            lab.start()

    with shared(tmp_path_factory, "rbd", start, lambda folder: Cluster(folder).stop(), CephError) as folder:
        yield Cluster(folder)


_NUMBERS: Final = itertools.count(1)
_CEPHS_OWN: Final = frozenset(
    {
        *("rbd_directory", "rbd_info", "rbd_children", "rbd_group_directory"),
        *("rbd_trash", "rbd_mirroring", "rbd_task", "rbd_support"),
    }
)
"""Objects that a pool has of its own accord, once it was used."""
_TRIMMED: Final = 30.0
_UNFINISHED: Final = "imgbackend.unfinished"


@pytest.fixture
def rbd_pool(rbd_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new pool; a test that passes leaves nothing in it: no image, no trash, no lock."""
    with new_pool(rbd_cluster) as name:
        yield name
        if not request.node.stash.get(FAILED, False):
            end = time.monotonic() + _TRIMMED
            while (left := left_in(rbd_cluster, name)) and time.monotonic() < end:
                time.sleep(0.1)  # OSDs take what snapshots held away in their own time
            assert not left, f"the test left in its pool: {', '.join(left)}"


def new_pool(cluster: Cluster) -> contextlib.AbstractContextManager[str]:
    """A pool of a name that nobody has; what is left in it is nobody's concern."""
    return cluster.pool(f"test-{os.getpid()}-{next(_NUMBERS)}")


def left_in(cluster: Cluster, pool: str) -> list[str]:
    """The objects of a pool that are not Ceph's own; of an image some tell its name.

    The driver's list of what is unfinished stays, and is to be empty.
    """
    with cluster.admin() as admin:
        found = admin.objects(pool) - _CEPHS_OWN
        if _UNFINISHED in found:
            with admin.pool(pool) as ioctx:
                op = ioctx.create_read_op()
                entries, _ = ioctx.get_omap_vals(op, "", "", 100)
                ioctx.operate_read_op(op, _UNFINISHED)
                ioctx.release_read_op(op)
            found = (found - {_UNFINISHED}) | {f"{_UNFINISHED}: {name}" for name, _ in entries}
        return sorted(found)


@pytest.fixture
def rbd_own_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Starts a cluster for this test alone, with the settings of :class:`Cluster`."""
    need_modules()
    with contextlib.ExitStack() as stack:

        def make(store: Store = "memstore", *, size: int = Gi, manager: bool = False, pools: str = "") -> Cluster:
            folder = tmp_path / "ceph"
            folder.mkdir()
            lab = Cluster(folder, store=store, size=size, manager=manager, pools=pools)
            try:
                lab.start()
            except CephError as exc:
                require("rbd", str(exc))
            stack.callback(lab.stop)
            return lab

        yield make
