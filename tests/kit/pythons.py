"""Other versions of Python that this machine has, each with what imgbackend and its kit depend on.

Their environments are made once, with pip, and kept where the labs are.
"""

import configparser
import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from labs import wheels
from labs.require import require

_SECONDS: Final = 600
"""How long pip may take."""


def home(version: str) -> Path:
    """The ``python`` of an environment with the dependencies, and without imgbackend; for ``3.12`` and the like.

    That of the tests' own version is the one that they run in.
    """
    if version == "{}.{}".format(*sys.version_info):
        return Path(sys.executable)
    found = _interpreter(version)
    if found is None:
        require(f"python{version}", "no such Python is on this machine")
    labs = Path(os.environ.get("IMGBACKEND_LABS") or wheels.ROOT / ".dev")
    place, wanted = labs / f"python{version}", _requirements()
    stamp = place / "complete"
    with _locked(labs / f"python{version}.lock"):
        if not stamp.exists() or stamp.read_text() != "\n".join(wanted):
            shutil.rmtree(place, ignore_errors=True)
            _made(found, place, wanted, version)
            stamp.write_text("\n".join(wanted))
    return place / "bin/python"


def installed(folder: Path, wheel: Path, python: Path) -> Path:
    """The ``python`` of a new environment with the wheel in it; its dependencies are those of ``python``."""
    run = {"check": True, "capture_output": True, "timeout": 120}
    subprocess.run([str(python), "-m", "venv", "--without-pip", str(folder)], **run)  # type: ignore[call-overload]  # plain options
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin/python")]
    subprocess.run([*pip, "install", "-q", "--no-index", "--no-deps", str(wheel)], **run)  # type: ignore[call-overload]  # the same
    (site,) = (folder / "lib").glob("python3*/site-packages")
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    told = subprocess.run([str(python), "-c", program], check=True, capture_output=True, text=True, timeout=60)
    (site / "dependencies.pth").write_text(told.stdout)
    return folder / "bin/python"


def _interpreter(version: str) -> str | None:
    """One that runs: what pyenv puts into PATH need not."""
    for name in (f"python{version}", f"{_pyenv(version)}/bin/python"):
        with contextlib.suppress(OSError):
            program = "import sys; print('{}.{}'.format(*sys.version_info))"
            done = subprocess.run([name, "-c", program], capture_output=True, text=True, timeout=60, check=False)
            if done.stdout.strip() == version:
                return name
    return None


def _pyenv(version: str) -> str:
    try:
        done = subprocess.run(["pyenv", "prefix", version], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        return "/nosuch"
    return done.stdout.strip() or "/nosuch"


def _requirements() -> list[str]:
    setup = configparser.ConfigParser()
    setup.read(wheels.ROOT / "setup.cfg")
    told = setup["options"]["install_requires"] + "\n" + setup["options.extras_require"]["testing"]
    return sorted(told.split())


def _made(python: str, place: Path, wanted: list[str], version: str) -> None:
    commands = [
        [python, "-m", "venv", str(place)],
        [str(place / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", *wanted],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        if done.returncode:
            told = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
            require(f"python{version}", f"its environment could not be made: {told[-1]}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
