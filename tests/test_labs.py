"""The labs themselves: what other tests build on must be what it says."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from imgbackend.types import Mi
from labs import bootsector, images, leaks, require, sharing
from labs.hosts import SharedFolder, shared_folder

__all__ = ["shared_folder"]

_FICLONE = 0x40049409
_TESTS = Path(__file__).parent


def test_boot_sector_tells_marker_and_size(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    bootsector.write_disk(disk, 48 * Mi, format="qcow2", marker="HELLO", end="poweroff")
    command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "32", "-nodefaults"]
    command += ["-display", "none", "-serial", "stdio", "-no-reboot"]
    drive = f"file={disk},format=qcow2,if=virtio"
    done = subprocess.run(
        [*command, "-drive", drive], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
    )
    assert "HELLO" in done.stdout
    assert bootsector.sectors_in(done.stdout) == 48 * Mi // 512


def test_boot_sector_refuses_a_marker_that_leaves_no_room() -> None:
    with pytest.raises(ValueError, match="too long"):
        bootsector.boot_sector("x" * 440)


def _reflinks(folder: Path) -> None:
    source, target = folder / "source", folder / "target"
    source.write_bytes(os.urandom(Mi))
    with source.open("rb") as one, target.open("wb") as other:
        fcntl.ioctl(other, _FICLONE, one.fileno())
    assert target.read_bytes() == source.read_bytes()


def test_xfs_lab_reflinks(xfs: Path) -> None:
    _reflinks(xfs)


def test_btrfs_lab_reflinks(btrfs: Path) -> None:
    _reflinks(btrfs)


def test_small_tmpfs_is_full_after_its_size(small_tmpfs: Callable[[int], Path]) -> None:
    folder = small_tmpfs(Mi)
    (folder / "fits").write_bytes(bytes(Mi // 2))
    with pytest.raises(OSError, match="space") as caught:
        (folder / "does-not").write_bytes(bytes(Mi))
    assert caught.value.errno == errno.ENOSPC


def test_killed_process_leaves_no_loop_device(tmp_path: Path, xfs: Path) -> None:
    program = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
from labs import mounts
with mounts.loop("xfs", pathlib.Path(sys.argv[2]), 320 << 20) as place:
    print(place, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(_TESTS), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.strip() == str(tmp_path / "xfs")
    end = time.monotonic() + 20  # the kernel takes mounts away a moment after the process
    while str(tmp_path) in _loop_files() and time.monotonic() < end:
        time.sleep(0.01)
    assert str(tmp_path) not in _loop_files()


def _loop_files() -> str:
    return "".join(file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file"))


def test_same_for_guest_sees_a_difference(tmp_path: Path) -> None:
    raw = images.sparse_raw(tmp_path / "raw", 4 * Mi, data=images.scattered(4 * Mi, 0.5))
    made = images.qcow2(tmp_path / "qcow2", 8 * Mi, content=raw, cluster_size=4096)
    assert images.same_for_guest(raw, "raw", made, "qcow2")
    other = images.sparse_raw(tmp_path / "other", 4 * Mi, data={Mi: b"x"})
    assert not images.same_for_guest(other, "raw", made, "qcow2")


def test_what_a_test_leaves_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "_PATIENCE", 0.0)
    before = leaks.Held.now()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="forgotten")
    thread.start()
    with (tmp_path / "open").open("w"), subprocess.Popen(["sleep", "60"]) as child:
        left = "; ".join(leaks.left_since(before))
        child.kill()
    stop.set()
    thread.join()
    assert "thread forgotten" in left
    assert "open" in left
    assert f"child process {child.pid} (" in left
    assert leaks.left_since(before) == []


def test_missing_lab_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGBACKEND_REQUIRE", "glance,xfs")
    with pytest.raises(pytest.fail.Exception, match="xfs is required here"):
        require.require("xfs", "no kernel module")
    with pytest.raises(pytest.skip.Exception, match="no kernel module"):
        require.require("btrfs", "no kernel module")


def test_ci_requires_every_lab() -> None:
    told = re.search(r"IMGBACKEND_REQUIRE=(\S+)", (_TESTS.parent / ".ci/run").read_text())
    assert told is not None
    assert set(told[1].split(",")) == require.LABS


def test_shared_lab_is_started_by_the_first_and_stopped_by_the_last(tmp_path_factory: pytest.TempPathFactory) -> None:
    done: list[str] = []

    def start(folder: Path) -> None:
        if not (folder / "runs").exists():
            (folder / "runs").touch()
            done.append("start")

    def stop(folder: Path) -> None:
        (folder / "runs").unlink()
        done.append("stop")

    with sharing.shared(tmp_path_factory, "promised-lab", start, stop, OSError) as one:
        with sharing.shared(tmp_path_factory, "promised-lab", start, stop, OSError) as other:
            assert one == other
        assert done == ["start"]
    assert done == ["start", "stop"]


def test_shared_lab_that_did_not_start_is_not_waited_for_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    tries = []

    def start(folder: Path) -> None:
        tries.append(folder)
        raise OSError("no port is free")

    for _ in range(2):
        with (
            pytest.raises(pytest.skip.Exception, match="broken: no port is free"),
            sharing.shared(tmp_path_factory, "broken-lab", start, lambda _: None, OSError),
        ):
            pass
    assert len(tries) == 1


_TELL = """
import os, socket, sys, time
from pathlib import Path
boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
print(socket.gethostname(), os.getpid() < 10, boot, round(time.time()), Path(sys.argv[1]).read_text())
"""


def test_host_of_the_lab_has_a_name_a_boot_a_clock_and_mounts_of_its_own(shared_folder: SharedFolder) -> None:
    (shared_folder.instances / "note").write_text("shared")
    place = shared_folder.folder / "elsewhere"
    host = shared_folder.host("one", place=place, clock=-90_000)
    name, is_low, boot, now, note = host.evaluate(_TELL, place / "note").split()
    assert (name, is_low, boot, note) == ("one", "True", host.boot, "shared")
    assert abs(time.time() - 90_000 - int(now)) < 600
    assert list(place.iterdir()) == []


def test_process_of_a_host_of_the_lab_does_not_outlive_it(shared_folder: SharedFolder) -> None:
    lock = shared_folder.instances / "lock"
    code = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); "
    with shared_folder.host("one").running(code + "sys.stdin.read()", lock), lock.open() as file:
        assert not free(file)
    with lock.open() as file:
        assert free(file)


def free(file: IO[str]) -> bool:
    """Whether nobody else holds the lock of an open file; then it is held here."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
