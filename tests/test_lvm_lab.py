"""Tests that need LVM, run inside its lab; and the lab itself, from outside.

By hand, at the root: ``tests/labs/lvm-lab.sh .venv/bin/python -m pytest tests/backends/lvm -k ...``
"""

import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from labs.inside import TOO_LATE, Machine, environment
from labs.require import FULL

_LAB: Final = Machine(name="lvm", seconds=12000 if FULL else 3000)
_CONFORMANCE: Final = "tests/conformance/test_lvm.py"

_EVERY_TIME: Final = " or ".join(
    (
        *("killed_creation_of_a_further_disk", "killed_growth", "killed_rollback", "failed_fetch"),
        *("image_then_zeroes", "store_that_was_used", "see_each_others", "grows_with_zeroes", "takes_no_other"),
        *(
            "one_base_for_all",
            "base_in_use",
            "rollback_gives_the_bytes",
            "errors_have_one_line",
            "abilities",
            "another_host",
        ),
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


@pytest.mark.parametrize("chunk", CHUNKS)
def test_inside_the_lab(chunk: str, tmp_path: Path) -> None:
    _LAB.run_pytest(tmp_path, "-m", "lvm", *CHUNKS[chunk])


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
        _LAB.run_pytest(tmp_path, str(file))


def test_every_test_for_the_lab_is_in_one_chunk() -> None:
    in_chunks = [name for arguments in WHOLE.values() for name in _LAB.collected(*arguments)]
    assert sorted(in_chunks) == sorted(_LAB.collected("tests"))


def test_command_runs_as_it_would_outside(tmp_path: Path) -> None:
    (tmp_path / "given").write_text("read inside")
    told = 'cat given; printf "<%s>" "$@"; echo err >&2; echo out >made; touch /left; exit 42'
    done = _LAB.run(tmp_path, "sh", "-c", told, "sh", "it's", 'a "b" $HOME', "", seconds=60)
    assert done.returncode == 42
    assert done.stdout == 'read inside<it\'s><a "b" $HOME><>'
    assert done.stderr == "err\n"
    assert (tmp_path / "made").read_text() == "out\n"
    assert not Path("/left").exists()


def test_lab_ends_after_its_time(tmp_path: Path) -> None:
    done = _LAB.run(tmp_path, "sleep", "300", seconds=8)
    assert done.returncode == TOO_LATE
    assert "LVM_LAB_TIMEOUT" in done.stderr


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_lab_that_is_killed_leaves_nothing(by: signal.Signals, tmp_path: Path) -> None:
    _LAB.run(tmp_path, "true", seconds=60)
    command = [str(_LAB.script), "sh", "-c", "echo it runs; sleep 300"]
    env = environment(LVM_LAB_TMP=str(tmp_path), LVM_LAB_TIMEOUT="200")
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
