"""Tests that need LVM, run inside its lab; and the lab itself, from outside.

By hand, at the root: ``tests/labs/lvm-lab.sh .venv/bin/python -m pytest tests/backends/lvm -k ...``
"""

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Final

import pytest

from labs.require import FULL, require

_ROOT: Final = Path(__file__).parents[1]
_LAB: Final = _ROOT / "tests/labs/lvm-lab.sh"
_SECONDS: Final = 12000 if FULL else 3000
_NO_LAB, _TOO_LATE = 125, 124
_WORKER: Final = re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or "0"
"""Labs of two workers run side by side, each on a CPU of its own."""
_CONFORMANCE: Final = "tests/conformance/test_lvm.py"

_EVERY_TIME: Final = " or ".join(
    (
        *("killed_creation_of_a_further_disk", "killed_growth", "killed_rollback", "failed_fetch"),
        *("image_then_zeroes", "store_that_was_used", "see_each_others", "grows_with_zeroes", "takes_no_other"),
        *("one_base_for_all", "base_in_use", "rollback_gives_the_bytes", "errors_have_one_line", "abilities"),
    )
)
"""Of the kit, what is tried of LVM every time: in the lab a test takes seconds, and there are 160 for each class."""

WHOLE: Final = {
    "driver": ["tests/backends/lvm"],
    "guest": ["tests/guest/test_lvm.py"],
    "thin": [_CONFORMANCE, "-k", "LvmThin and not killed"],
    "thin-killed": [_CONFORMANCE, "-k", "LvmThin and killed"],
    "thick": [_CONFORMANCE, "-k", "not LvmThin and not killed"],
    "thick-killed": [_CONFORMANCE, "-k", "not LvmThin and killed"],
}
"""What runs in one lab, which has one CPU: with a second worker of pytest two run side by side."""

_SHORT: Final = {
    "driver": ["tests/backends/lvm", "-k", "not test_page and not privileges and not test_race"],
    "guest": ["tests/guest/test_lvm.py", "-k", "snapshot"],
    "thin": [_CONFORMANCE, "-k", f"LvmThin and ({_EVERY_TIME})"],
    "thick": [_CONFORMANCE, "-k", f"LvmThick and ({_EVERY_TIME})"],
}
"""The others are left to ``./dev test-full``: most of the kit, sudo and rootwrap, the page for operators, passes that
race creations, a guest without a pool; they take hours of CPU in there."""

CHUNKS: Final = WHOLE if FULL else _SHORT

pytestmark = pytest.mark.slow


