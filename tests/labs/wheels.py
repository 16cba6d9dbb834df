"""Wheels of this tree and of its examples, and virtual environments that they are installed in.

Nothing is downloaded: the dependencies are those of the environment that runs the tests.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).parents[2]
_BUILT: Final = ("build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".git", ".venv", ".dev")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def copied(tree: Path, target: Path) -> Path:
    """A copy of a source tree without what was built in it."""
    shutil.copytree(tree, target, ignore=shutil.ignore_patterns(*_BUILT), symlinks=True)
    return target


def build(tree: Path, kind: Literal["sdist", "wheel"]) -> Path:
    """Have setuptools build ``kind`` as pip would, from what is in ``tree`` alone."""
    target = tree / "dist"
    target.mkdir(exist_ok=True)
    program = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(target)!r}))"
    return target / _checked([sys.executable, "-c", program], tree, 120).splitlines()[-1]


def installed(home: Path, *wheels: Path) -> Path:
    """The ``bin`` of a new virtual environment with these wheels in it.

    The dependencies are on a path of their own behind it: what an editable installation
    hooks in there does not apply, so that imgbackend itself can only come from a wheel.
    """
    venv.create(home, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(home / "bin/python")]
    _checked([*pip, "install", "-q", "--no-index", "--no-deps", *map(str, wheels)], home, 120)
    (site,) = (home / "lib").glob("python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def run(binaries: Path, folder: Path, *command: str, seconds: int = 60, **environment: str) -> str:
    """What a command of that environment prints, started in ``folder``; it has to succeed."""
    clean = {"PATH": _PATH, "HOME": str(folder), **environment}
    return _checked([str(binaries / command[0]), *command[1:]], folder, seconds, clean)


def _checked(argv: list[str], folder: Path, seconds: int, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        argv, cwd=folder, env=env or dict(os.environ), capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, f"{' '.join(argv[:3])} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout
