"""The command runner: its limits fire and are named, and no command outlives who started it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.system import runner
from imgbackend.system.runner import CommandLimits, UnixIdentity
from imgbackend.types import Gi, Mi

LIMITS = CommandLimits(cpu_seconds=5, address_space=Gi, stall_seconds=30)
NOBODY = UnixIdentity(uid=65534, gid=65534)
IDENTITIES = [None, NOBODY] if os.geteuid() == 0 else [None]


def test_what_a_command_prints_is_returned() -> None:
    assert runner.run(["echo", "a b", "$HOME", ";", "true"], limits=LIMITS) == "a b $HOME ; true\n"


def test_a_failure_has_the_status_and_the_words_in_one_line() -> None:
    with pytest.raises(errors.CommandFailed) as caught:
        runner.run(["sh", "-c", "echo printed; echo one >&2; echo two >&2; exit 3"], limits=LIMITS)
    assert (caught.value.status, caught.value.printed, caught.value.reason) == (3, "printed\n", None)
    assert str(caught.value) == "sh ended with 3: one; two"


@pytest.mark.parametrize("length", [100_000, 3_000_000])
def test_a_command_that_prints_much_on_both_sides_is_not_blocked(length: int) -> None:
    program = f"import sys; sys.stderr.write('e' * {length}); sys.stdout.write('o' * {length})"
    assert runner.run([sys.executable, "-c", program], limits=LIMITS) == "o" * length


def test_cpu_limit_fires_and_is_named() -> None:
    with pytest.raises(errors.CommandFailed, match="limit of 1 s of CPU time"):
        runner.run(["sh", "-c", "while :; do :; done"], limits=CommandLimits(cpu_seconds=1, address_space=Gi))


def test_file_size_limit_fires_and_is_named(tmp_path: Path) -> None:
    limits = CommandLimits(cpu_seconds=5, address_space=Gi, file_size=Mi)
    with pytest.raises(errors.CommandFailed, match=f"limit of {Mi} bytes in a file"):
        runner.run(["dd", "if=/dev/zero", f"of={tmp_path / 'file'}", "bs=64k", "count=64"], limits=limits)
    assert (tmp_path / "file").stat().st_size <= Mi


def test_memory_limit_fires_and_is_named() -> None:
    argv = [sys.executable, "-c", "import mmap; mmap.mmap(-1, 1 << 30)"]
    with pytest.raises(errors.CommandFailed, match=f"limit of {512 * Mi} bytes of memory"):
        runner.run(argv, limits=CommandLimits(cpu_seconds=5, address_space=512 * Mi))


def test_a_command_that_stands_still_is_ended_and_the_limit_named() -> None:
    with pytest.raises(errors.CommandFailed, match="did nothing for 1 s"):
        runner.run(["sleep", "60"], limits=CommandLimits(cpu_seconds=5, address_space=Gi, stall_seconds=1))


@pytest.mark.slow
def test_a_command_that_closes_its_outputs_and_stands_still_is_ended() -> None:
    with pytest.raises(errors.CommandFailed, match="did nothing for 1 s"):
        runner.run(
            ["sh", "-c", "exec >&- 2>&-; sleep 60"],
            limits=CommandLimits(cpu_seconds=5, address_space=Gi, stall_seconds=1),
        )


@pytest.mark.slow
def test_a_command_that_works_longer_than_the_stall_limit_is_not_ended() -> None:
    program = "import os, time\nfor _ in range(8): time.sleep(0.5); os.stat('/'); sum(range(10**6))"
    limits = CommandLimits(cpu_seconds=20, address_space=Gi, stall_seconds=3)
    assert runner.run([sys.executable, "-c", program], limits=limits) == ""


@pytest.mark.parametrize(
    ("name", "package"), [("qemu-img", "qemu-utils"), ("prlimit", "util-linux"), ("setpriv", "util-linux")]
)
def test_a_missing_command_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    folders = os.environ["PATH"].split(os.pathsep)
    for command in {"qemu-img", "prlimit", "setpriv"} - {name}:
        found = next(path for folder in folders if (path := Path(folder) / command).exists())
        (tmp_path / command).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.ConfigError, match=f"{name} is not installed; install {package}"):
        runner.run(["qemu-img", "--version"], limits=LIMITS)


def test_a_command_that_its_user_cannot_start_is_the_operators_to_mend(tmp_path: Path) -> None:
    command = tmp_path / "qemu-img"  # says what the dynamic linker says where / lets nobody pass
    told = "error while loading shared libraries: libaio.so.1: cannot open shared object file: Permission denied"
    command.write_text(f"#!/bin/sh\necho 'qemu-img: {told}' >&2; exit 127\n")
    command.chmod(0o755)
    with pytest.raises(errors.ConfigError, match=r"cannot be started.*libaio.*; see unprivileged_user"):
        runner.run([str(command)], limits=LIMITS)


def test_watch_sees_what_is_printed_and_ends_the_command_by_raising() -> None:
    seen: list[str] = []

    def watch(text: str) -> None:
        seen.append(text)
        if "50%" in text:
            raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        runner.run(["sh", "-c", "echo 25%; echo 50%; exec sleep 60"], limits=LIMITS, watch=watch)
    assert seen


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to become somebody else")
def test_a_command_runs_as_who_it_is_told_to_and_with_no_other_rights() -> None:
    told = runner.run(
        ["sh", "-c", "id -u; id -g; id -G; grep CapEff /proc/self/status"], limits=LIMITS, identity=NOBODY
    )
    assert told.split() == ["65534", "65534", "65534", "CapEff:", "0000000000000000"]


@pytest.mark.parametrize("identity", IDENTITIES)
def test_only_the_descriptors_that_are_passed_are_there(tmp_path: Path, identity: UnixIdentity | None) -> None:
    with (tmp_path / "passed").open("wb") as passed, (tmp_path / "kept").open("wb"):
        told = runner.run(["ls", "-l", "/proc/self/fd"], limits=LIMITS, pass_fds=[passed.fileno()], identity=identity)
    assert "passed" in told or identity is not None
    assert "kept" not in told


@pytest.mark.parametrize("identity", IDENTITIES)
def test_a_command_dies_with_the_process_that_started_it(tmp_path: Path, identity: UnixIdentity | None) -> None:
    tmp_path.chmod(0o777)
    program = f"""
from imgbackend.system.runner import *
from imgbackend.types import Gi
run(["sh", "-c", "echo $$ > {tmp_path}/pid.part; mv {tmp_path}/pid.part {tmp_path}/pid; exec sleep 300"],
    limits=CommandLimits(cpu_seconds=5, address_space=Gi), identity={identity!r})
"""
    for folder in tmp_path.parents:
        if folder.owner() == "root" and folder.stat().st_mode & 0o777 == 0o700 and identity is not None:
            folder.chmod(0o711)
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        pid = int(_text_of(tmp_path / "pid"))
    finally:
        parent.kill()
        parent.wait()
    _wait_until_gone(pid)


def test_a_command_dies_with_the_thread_that_started_it() -> None:
    """The kernel's signal comes when the thread ends, so whoever starts a command waits for it in that thread."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        started.append(subprocess.Popen(runner.wrapped(["sleep", "300"], LIMITS, None)))
        _wait_until(lambda: os.readlink(f"/proc/{started[0].pid}/exe").endswith(("sleep", "coreutils", "busybox")))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert started[0].wait(30) == -signal.SIGKILL


def _wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def _text_of(path: Path) -> str:
    _wait_until(path.exists)
    return path.read_text()


def _wait_until_gone(pid: int) -> None:
    stat = Path(f"/proc/{pid}/stat")
    _wait_until(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")