def _environment(**more: str) -> dict[str, str]:
    """Ours, without what pytest tells its own children."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | more


def _pytest(*arguments: str) -> list[str]:
    python = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return ["env", f"--chdir={_ROOT}", *python, *arguments]


def _lab(folder: Path, *command: str, seconds: int = _SECONDS) -> "subprocess.CompletedProcess[str]":
    """A command in the lab, with ``folder`` as the one place of the host that it can write to."""
    done = subprocess.run(
        [_LAB, *command],
        cwd=folder,
        env=_environment(LVM_LAB_TIMEOUT=str(seconds), LVM_LAB_CPU=_WORKER),
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode == _NO_LAB:
        require("lvm", done.stderr.strip().rpartition("\n")[2] or "no word from lvm-lab.sh")
    return done


def _run_inside(folder: Path, *arguments: str) -> None:
    """Have pytest run in the lab; fails as it does, and where no test ran to an end."""
    report = folder / "report.xml"
    done = _lab(folder, *_pytest("-q", f"--junitxml={report}", *arguments))
    if done.returncode not in (0, 1) or not report.exists():
        pytest.fail(f"{_how(done.returncode)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}", pytrace=False)
    ran, broken = _read(report)
    if broken:
        pytest.fail(f"{len(broken)} of {ran}, inside the lab:\n\n" + "\n\n".join(broken), pytrace=False)
    assert done.returncode == 0, done.stdout
    assert ran > 0, f"no test ran: {done.stdout}"


@pytest.mark.parametrize("chunk", CHUNKS)
def test_inside_the_lab(chunk: str, tmp_path: Path) -> None:
    _run_inside(tmp_path, "-m", "lvm", *CHUNKS[chunk])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("def test_one(): pass\ndef test_other(): assert 'this' == 'that'\n", r"1 of 2, [^$]*test_other[^$]*'that'"),
        ("import pytest\ndef test_one(): pytest.skip('not here')\n", "no test ran"),
        ("import os, signal\ndef test_one(): os.kill(os.getpid(), signal.SIGKILL)\n", "ended with status 137"),
    ],
    ids=["failure", "nothing-ran", "killed"],
)
def test_failure_inside_is_a_failure_outside(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "test_inner.py"
    file.write_text(body)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=said):
        _run_inside(tmp_path, str(file))


def _how(status: int) -> str:
    if status == _TOO_LATE:
        return f"not over after {_SECONDS} s; what was said until then:"
    return f"pytest, inside the lab, ended with status {status}:"


def _read(report: Path) -> tuple[int, list[str]]:
    """How many tests ran to an end, and each that broke, with its text and how to run it by hand."""
    cases = ElementTree.parse(report).getroot().findall(".//testcase")  # noqa: S314 - written by our own pytest
    broken = []
    for case in cases:
        for trouble in (*case.findall("failure"), *case.findall("error")):
            broken.append(f"{_named(case)}\n{(trouble.text or trouble.get('message') or '').strip()}")
    return sum(case.find("skipped") is None for case in cases), broken


def _named(case: ElementTree.Element) -> str:
    name = case.get("name", "")
    selected = re.sub(r"[^A-Za-z0-9_]+.*", "", name)
    return f"{case.get('classname')}::{name}   (tests/labs/lvm-lab.sh .venv/bin/python -m pytest -k {selected})"


def test_every_test_for_the_lab_is_in_one_chunk() -> None:
    def collected(*arguments: str) -> list[str]:
        command = _pytest("--collect-only", "-q", "-m", "lvm", *arguments)
        done = subprocess.run(
            command, env=_environment(LVM_LAB="1"), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if "::" in line]

    in_chunks = [name for arguments in WHOLE.values() for name in collected(*arguments)]
    assert sorted(in_chunks) == sorted(collected("tests"))


def test_command_runs_as_it_would_outside(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("read inside")
    told = 'cat given; printf "<%s>" "$@"; echo err >&2; echo out >made; touch /left; exit 42'
    done = _lab(tmp_path, "sh", "-c", told, "sh", "it's", 'a "b" $HOME', "", seconds=60)
    assert done.returncode == 42
    assert done.stdout == 'read inside<it\'s><a "b" $HOME><>'
    assert done.stderr == "err\n"
    assert (tmp_path / "made").read_text() == "out\n"
    assert not Path("/left").exists()


def test_lab_ends_after_its_time(tmp_path: Path) -> None:
    done = _lab(tmp_path, "sleep", "300", seconds=8)
    assert done.returncode == _TOO_LATE
    assert "LVM_LAB_TIMEOUT" in done.stderr


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_lab_that_is_killed_leaves_nothing(by: signal.Signals, tmp_path: Path) -> None:
    _lab(tmp_path, "true", seconds=60)
    command = [str(_LAB), "sh", "-c", "echo it runs; sleep 300"]
    env = _environment(LVM_LAB_TMP=str(tmp_path), LVM_LAB_TIMEOUT="200")
    with subprocess.Popen(command, cwd="/", env=env, stdout=subprocess.PIPE, text=True) as lab:
        assert lab.stdout is not None
        assert lab.stdout.readline() == "it runs\n"
        assert _processes_of(tmp_path)
        lab.send_signal(by)
        assert lab.wait(60) in (-by, 128 + by)
    end = time.monotonic() + 30
    while (_processes_of(tmp_path) or list(tmp_path.iterdir())) and time.monotonic() < end:
        time.sleep(0.05)
    assert _processes_of(tmp_path) == set()
    assert list(tmp_path.iterdir()) == []


def _processes_of(folder: Path) -> set[str]:
    """Every process that names ``folder`` in its arguments."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if str(folder) in line:
            found.add(f"{file.parent.name} {line[:100]}")
    return found
