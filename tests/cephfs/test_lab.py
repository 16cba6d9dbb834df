"""The lab of CephFS itself: what its clients share, and that they do not outlive who started them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgbackend.system import shared_storage
from imgbackend.types import Mi
from labs import cephfs
from labs.ceph import Cluster
from labs.ceph_admin import CephError
from labs.shares import Share

_TESTS = Path(__file__).parents[1]


def test_clients_see_one_folder_at_once_and_are_told_of_room(cephfs_share: Share) -> None:
    (cephfs_share.a / "one").write_text("hello")
    assert [(place / "one").read_text() for place in (cephfs_share.b, *cephfs_share.more)] == ["hello"] * 3
    assert len({place.stat().st_dev for place in (cephfs_share.a, cephfs_share.b, *cephfs_share.more)}) == 4
    assert shared_storage.file_system(cephfs_share.a) == "fuse.ceph-fuse"
    assert subprocess.run(["stat", "-fc", "%b", cephfs_share.a], capture_output=True, check=True).stdout != b"0\n"


def test_killed_process_leaves_no_client(cephfs_cluster: Cluster, cephfs_share: Share, tmp_path: Path) -> None:
    program = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
from labs import cephfs
from labs.ceph import Cluster
with cephfs.mounted(Cluster(pathlib.Path(sys.argv[2])), pathlib.Path(sys.argv[3])) as client:
    print(client.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    place = tmp_path / "mount"
    done = subprocess.run(
        [sys.executable, "-c", program, str(_TESTS), str(cephfs_cluster.folder), str(place)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    end = time.monotonic() + 30
    while _lives(int(done.stdout)):
        assert time.monotonic() < end, "the client lives on"
        time.sleep(0.01)
    cephfs.evict(cephfs_cluster, place)
    assert not place.is_mount()
    (cephfs_share.a / "big").write_bytes(bytes(Mi))


def _lives(pid: int) -> bool:
    """Whether a process is there, and not only until its parent sees that it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_machine_without_the_client_is_told_what_it_lacks(
    cephfs_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CephError, match="ceph-fuse is not installed"), cephfs.mounted(cephfs_cluster, tmp_path / "m"):
        pass
    assert list(tmp_path.iterdir()) == []
