"""How commands are run: as root or through a helper, bounded in time, never through a shell; no group is needed."""

import os
import re
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend_lvm.lvm2_run import Lvm2Commands


def _runs_of(path: Path) -> list[str]:
    """The ids of processes that have ``path`` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.fsencode(path) in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """Nobody writes to it: who opens it to read waits for ever."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_command_that_hangs_is_ended_and_leaves_no_process(fifo: Path) -> None:
    commands = Lvm2Commands(root_helper="env", timeout=0.2)
    with pytest.raises(errors.StorageUnavailable, match=r"dd did not end within 0\.2 s"):
        commands.run("dd", f"if={fifo}")
    assert _runs_of(fifo) == []


def test_output_and_arguments_pass_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "a b;$(touch x)'\"\\"
    path.write_text("what is in it\n")
    assert Lvm2Commands(root_helper="env").run("dd", f"if={path}", "status=none") == "what is in it\n"
    assert os.listdir(tmp_path) == [path.name]


def test_command_that_is_not_installed_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("imgbackend_lvm.lvm2_run.path_of", lambda tool: str(tmp_path / tool))
    with pytest.raises(errors.ConfigError, match=r"lvs cannot be started .*; install lvm2"):
        Lvm2Commands(root_helper="env").run("lvs")


def test_failure_that_nobody_knows_keeps_command_status_and_words(tmp_path: Path) -> None:
    with pytest.raises(errors.CommandFailed, match=r"dd ended with 1: .*No such file") as caught:
        Lvm2Commands(root_helper="env").run("dd", f"if={tmp_path}/none")
    assert (caught.value.argv, caught.value.status) == (("dd", f"if={tmp_path}/none"), 1)


def test_failure_is_none_where_every_complaint_is_expected(tmp_path: Path) -> None:
    commands = Lvm2Commands(root_helper="env")
    assert commands.run("dd", f"if={tmp_path}/none", fine=re.compile("No such file")) == ""
    with pytest.raises(errors.CommandFailed):
        commands.run("dd", f"if={tmp_path}/none", fine=re.compile("something else"))


def _as_user(work: Callable[[], str]) -> str:
    """What ``work`` says in a child process that is no root; of a child that fails, where it failed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(write, work().encode())
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


def test_helper_goes_before_the_command_of_a_user() -> None:
    def work() -> str:
        return Lvm2Commands(root_helper="env --").run("dd", "if=/proc/self/status", "status=none")

    assert "Uid:\t0\t" not in _as_user(work)
    assert "Name:\tdd" in _as_user(work)


def test_helper_that_is_not_installed_is_for_the_operator() -> None:
    def work() -> str:
        try:
            return Lvm2Commands(root_helper="no-such-helper").run("dd", "if=/dev/null")
        except errors.ConfigError as exc:
            return str(exc)

    assert "no-such-helper is not installed" in _as_user(work)


def test_user_without_a_rule_of_sudos_is_told_to_install_it() -> None:
    def work() -> str:
        try:
            return Lvm2Commands().run("dd", "if=/dev/null")
        except errors.ConfigError as exc:
            return str(exc)

    assert "install the rules for sudo" in _as_user(work)


def test_command_goes_on_when_nobody_reads_what_it_says() -> None:
    status = Lvm2Commands(root_helper="env").run("dd", "if=/proc/self/status", "status=none")
    (ignored,) = re.findall(r"^SigIgn:\s+([0-9a-f]+)$", status, re.MULTILINE)
    assert int(ignored, 16) >> (signal.SIGPIPE - 1) & 1
