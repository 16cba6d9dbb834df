"""Signals, pipes and terminals: what is left, what is said, and the exit status."""

import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from cli.harness import SECONDS, Cli
from cli.slow_server import WAIT, SlowServer


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_half_way_leaves_nothing_and_says_so(
    cli: Cli, slow_server: SlowServer, signum: signal.Signals
) -> None:
    process = cli.start("disk", "create", "web1", "--image", slow_server.url, "--size", "64M")
    try:
        assert slow_server.reached_by(process)
        process.send_signal(signum)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait(SECONDS)
    assert (process.returncode, out) == (128 + signum, "")
    assert err.splitlines()[-1] == "imgbackend: cancelled; nothing was left behind"
    assert "Traceback" not in err
    assert cli.files() == set()


def test_cancelled_prefetch_does_not_wait_for_its_server_and_leaves_nothing(cli: Cli, slow_server: SlowServer) -> None:
    process = cli.start("cache", "prefetch", slow_server.url)
    try:
        assert slow_server.reached_by(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT / 2)
    finally:
        process.kill()
        process.wait(SECONDS)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "imgbackend: cancelled; what was fetched whole is in the cache"
    assert cli.files() == set()


def test_prefetch_tells_how_far_it_is(cli: Cli, slow_server: SlowServer) -> None:
    slow_server.trickle = True
    told = cli("cache", "prefetch", slow_server.url).err.splitlines()
    assert any(line.startswith(f"fetch {slow_server.url.rpartition('/')[2]}: ") for line in told), told


def test_cancelled_verification_changes_nothing(cli: Cli, raw_image: Path) -> None:
    name = cli("cache", "prefetch", raw_image, "-f", "json").json()[0]["base"]
    before = cli.files()
    process = cli.start("cache", "verify", name, "--rate", "1")
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait(SECONDS)
    assert first.startswith("verify: ")
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "imgbackend: cancelled; what was verified until then is noted"
    assert cli.files() == before
    assert cli("cache", "show", name, "-f", "json").json()["verified"] is None


def test_an_impatient_second_ctrl_c_changes_nothing(cli: Cli, slow_server: SlowServer) -> None:
    process = cli.start("disk", "create", "web1", "--image", slow_server.url)
    try:
        assert slow_server.reached_by(process)
        for _ in range(20):
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait(SECONDS)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "imgbackend: cancelled; nothing was left behind"
    assert cli.files() == set()


def test_after_a_cancelled_create_the_next_one_works(cli: Cli, slow_server: SlowServer, raw_image: Path) -> None:
    process = cli.start("disk", "create", "web1", "--image", slow_server.url)
    assert slow_server.reached_by(process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=SECONDS)
    slow_server.go_on.set()
    made = cli("disk", "create", "web1", "--image", slow_server.url, "--images-type", "raw", "-f", "json").json()
    assert Path(made["location"]).read_bytes() == raw_image.read_bytes()


def test_a_signal_that_is_ignored_stays_ignored(cli: Cli, slow_server: SlowServer) -> None:
    argv = ["nohup", *cli.argv("disk", "create", "web1", "--image", slow_server.url, "-f", "value", "-c", "way")]
    process = subprocess.Popen(
        argv,
        env=cli.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cli.root,
    )
    try:
        assert slow_server.reached_by(process)
        process.send_signal(signal.SIGHUP)
        slow_server.go_on.set()
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait(SECONDS)
    assert (process.returncode, out) == (0, b"overlay\n"), err


def test_a_closed_stdout_is_no_traceback(cli: Cli) -> None:
    process = cli.start("help")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(SECONDS) == 141
    assert err == ""


def test_a_closed_stdout_does_not_undo_the_disk(cli: Cli, raw_image: Path) -> None:
    process = cli.start("--quiet", "disk", "create", "web1", "--image", raw_image)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(SECONDS) == 141
    assert err == ""
    assert cli("disk", "show", "web1", "-f", "value", "-c", "name").out == "disk\n"


def seen(master: int, wanted: str) -> str:
    """What a terminal shows, read until ``wanted`` is in it or it is closed."""
    shown = ""
    while wanted not in shown:
        try:
            data = os.read(master, 4096)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        shown += data.decode(errors="replace")
    return shown


def test_a_terminal_shows_a_bar_and_gets_it_taken_away(cli: Cli, slow_server: SlowServer) -> None:
    slow_server.trickle = True
    cli.env |= {"TERM": "xterm", "COLUMNS": "100"}
    master, slave = pty.openpty()
    process = subprocess.Popen(
        cli.argv("disk", "create", "web1", "--image", slow_server.url, "-f", "value", "-c", "way"),
        env=cli.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave, cwd=cli.root,
    )  # fmt: skip
    os.close(slave)
    try:
        shown = shown_by(master)
        out, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait(SECONDS)
        os.close(master)
    assert (process.returncode, out) == (0, b"overlay\n"), shown
    assert "fetch" in shown
    assert "\u2501" in shown, "there is no bar"
    assert " of 4 MiB" in shown
    assert shown.rstrip("\r\n").endswith("\x1b[2K") or "\x1b[?25h" in shown, "the terminal is given back"


def shown_by(master: int) -> str:
    """All that a terminal shows until its other side is closed."""
    shown = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # how Linux tells that the other side is closed
            data = b""
        if not data:
            return shown.decode(errors="replace")
        shown += data


@pytest.mark.parametrize(("words", "lines"), [([], ["fetch: 4 MiB", "fetch: 4 MiB in "]), (["--quiet"], [])])
def test_a_pipe_gets_plain_lines_and_quiet_gets_none(
    cli: Cli, slow_server: SlowServer, words: list[str], lines: list[str]
) -> None:
    slow_server.trickle = True
    done = cli(*words, "disk", "create", "web1", "--image", slow_server.url)
    assert done.status == 0, done.err
    told = [line for line in done.err.splitlines() if line.startswith("fetch")]
    assert len(told) == len(lines)
    assert all(line.startswith(begin) for line, begin in zip(told, lines, strict=True))
    assert "\x1b" not in done.err
