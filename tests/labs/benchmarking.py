"""The programs of ``benchmarks/``, run as ``./dev bench`` does."""

import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]


def run(module: str, *arguments: str | Path, limit: float = 300) -> subprocess.CompletedProcess[str]:
    """Its output and its status, which is 1 where it was slower than wanted: no matter for a test."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=_ROOT,
        env={"PYTHONPATH": str(_ROOT / "tests"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done
