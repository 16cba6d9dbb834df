"""``imgbackend-conformance``: what it tells, what it exits with, and that it leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

_LAST: Final = re.compile(r"(\d+) passed, (\d+) failed, (\d+) deviations, (\d+) not applicable")
_PROGRAM: Final = "import sys; from imgbackend.testing.cli import main; sys.exit(main())"
_BROKEN: Final = """
import os, sys
os.environ["PYTEST_ADDOPTS"] = "-k resize_grows"  # not as many as a busy machine does in some seconds
from imgbackend_raw import RawBackend
from imgbackend_raw.driver import RawDisk
RawDisk.resize_image = lambda self, size: None
from imgbackend.testing.cli import main
sys.exit(main())
"""


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "imgbackend.conf"
    path.write_text(f"[DEFAULT]\ninstances_path = {tmp_path}/instances\nimages_type = raw\n")
    (tmp_path / "instances" / "mine").mkdir(parents=True)
    (tmp_path / "instances" / "mine" / "disk").write_bytes(b"precious")
    return path


def _run(conf: Path, *words: str, program: str = _PROGRAM) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-c", program, *words, "--config-file", str(conf)]
    return subprocess.run(argv, cwd=conf.parent, capture_output=True, text=True, timeout=300, check=False)


def _left(conf: Path) -> set[str]:
    """What is in ``instances_path``."""
    instances = conf.parent / "instances"
    return {str(path.relative_to(instances)) for path in instances.rglob("*")}


def test_passing_backend_ends_with_0_and_leaves_nothing(conf: Path) -> None:
    report = conf.with_name("report.json")
    done = _run(conf, "raw", "--time-budget", "6", "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    match = _LAST.fullmatch(done.stdout.splitlines()[-1])
    assert match is not None
    told = json.loads(report.read_text())
    assert [told["counts"][name] for name in ("passed", "failed", "deviation", "not applicable")] == [
        int(number) for number in match.groups()
    ]
    assert int(match[1]) > 0
    reasons = {test["name"]: test["reason"] for test in told["tests"] if test["outcome"] == "not applicable"}
    assert reasons["test_rollback_gives_the_bytes_of_the_snapshot"] in (
        "not Snapshottable",
        "the time budget was used up",
    )
    assert _left(conf) == {"mine", "mine/disk"}


def test_broken_backend_ends_with_1_and_is_told_where(conf: Path) -> None:
    done = _run(conf, "raw", program=_BROKEN)
    assert done.returncode == 1
    assert "test_resize_grows_with_zeroes" in done.stdout
    match = _LAST.fullmatch(done.stdout.splitlines()[-1])
    assert match is not None
    assert int(match[2]) > 0
    assert _left(conf) == {"mine", "mine/disk"}


def test_nothing_ran_is_no_pass(conf: Path) -> None:
    done = _run(conf, "raw", "--time-budget", "0")
    assert done.returncode == 1
    assert "nothing ran" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 passed, 0 failed, 0 deviations, ")


@pytest.mark.parametrize("words", [("nosuch",), ("raw", "--json", "/nosuch/report.json", "--time-budget", "0")])
def test_what_cannot_be_used_ends_with_2_and_one_line(conf: Path, words: tuple[str, ...]) -> None:
    done = _run(conf, *words)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert _left(conf) == {"mine", "mine/disk"}


def test_sample_is_how_many_points_the_kit_tries(conf: Path) -> None:
    told = _PROGRAM.replace("sys.exit(main())", "main()") + "\nfrom imgbackend.testing.suite import TestInstalled\n"
    done = _run(conf, "raw", "--sample", "3", "--time-budget", "0", program=f"{told}print(TestInstalled.crash_sample)")
    assert done.stdout.splitlines()[-1] == "3"
    refused = _run(conf, "raw", "--sample", "1")
    assert refused.returncode == 2
    assert "--sample: 1: give a number of points, 2 or more" in refused.stderr


def test_missing_pytest_is_told_with_the_extra_that_brings_it(conf: Path) -> None:
    done = _run(conf, "raw", program=f"import sys; sys.modules['pytest'] = None\n{_PROGRAM}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "imgbackend-conformance: pytest is missing; install it with: pip install 'imgbackend[testing]'"
    ]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing(conf: Path, number: signal.Signals) -> None:
    argv = [sys.executable, "-c", _PROGRAM, "raw", "--config-file", str(conf)]
    process = subprocess.Popen(argv, cwd=conf.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _wait_for_a_disk(conf, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "interrupted" in out + err
    assert _left(conf) == {"mine", "mine/disk"}


def _wait_for_a_disk(conf: Path, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if any("/.conformance-" in f"/{path}" and path.endswith("/disk") for path in _left_now(conf)):
            return
        time.sleep(0.01)
    raise AssertionError("the run made no disk")


def _left_now(conf: Path) -> set[str]:
    """As :func:`_left`, while things come and go."""
    return {os.path.join(top, name) for top, _, names in os.walk(conf.parent / "instances") for name in names}


def test_benchmark_tells_milliseconds(conf: Path) -> None:
    done = _run(conf, "qcow2", "--benchmark")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["milliseconds"]
    assert {"first disk", "further disk", "grow", "snapshot", "remove"} <= set(told)
    assert all(0 < each["best"] <= each["median"] <= each["worst"] for each in told.values())
    assert _left(conf) == {"mine", "mine/disk"}
