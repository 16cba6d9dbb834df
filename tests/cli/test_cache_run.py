"""``imgbackend cache run``: a service that makes passes, tells systemd, and ends when it is told to."""

import contextlib
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.harness import Cli
from imgbackend.cli.systemd import Notifier
from labs.require import require

_ROOT = Path(__file__).parents[2]
_UNITS = _ROOT / "etc" / "systemd"


class Systemd:
    """What a service tells it."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(30)

    def close(self) -> None:
        self._socket.close()

    def until(self, word: str) -> str:
        """The first message from now on that has the word."""
        while True:
            told = self._socket.recv(4096).decode()
            if word in told:
                return told


@pytest.fixture
def systemd(cli: Cli) -> Iterator[Systemd]:
    path = cli.root / "notify"
    cli.env["NOTIFY_SOCKET"] = str(path)
    with contextlib.closing(Systemd(path)) as made:
        yield made


@contextlib.contextmanager
def running(cli: Cli, *options: str) -> "Iterator[subprocess.Popen[str]]":
    with cli.start(*options, "cache", "run") as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ended(process: "subprocess.Popen[str]", signum: int) -> str:
    """What it said on stderr."""
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, ""), err
    assert "Traceback" not in err
    return err


def old_base(cli: Cli, image: Path) -> Path:
    name = cli("disk", "create", "web1", "--image", image, "-f", "json").json()["base"]
    assert cli("disk", "delete", "web1").status == 0
    path = cli.instances / "_base" / str(name)
    for each in (path, path.with_name(f"{path.name}.json")):
        os.utime(each, (0, 0))
    return path


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_service_makes_passes_and_ends_cleanly(cli: Cli, raw_image: Path, systemd: Systemd, signum: int) -> None:
    path = old_base(cli, raw_image)
    metrics = cli.root / "cache.prom"
    options = ("--set", "image_cache.manager_interval=1", "--set", f"image_cache.metrics_file={metrics}")
    with running(cli, *options) as process:
        assert "STATUS=" in systemd.until("READY=1")
        first = systemd.until("last pass: ")
        assert "removed=1 " in first
        assert "removed=0 " in systemd.until("last pass: ")
        err = ended(process, signum)
    assert systemd.until("STOPPING=1")
    assert not path.exists()
    assert re.search(rf'removed base={path.name} store=local image="file:.*" cause=unused bytes=\d+ reason="', err)
    assert re.search(r"INFO: pass bases=1 removed=1 freed=\d+ faults=0 stopped=false seconds=[\d.]+\n", err)
    text = metrics.read_text()
    assert 'imgbackend_cache_evictions_total{cause="unused"} 1.0' in text


_SLOW = """
import sys, time
from imgbackend.cache.evict import Removal
from imgbackend.cli.main import main

real = Removal._taken_away

def slow(self, base):
    time.sleep(0.2)
    return real(self, base)

Removal._taken_away = slow
sys.exit(main(sys.argv[1:]))
"""


def test_end_in_the_middle_of_a_pass_comes_between_two_bases(cli: Cli, raw_image: Path) -> None:
    first = old_base(cli, raw_image)
    for number in range(100):
        os.link(first, first.with_name(f"{number:040x}"))
    argv = [sys.executable, "-c", _SLOW, "--set", "image_cache.manager_interval=1", "cache", "run"]
    with subprocess.Popen(
        argv, env=cli.environment(), cwd=cli.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            assert "removed base=" in process.stderr.readline()
            err = ended(process, signal.SIGTERM)
        finally:
            if process.poll() is None:
                process.kill()
    assert "stopped=true" in err
    left = [path for path in first.parent.iterdir() if path.name != first.name and path.suffix != ".json"]
    assert 0 < len(left) < 100
    assert cli("cache", "prune", "-f", "json").status == 0


_LOOKING = """
import os, sys, time
from imgbackend.cli.main import main
from imgbackend.bases.users import OverlayUsers

real = OverlayUsers._instance

def slow(self, instance):
    time.sleep(0.1)
    return real(self, instance)

OverlayUsers._instance = slow
sys.exit(main(sys.argv[1:]))
"""


@contextlib.contextmanager
def looking(cli: Cli) -> "Iterator[subprocess.Popen[str]]":
    """The service, which takes ten minutes for its look at the folders of all instances."""
    for number in range(6000):
        (cli.instances / f"vm{number}").mkdir(parents=True)
    argv = [sys.executable, "-c", _LOOKING, "--set", "image_cache.manager_interval=1", "cache", "run"]
    with subprocess.Popen(
        argv, env=cli.environment(), cwd=cli.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def test_watchdog_gets_signs_of_life_while_all_disks_are_looked_at(cli: Cli, systemd: Systemd) -> None:
    cli.env["WATCHDOG_USEC"] = "400000"
    with looking(cli) as process:
        systemd.until("STATUS=making a pass")
        for _ in range(5):
            systemd.until("WATCHDOG=1")
        assert process.poll() is None
        err = ended(process, signal.SIGTERM)
    assert "pass was broken off" in err
    assert "stopped" in err


def test_service_verifies_bases_in_turn_and_puts_bad_ones_aside(cli: Cli, raw_image: Path, systemd: Systemd) -> None:
    base = cli.instances / "_base" / cli("disk", "create", "web1", "--image", raw_image, "-f", "json").json()["base"]
    with base.open("r+b") as file:
        file.seek(512 << 10)
        file.write(b"flipped")
    metrics = cli.root / "cache.prom"
    options = ("manager_interval=1", "verify_per_pass=3", f"metrics_file={metrics}")
    with running(cli, *(word for each in options for word in ("--set", f"image_cache.{each}"))) as process:
        for _ in range(3):
            systemd.until("last pass: ")
        err = ended(process, signal.SIGTERM)
    assert f"WARNING: verified base={base.name} store=local found=bad" in err
    assert not base.exists()
    [aside] = base.parent.glob(f"{base.name}.bad-*")
    assert f'disks=["web1/disk"] aside="{aside}"' in err
    assert "imgbackend_cache_verification_failures_total 1.0" in metrics.read_text()


def test_end_breaks_a_verification_off(cli: Cli, raw_image: Path, systemd: Systemd) -> None:
    cli("cache", "prefetch", raw_image)
    options = ("manager_interval=1", "verify_per_pass=1", "verify_rate=1")
    with running(cli, *(word for each in options for word in ("--set", f"image_cache.{each}"))) as process:
        systemd.until("last pass: ")
        end = time.monotonic() + 60
        while _class_of(process) != "idle":
            assert time.monotonic() < end, "nothing is read in the background"
            time.sleep(0.01)
        err = ended(process, signal.SIGTERM)
    assert "verification was broken off" in err, "it was not held to a byte a second"
    assert "found=" not in err


def _class_of(process: "subprocess.Popen[str]") -> str:
    """The class of I/O of its main thread."""
    return subprocess.run(["ionice", "-p", str(process.pid)], check=True, capture_output=True, text=True).stdout.strip()


def test_watchdog_gets_a_sign_of_life(cli: Cli, systemd: Systemd) -> None:
    cli.env["WATCHDOG_USEC"] = "200000"
    with running(cli) as process:
        for _ in range(3):
            systemd.until("WATCHDOG=1")
        ended(process, signal.SIGTERM)


def test_hangup_reads_the_configuration_again_and_a_wrong_one_changes_nothing(cli: Cli, systemd: Systemd) -> None:
    file = cli.root / "a.conf"
    file.write_text("[image_cache]\nmanager_interval = -1\n")
    with running(cli, "--config-file", str(file)) as process:
        systemd.until("READY=1")
        file.write_text("[image_cache]\nmanager_interval = many\n")
        process.send_signal(signal.SIGHUP)
        systemd.until("RELOADING=1")
        systemd.until("READY=1")
        file.write_text("[image_cache]\nmanager_interval = 1\n")
        process.send_signal(signal.SIGHUP)
        systemd.until("last pass: ")
        err = ended(process, signal.SIGTERM)
    assert "manager_interval is -1" in err
    assert "the configuration stays as it was" in err
    assert "many" in err
    assert "read again" in err


def test_pass_that_fails_is_told_and_the_next_one_is_made(cli: Cli, systemd: Systemd) -> None:
    cli.instances.mkdir()
    (cli.instances / "_base").write_text("no folder")
    with running(cli, "--set", "image_cache.manager_interval=1") as process:
        assert "_base" in systemd.until("the last pass failed: ")
        (cli.instances / "_base").unlink()
        assert "faults=0" in systemd.until("last pass: bases=0")
        assert "pass failed" in ended(process, signal.SIGTERM)


def test_wrong_configuration_is_an_error_at_the_start(cli: Cli) -> None:
    done = cli("--set", "image_cache.manager_interval=-2", "cache", "run")
    assert done.status == 1
    assert "manager_interval" in done.err


def test_nobody_is_told_where_nobody_listens(tmp_path: Path) -> None:
    assert Notifier({}).every == math.inf
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).stopping()
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).every == math.inf
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}).every == 1.0


def test_abstract_socket_is_reached() -> None:
    name = f"imgbackend-test-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(30)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).ready("well")
        assert listening.recv(100) == b"READY=1\nSTATUS=well"


def test_units_are_understood_by_systemd(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        require("systemd", "there is no systemd-analyze")
    command = str(Path(sys.executable).with_name("imgbackend"))
    for unit in _UNITS.iterdir():
        text = unit.read_text()
        assert "ExecStart=imgbackend " in text or unit.suffix == ".timer"
        (tmp_path / unit.name).write_text(text.replace("ExecStart=imgbackend ", f"ExecStart={command} "))
    units = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "imgbackend" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_units_call_what_there_is(cli: Cli) -> None:
    for unit in _UNITS.glob("*.service"):
        [words] = re.findall(r"^ExecStart=imgbackend (.*)$", unit.read_text(), re.MULTILINE)
        assert cli(*words.split(), "--help").status == 0
