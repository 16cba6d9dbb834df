"""Runs of the kit inside a test: a consumer's test file, written and run in a child.

The child is forked, so that nothing is imported again: that takes a second each time.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import pytest

from imgbackend.testing import _concurrency

_SECONDS: Final = 300.0
"""How long a run may take; then it hangs."""

CONSUMER: Final = """\
import pytest

from imgbackend.testing import BackendConformance
from kit.faults import location, other_store, tried, without_store


class TestDriver(BackendConformance):
    advisories_count = True
    crash_sample = {sample!r}

    @pytest.fixture
    def backend(self, tmp_path):
        with tried({name!r}, tmp_path) as backend:
            yield backend

    @pytest.fixture
    def location(self, trial):
        return location(trial)

    def without_store(self, trial):
        return without_store(trial)

    def other_store(self, trial):
        return other_store(trial)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one phase of one test went."""

    test: str
    phase: str
    """``setup``, ``call`` or ``teardown``."""
    outcome: str
    """``passed``, ``failed`` or ``skipped``; an expected failure is skipped."""
    kind: str = ""
    """The class of what was raised."""
    message: str = ""
    statement: str = ""
    """Of the kit's, where it was raised or passed last: the assertion that failed."""


def _statement(raised: pytest.ExceptionInfo[BaseException]) -> str:
    kit = [entry for entry in raised.traceback if "/imgbackend/testing/_" in str(entry.path)]
    return " ".join(str(kit[-1].statement).split()) if kit else ""


class _Recorder:
    """A plugin that keeps what pytest reports."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        raised = call.excinfo
        self.results.append(
            Result(
                test=item.name,
                phase=report.when,
                outcome=report.outcome,
                kind=raised.typename if raised else "",
                message=str(raised.value) if raised else str(report.longrepr or ""),
                statement=_statement(raised) if raised else "",
            )
        )
        return report


def run(
    folder: Path, name: str, tests: Sequence[str] = (), patience: float | None = None, sample: int | None = None
) -> list[Result]:
    """Run tests of the kit, or all of them, on the driver that :func:`kit.faults.tried` makes.

    ``patience``: seconds that threads wait for each other, where that is not to be a minute;
    ``sample``: the kit's ``crash_sample``.

    :raises AssertionError: if the run itself comes to nothing.
    """
    folder.mkdir(exist_ok=True)
    consumer = folder / "test_consumer.py"
    consumer.write_text(CONSUMER.format(name=name, sample=sample))
    (folder / "pytest.ini").write_text("[pytest]\n")
    wanted = [f"{consumer}::TestDriver::{test}" for test in tests] or [str(consumer)]
    options = ["-c", str(folder / "pytest.ini"), "--basetemp", str(folder / "temporary"), "--import-mode=importlib"]
    strict = ["-W", "error", "--strict-markers", "--strict-config", "-p", "no:cacheprovider"]
    told, log = folder / "results.json", folder / "log"
    try:
        status = _forked([*options, *strict, *wanted], told, log, patience)
        assert status in (0, 1), f"pytest ended with {status}: {log.read_text()[-4000:]}"
        return [Result(**each) for each in json.loads(told.read_text())]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _forked(arguments: list[str], told: Path, log: Path, patience: float | None) -> int:
    with warnings.catch_warnings():
        # The threads of xdist are its own: the child never comes back to them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 99
        try:
            if patience is not None:
                _concurrency._SECONDS = patience
            status = _in_child(arguments, told, log)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return _waited(pid)


def _in_child(arguments: list[str], told: Path, log: Path) -> int:
    os.setsid()
    with log.open("w", buffering=1) as out:
        for fd in (1, 2):
            os.dup2(out.fileno(), fd)
        sys.stdout = sys.stderr = out
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        os.environ.pop("PYTEST_ADDOPTS", None)
        recorder = _Recorder()
        status = pytest.main(arguments, plugins=[recorder])
        told.write_text(json.dumps([asdict(result) for result in recorder.results]))
        return int(status)


def _waited(pid: int) -> int:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            _end_group(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    _end_group(pid)
    os.waitpid(pid, 0)
    raise AssertionError(f"a run of the kit did not end within {_SECONDS:.0f} s")


def _end_group(pid: int) -> None:
    """What a broken driver left running ends with its run."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
