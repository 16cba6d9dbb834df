"""Whoever uses the kit from a wheel runs it clean: with every warning an error, on each Python that is here."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from kit import pythons
from labs import wheels

_CONSUMER: Final = """\
import pytest

from imgbackend.testing import BackendConformance, MemoryBackend, conforming


class TestMemory(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path):
        with conforming(MemoryBackend, tmp_path, {"folder": str(tmp_path / "memory")}) as backend:
            yield backend
"""
_STRICT: Final = ("-W", "error", "--strict-markers", "--strict-config", "-p", "no:cacheprovider", "-ra")
_SOME: Final = "bytes or killed_growth or processes or threads or flush or export or listed or removed or left"
"""What goes through the interpreter in ways of its own: forks, threads, audit hooks, descriptors."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheels.build(wheels.copied(wheels.ROOT, tmp_path_factory.mktemp("wheel") / "tree"), "wheel")


def _consume(python: Path, folder: Path) -> str:
    """Run a consumer's tests in a project of its own; what pytest says."""
    project = folder / "project"
    project.mkdir()
    (project / "test_memory.py").write_text(_CONSUMER)
    (project / "pytest.ini").write_text("[pytest]\n")
    temporary = f"--basetemp={folder / 'temporary'}"
    argv = [str(python), "-W", "error", "-m", "pytest", *_STRICT, temporary, "-k", _SOME, "test_memory.py"]
    clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(folder)}
    done = subprocess.run(argv, cwd=project, env=clean, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in project.iterdir()} - {"__pycache__"} == {"pytest.ini", "test_memory.py"}
    return done.stdout


def _assert_clean(told: str) -> None:
    last = told.splitlines()[-1]
    found = re.search(r"(\d+) passed", last)
    assert found is not None
    assert int(found[1]) > 20
    assert "failed" not in last
    assert "error" not in last
    assert "warning" not in last


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_wheel_runs_clean(version: str, wheel: Path, tmp_path: Path) -> None:
    python = pythons.installed(tmp_path / "venv", wheel, pythons.home(version))
    program = "import sys, imgbackend; print('{}.{}'.format(*sys.version_info), imgbackend.__file__)"
    told = subprocess.run([str(python), "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    ran, _, file = told.stdout.strip().partition(" ")
    assert ran == version
    assert Path(file).is_relative_to(tmp_path / "venv")
    _assert_clean(_consume(python, tmp_path))
