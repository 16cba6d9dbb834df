"""What a test does when the machine lacks what it needs."""

import os
import subprocess
from pathlib import Path
from typing import Final, NoReturn

import pytest

LABS: Final = frozenset(
    {
        *("btrfs", "cephfs", "glance", "hosts", "libvirt", "lvm"),
        *("nfs", "nova", "rbd", "ssh", "tmpfs", "xfs"),
    }
)
"""What CI counts on, all of it."""

FULL: Final = os.environ.get("IMGBACKEND_FULL") == "1"
"""Whether the long loops run too, as in ``./dev test-full``."""


def require(name: str, reason: str) -> NoReturn:
    """Skip this test; fail it where ``IMGBACKEND_REQUIRE`` (comma-separated) names ``name``.

    ``name`` is one of :data:`LABS`, or something that a machine may lack.  A lab that CI counts on must not go missing
    unseen.
    """
    if name in os.environ.get("IMGBACKEND_REQUIRE", "").split(","):
        pytest.fail(f"{name} is required here (IMGBACKEND_REQUIRE), and could not be had: {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")


def installed(name: str, script: Path, seconds: float) -> str:
    """What a lab's script says of where it is, once it is there; the lab is required as in :func:`require`."""
    try:
        done = subprocess.run([script, "install"], capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as exc:
        require(name, str(exc))
    if done.returncode:
        require(name, done.stderr.strip().replace("\n", "; "))
    return done.stdout.strip()
