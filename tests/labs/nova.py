"""A fixture with the real Nova; ``nova.sh`` in this folder installs it."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from labs.require import require

_SCRIPT: Final = Path(__file__).with_name("nova.sh")
_PROGRAM: Final = Path(__file__).parents[1] / "takeover" / "nova_host.py"
_INSTALLING: Final = 1800.0


class NovaError(Exception):
    """Nova raised; the message is its own."""


class Nova:
    """Nova's code in a process of its own, one ``instances_path`` at a time."""

    def __init__(self, venv: Path, process: "subprocess.Popen[str]") -> None:
        self.sample = venv / "nova.conf.sample"
        """Of all its options, and those of the libraries that read the same file."""
        self._process = process

    def do(self, verb: str, **arguments: Any) -> Any:
        """What a function of nova_host.py returns.

        :raises NovaError: if it raises.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "Nova has ended"}')
        if "error" in answer:
            raise NovaError(answer["error"])
        return answer["is"]


def _installed() -> Path:
    """The virtual environment; made here only where it must not be missing."""
    wanted = "nova" in os.environ.get("IMGBACKEND_REQUIRE", "").split(",")
    labs = os.environ.get("IMGBACKEND_LABS")
    venv = Path(labs) / "nova" if labs else Path(__file__).parents[2] / ".dev" / "nova-venv"
    if not wanted and not (venv / "complete").exists():
        require("nova", "it is not installed; run tests/labs/nova.sh install (some minutes)")
    try:
        done = subprocess.run([_SCRIPT, "install"], check=True, capture_output=True, text=True, timeout=_INSTALLING)
    except (OSError, subprocess.SubprocessError) as exc:
        require("nova", str(getattr(exc, "stderr", "") or exc).strip().replace("\n", "; "))
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def nova() -> Iterator[Nova]:
    """The real Nova; one for all tests of a worker."""
    venv = _installed()
    with subprocess.Popen(
        [venv / "bin" / "python", "-W", "ignore", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    ) as process:
        yield Nova(venv, process)
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
