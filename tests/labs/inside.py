"""pytest inside a lab that is a machine of its own: which tests those are, and how they are run from outside."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from labs.require import require

_ROOT: Final = Path(__file__).parents[2]
_NO_LAB, TOO_LATE = 125, 124
_WORKER: Final = re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or "0"
"""Labs of two workers run side by side, each on a CPU of its own."""


def environment(**more: str) -> dict[str, str]:
    """Ours, without what pytest tells its own children."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | more


def pytest_command(*arguments: str) -> list[str]:
    """pytest in a process of its own, at the root."""
    python = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    return ["env", f"--chdir={_ROOT}", *python, *arguments]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A lab that runs commands in a machine of its own."""

    name: str
    """As IMGBACKEND_REQUIRE has it; its tests have the same as their marker."""
    seconds: int
    """In which everything in it has to be over."""

    @property
    def script(self) -> Path:
        """What starts it."""
        return _ROOT / f"tests/labs/{self.name}-lab.sh"

    @property
    def inside(self) -> str:
        """The variable that is "1" inside."""
        return f"{self.name.upper()}_LAB"

    def run(self, folder: Path, *command: str, seconds: int | None = None) -> "subprocess.CompletedProcess[str]":
        """A command in it, with ``folder`` as the one place of the host that it can write to."""
        limit = seconds or self.seconds
        settings = {f"{self.inside}_TIMEOUT": str(limit), f"{self.inside}_CPU": _WORKER}
        done = subprocess.run(
            [self.script, *command],
            cwd=folder,
            env=environment(**settings),
            capture_output=True,
            text=True,
            timeout=limit + 60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode == _NO_LAB:
            require(self.name, done.stderr.strip().rpartition("\n")[2] or f"no word from {self.script.name}")
        return done

    def run_pytest(self, folder: Path, *arguments: str) -> None:
        """Have pytest run in it; fails as it does, and where no test ran to an end."""
        report = folder / "report.xml"
        done = self.run(folder, *pytest_command("-q", f"--junitxml={report}", *arguments))
        if done.returncode not in (0, 1) or not report.exists():
            said = f"{self._ending(done.returncode)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
            pytest.fail(said, pytrace=False)
        ran, broken = self._read(report)
        if broken:
            pytest.fail(f"{len(broken)} of {ran}, inside the lab:\n\n" + "\n\n".join(broken), pytrace=False)
        assert done.returncode == 0, done.stdout
        assert ran > 0, f"no test ran: {done.stdout}"

    def collected(self, *arguments: str) -> list[str]:
        """The names of the tests that would run in it."""
        done = subprocess.run(
            pytest_command("--collect-only", "-q", "-m", self.name, *arguments),
            env=environment(**{self.inside: "1"}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [line for line in done.stdout.splitlines() if "::" in line]

    def _ending(self, status: int) -> str:
        if status == TOO_LATE:
            return f"not over after {self.seconds} s; what was said until then:"
        return f"pytest, inside the lab, ended with status {status}:"

    def _read(self, report: Path) -> tuple[int, list[str]]:
        """How many tests ran to an end, and each that broke, with its text and how to run it by hand."""
        cases = ElementTree.parse(report).getroot().findall(".//testcase")  # noqa: S314 - written by our own pytest
        broken = []
        for case in cases:
            for trouble in (*case.findall("failure"), *case.findall("error")):
                broken.append(f"{self._by_hand(case)}\n{(trouble.text or trouble.get('message') or '').strip()}")
        return sum(case.find("skipped") is None for case in cases), broken

    def _by_hand(self, case: ElementTree.Element) -> str:
        name = case.get("name", "")
        selected = re.sub(r"[^A-Za-z0-9_]+.*", "", name)
        command = f"tests/labs/{self.script.name} .venv/bin/python -m pytest -k {selected}"
        return f"{case.get('classname')}::{name}   ({command})"
