"""The Ceph lab itself: its pools, what it notices, and the harm that can be done to it."""

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbackend.types import Mi
from labs import ceph
from labs.ceph import Cluster

_TESTS = Path(__file__).parent
_SCRIPT = _TESTS / "labs" / "ceph-lab.sh"
_LIMITS = {"client_mount_timeout": "2", "rados_mon_op_timeout": "2", "rados_osd_op_timeout": "2"}


def _rbd(cluster: Cluster, *words: str) -> str:
    command = ["rbd", "-c", str(cluster.conf), "--id", cluster.user, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _connection(cluster: Cluster) -> Any:
    return importlib.import_module("rados").Rados(conffile=str(cluster.conf), rados_id=cluster.user, conf=_LIMITS)


@pytest.mark.parametrize("version", [f"{sys.version_info.major}.{sys.version_info.minor}", "3.99"])
def test_modules_are_linked_into_what_they_fit_and_nothing_else(tmp_path: Path, version: str) -> None:
    packages = tmp_path / "lib" / f"python{version}" / "site-packages"
    packages.mkdir(parents=True)
    told = [subprocess.run([_SCRIPT, "link", tmp_path], capture_output=True, text=True, timeout=60) for _ in range(2)]
    fits = bool(list(Path("/usr/lib/python3/dist-packages").glob(f"rbd.cpython-{version.replace('.', '')}-*.so")))
    assert [done.returncode for done in told] == [0 if fits else 1] * 2
    assert sorted(path.name.partition(".")[0] for path in packages.iterdir()) == (["rados", "rbd"] if fits else [])
    assert fits or f"no rbd for Python {version}" in told[0].stderr


def test_user_of_the_lab_makes_images_in_a_pool_of_the_test(rbd_cluster: Cluster, rbd_pool: str) -> None:
    _rbd(rbd_cluster, "create", "--size", "64M", f"{rbd_pool}/one")
    assert _rbd(rbd_cluster, "ls", rbd_pool) == "one\n"
    assert "rbd_id.one" in ceph.left_in(rbd_cluster, rbd_pool)
    _rbd(rbd_cluster, "rm", "--no-progress", f"{rbd_pool}/one")
    assert ceph.left_in(rbd_cluster, rbd_pool) == []


def test_trash_and_lock_objects_count_as_left(rbd_cluster: Cluster, rbd_pool: str) -> None:
    _rbd(rbd_cluster, "create", "--size", "64M", f"{rbd_pool}/one")
    _rbd(rbd_cluster, "trash", "mv", f"{rbd_pool}/one")
    with rbd_cluster.admin() as admin, admin.pool(rbd_pool) as pool:
        pool.lock_exclusive("lock-object", "import", "cookie")
    left = ceph.left_in(rbd_cluster, rbd_pool)
    assert "lock-object" in left
    assert any(name.startswith("rbd_header.") for name in left)
    _rbd(rbd_cluster, "trash", "purge", "--no-progress", rbd_pool)
    with rbd_cluster.admin() as admin, admin.pool(rbd_pool) as pool:
        pool.remove_object("lock-object")
    assert ceph.left_in(rbd_cluster, rbd_pool) == []


def test_pool_goes_with_what_is_in_it(rbd_cluster: Cluster) -> None:
    with ceph.new_pool(rbd_cluster) as name:
        _rbd(rbd_cluster, "create", "--size", "64M", f"{name}/one")
    with rbd_cluster.admin() as admin:
        assert name not in admin.rados.list_pools()


def test_frozen_osd_times_out_and_serves_again(rbd_own_cluster: Callable[..., Cluster]) -> None:
    cluster = rbd_own_cluster()
    rados = importlib.import_module("rados")
    with _connection(cluster) as connection, connection.open_ioctx("vms") as pool:
        pool.write_full("x", b"told")
        cluster.freeze_osd()
        with pytest.raises(rados.Error) as caught:
            pool.read("x")
        assert caught.value.errno == 110
        cluster.thaw()
        assert _eventually(lambda: pool.read("x")) == b"told"


def test_frozen_monitor_refuses_nobody_and_answers_nobody(rbd_own_cluster: Callable[..., Cluster]) -> None:
    cluster = rbd_own_cluster()
    rados = importlib.import_module("rados")
    cluster.freeze_mon()
    refused = _connection(cluster)
    with pytest.raises(rados.TimedOut):
        refused.connect()
    refused.shutdown()
    cluster.thaw()
    with _connection(cluster) as connection:
        assert connection.get_fsid() == cluster.fsid


def test_killed_osd_is_gone_and_the_cluster_can_be_stopped(rbd_own_cluster: Callable[..., Cluster]) -> None:
    cluster = rbd_own_cluster()
    assert cluster.runs()
    cluster.kill("osd")
    assert _eventually(lambda: not cluster.runs() or None)
    cluster.stop()
    cluster.stop()


def test_two_clusters_run_side_by_side(rbd_cluster: Cluster, rbd_own_cluster: Callable[..., Cluster]) -> None:
    own = rbd_own_cluster(pools="images")
    _rbd(own, "create", "--size", "64M", "images/mine")
    assert own.fsid != rbd_cluster.fsid
    with rbd_cluster.admin() as admin:
        assert "rbd_id.mine" not in admin.objects("images")


def test_bluestore_keeps_data_in_a_file_and_a_manager_tells_statistics(
    rbd_own_cluster: Callable[..., Cluster],
) -> None:
    cluster = rbd_own_cluster("bluestore", manager=True)
    with _connection(cluster) as connection, connection.open_ioctx("vms") as pool:
        pool.write_full("x", os.urandom(Mi))
        assert connection.get_cluster_stats()["kb"] == Mi
    assert (cluster.folder / "osd" / "block").stat().st_blocks * 512 >= Mi


def test_cluster_ends_with_the_process_that_owns_it(rbd_own_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    program = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
from labs.ceph import Cluster
folder = pathlib.Path(sys.argv[2])
folder.mkdir()
Cluster(folder).start()
os.kill(os.getpid(), signal.SIGKILL)
"""
    folder = tmp_path / "owned"
    rbd_own_cluster()  # or the test is skipped
    alone = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    subprocess.run([sys.executable, "-c", program, str(_TESTS), str(folder)], timeout=120, check=False, env=alone)
    cluster = Cluster(folder)
    assert cluster.conf.exists()
    assert _eventually(lambda: not list((folder / "run").glob("*.pid")) or None)
    assert not cluster.runs()


def _eventually(look: Callable[[], Any]) -> Any:
    """What ``look`` returns when it neither raises an OSError nor returns None any more."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if (found := look()) is not None:
                return found
        except OSError:
            pass
        time.sleep(0.05)
    return None
