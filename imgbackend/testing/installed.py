"""A backend of this host's configuration, tried with nothing of its own at risk.

Its disks are in a folder that is made for the run, on the file system of the configured
``instances_path``, or in the store under names that begin with ``conformance-``; both are
cleared when the run ends, however it ends.
"""

import contextlib
import dataclasses
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from imgbackend import errors
from imgbackend.config import plugins
from imgbackend.driver.abilities import HoldsBases
from imgbackend.driver.contract import Backend
from imgbackend.engine import Engine
from imgbackend.system.host import Host
from imgbackend.testing import TOPICS
from imgbackend.testing.place import again
from imgbackend.testing.report import Outcome, Report, Result
from imgbackend.testing.suite import TestInstalled
from imgbackend.testing.topic import is_destructive
from imgbackend.testing.trial import PREFIX

_ARGUMENTS: Final = ("--pyargs", "--noconftest", "-p", "no:cacheprovider", "-p", "no:terminal")


@contextlib.contextmanager
def place_beside(engine: Engine) -> Iterator[Path]:
    """A folder of the run's own on the file system of ``instances_path``; it goes at the end."""
    near = engine.host.instances
    while not near.is_dir():
        near = near.parent
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=near))
    except OSError as exc:
        raise errors.ConfigError(
            f"cannot make a folder in {near}: {exc.strerror}; run this as who runs guests"
        ) from exc
    try:
        folder.chmod(0o711)  # who reads images for root passes through
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def backend_in(engine: Engine, name: str, folder: Path) -> Iterator[Backend]:
    """A backend as it is configured, but with an ``instances_path`` in ``folder``; open."""
    configured = engine.backend(name)
    host = Host(dataclasses.replace(configured.host.settings, instances=folder / "instances"))
    with again(configured, host) as backend:
        yield backend


class Run:
    """For pytest: gives the backend, leaves out what may not be run, and notes what comes of each test."""

    def __init__(
        self, backend: Backend, *, destructive: bool, seconds: float | None, sample: int | None = None
    ) -> None:
        """``seconds``: no test is begun later than that; None: all are.  ``sample``: the kit's ``crash_sample``."""
        self.token = secrets.token_hex(3)
        self._backend, self._destructive, self._sample = backend, destructive, sample
        self._end = None if seconds is None else time.monotonic() + seconds
        self.report = Report(backend=backend.name, driver=backend.driver, package=_package(backend.driver))

    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        """A fresh one for each test."""
        with again(self._backend) as backend:
            yield backend

    @pytest.fixture
    def run_token(self) -> str:
        """What the names of all disks of this run have in common."""
        return self.token

    def go(self, folder: Path) -> None:
        """Run the tests; what pytest makes is below ``folder``."""
        ini = folder / "pytest.ini"
        ini.write_text("[pytest]\n")
        started = time.monotonic()
        own = [f"--basetemp={folder / 'tests'}", f"--rootdir={folder}", "-c", str(ini), TestInstalled.__module__]
        before = dict(os.environ)
        os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
        try:
            status = pytest.main([*_ARGUMENTS, *own], plugins=[self])
        finally:
            os.environ.clear()
            os.environ.update(before)
            self.report.notes += self._cleared()
        self.report.seconds = time.monotonic() - started
        if status == pytest.ExitCode.INTERRUPTED:
            self.report.notes.append("the run was interrupted; its disks were cleared")
        elif status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self.report.notes.append(f"pytest ended with {status!r}")

    def _cleared(self) -> list[str]:
        """Take away what tests left; what cannot be is told."""
        left: list[str] = []
        mine = f"{PREFIX}{self.token}"
        with again(self._backend) as backend:
            for disk in [disk for disk in backend.list_disks() if disk.instance.startswith(mine)]:
                try:
                    backend.disk(disk).remove()
                except errors.Error as exc:
                    left.append(f"the disk {disk} is left: {exc}")
            if isinstance(backend, HoldsBases):
                for base in list(backend.list_bases()):
                    if base.tags.get("image_id", "").startswith(mine):
                        try:
                            backend.remove_base(base.name)
                        except errors.Error as exc:
                            left.append(f"the base {base.name} is left: {exc}")
        return left

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """In the order of the topics: what everybody needs comes before what takes long."""
        items.sort(key=lambda item: TOPICS.index(_topic(item.location[0])))
        for suite in {item.getparent(pytest.Class) for item in items}:
            if suite is not None:
                suite.obj.crash_sample = self._sample

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Leave out what fills or damages the store, and what there is no time for."""
        if not self._destructive and is_destructive(getattr(item, "function", None)):
            pytest.skip("not applicable: it fills or damages the store; ask for it with --destructive")
        if self._end is not None and time.monotonic() > self._end:
            pytest.skip("not applicable: the time budget was used up")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A kit that cannot be loaded is no pass."""
        if report.failed:
            self.report.notes.append(f"cannot collect {report.nodeid}: {_last_line(report.longreprtext)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One result for each test; a failure of a fixture is one too."""
        if report.when != "call" and report.outcome == "passed":
            return
        found = Result(
            topic=_topic(report.location[0]),
            name=report.location[2].rpartition(".")[2],
            outcome=_outcome(report),
            reason=_reason(report),
            seconds=round(report.duration, 3),
        )
        if report.when == "teardown":
            self.report.results = [each for each in self.report.results if each.name != found.name]
        self.report.results.append(found)


def _topic(file: str) -> str:
    return Path(file).stem.removeprefix("_")


def _outcome(report: pytest.TestReport) -> Outcome:
    if report.outcome == "skipped":
        return "deviation" if hasattr(report, "wasxfail") else "not applicable"
    return "passed" if report.outcome == "passed" else "failed"


def _reason(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ").removeprefix("not applicable: ")
    return _last_line(report.longreprtext) if report.failed else ""


def _last_line(text: str) -> str:
    """The line of a traceback that says what was wrong."""
    told = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (told or text.splitlines() or ["no reason was given"])[0]


def _package(driver: str) -> str:
    found = [each for each in plugins.drivers() if each.name == driver]
    return f"{found[0].distribution} {found[0].version}" if found else "no package"
