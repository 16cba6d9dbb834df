"""A folder that two hosts share by CephFS: a cluster, and clients that are ceph-fuse; each test has an empty folder.

The cluster is shared by all workers of a session.  Each worker mounts it for itself, twice, in a mount namespace of
its own: however the worker ends, its clients and their mounts end with it.
"""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from imgbackend.types import Gi
from labs import ceph_admin, mounts
from labs.ceph import Cluster, need_modules
from labs.ceph_admin import CephError
from labs.require import require
from labs.shares import Share
from labs.sharing import shared

_LAB: Final = "cephfs"
_NUMBERS: Final = itertools.count(1)
_SECONDS: Final = 60.0
"""In which a client has mounted the file system, or has ended."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """A mount of the file system, with caches and locks of its own: a host as others see it."""

    place: Path
    process: "subprocess.Popen[bytes]"

    def expect_alive(self) -> None:
        """See that it did not end by itself, and tell why it did."""
        if self.process.poll() is not None:
            said = [line for line in _log(self.place).read_text(errors="replace").splitlines() if "FAILED" in line]
            pytest.fail(f"ceph-fuse ended: {' '.join(said[:1]) or self.process.returncode}", pytrace=False)

    def kill(self) -> None:
        """SIGKILL: the mount stays, and nothing answers there any more."""
        self.process.kill()
        self.process.wait(_SECONDS)


@contextlib.contextmanager
def mounted(cluster: Cluster, place: Path) -> Iterator[Client]:
    """One more client, and its mount at ``place``, a new folder.

    :raises CephError: if this machine lets us mount nothing.
    """
    for tool in ("ceph-fuse", "setpriv"):
        if shutil.which(tool) is None:
            raise CephError(f"{tool} is not installed")
    try:
        mounts.own_namespace()
    except mounts.MountError as exc:
        raise CephError(str(exc)) from exc
    place.mkdir()
    log = _log(place)
    # setpriv: a worker that is killed takes its clients with it
    command = ["setpriv", "--pdeathsig", "KILL", "ceph-fuse", "-f", "--id", "admin", "-c", str(cluster.conf)]
    with log.open("wb") as said:
        process = subprocess.Popen([*command, str(place)], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    with process:
        try:
            _await_mount(place, process, log)
            client = Client(place=place, process=process)
            yield client
            if process.poll() is None:
                _unmount(client)
        finally:
            process.kill()
            process.wait(_SECONDS)
            subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)  # nothing, most likely


def _log(place: Path) -> Path:
    return place.with_name(f"{place.name}.log")


def _await_mount(place: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while not place.is_mount():
        if process.poll() is not None or time.monotonic() > end:
            said = " ".join(log.read_text(errors="replace").split())
            raise CephError(f"ceph-fuse does not mount the file system: {said[-500:]}")
        time.sleep(0.01)


def _unmount(client: Client) -> None:
    """As it should be: the client says good-bye, and the next one need not wait for what it held."""
    subprocess.run(["umount", str(client.place)], check=True, timeout=_SECONDS)
    client.process.wait(_SECONDS)


def evict(cluster: Cluster, place: Path) -> None:
    """Take from a client that was killed what it held; the metadata server would do so by itself after a minute."""
    for session in json.loads(_ceph(cluster, "tell", "mds.a", "session", "ls")):
        if session["client_metadata"].get("mount_point") == str(place):
            _ceph(cluster, "tell", "mds.a", "session", "evict", f"id={session['id']}")


def _ceph(cluster: Cluster, *words: str) -> str:
    command = ["ceph", "-c", str(cluster.conf), "--connect-timeout", "30", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS).stdout


def data_objects(cluster: Cluster, path: Path) -> set[str]:
    """The objects that hold a file's data, each 4 MiB of it: what it really takes, whatever stat(2) says."""
    prefix = f"{path.stat().st_ino:x}."
    with cluster.admin() as admin:
        return {name for name in admin.objects(ceph_admin.DATA_POOL) if name.startswith(prefix)}


@pytest.fixture(scope="session")
def cephfs_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with a file system, for tests that do it no harm."""
    need_modules(_LAB)

    def start(folder: Path) -> None:
        cluster = Cluster(folder, size=Gi, pools="images", file_system=True)
        if not cluster.runs():
            cluster.start()

    with shared(tmp_path_factory, _LAB, start, lambda folder: Cluster(folder).stop(), CephError) as folder:
        yield Cluster(folder)


@pytest.fixture(scope="session")
def cephfs_clients(cephfs_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Client]]:
    """The whole file system, by four clients of this worker's.

    More than two, for one that serves several processes which list a folder while it changes may end: ceph-fuse 16.2.15
    does so, with an assertion that fails in ``Client::insert_readdir_results``.
    """
    folder = tmp_path_factory.mktemp("cephfs")
    with contextlib.ExitStack() as stack:
        try:
            clients = [stack.enter_context(mounted(cephfs_cluster, folder / name)) for name in "abcd"]
        except CephError as exc:
            require(_LAB, str(exc))
        yield clients


@pytest.fixture
def cephfs_share(cephfs_clients: list[Client]) -> Iterator[Share]:
    """An empty folder, by all clients; it goes at the end.

    Clients of CephFS keep nothing that another changed: any of them shows what is really there.
    """
    name = f"test-{os.getpid()}-{next(_NUMBERS)}"
    a, b, *more = (client.place / name for client in cephfs_clients)
    a.mkdir()
    yield Share(a=a, b=b, server=b, more=tuple(more))
    for client in cephfs_clients:
        client.expect_alive()
    shutil.rmtree(a)


MakeClient = Callable[[], tuple[Client, Path]]


@pytest.fixture
def cephfs_own_client(cephfs_cluster: Cluster, cephfs_share: Share, tmp_path: Path) -> Iterator[MakeClient]:
    """Clients for this test alone, to be killed: each with the folder of the share as it sees it."""
    with contextlib.ExitStack() as stack:

        def make() -> tuple[Client, Path]:
            place = tmp_path / f"client{next(_NUMBERS)}"
            stack.callback(evict, cephfs_cluster, place)  # after the client has ended
            client = stack.enter_context(mounted(cephfs_cluster, place))
            return client, place / cephfs_share.a.name

        yield make
