"""btrfs in a file, for the tests: mounted through a loop device, which lets go with the mount."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_SIZE = 320 << 20
"""Small enough to be filled by a test."""


@pytest.fixture(scope="session")
def _mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("btrfs")
    image = place.with_suffix(".img")
    with image.open("xb") as file:
        file.truncate(_SIZE)
    try:
        for command in (["mkfs.btrfs", "-q", str(image)], ["mount", "-o", "loop", str(image), str(place)]):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.CalledProcessError) as exc:
        image.unlink()
        _lacking(f"{exc} {getattr(exc, 'stderr', '') or ''}".strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)
        image.unlink()


def _lacking(reason: str) -> None:
    """Skip, but for a run that counts on btrfs: in CI a driver must not go untested unseen."""
    if "btrfs" in os.environ.get("IMGBACKEND_REQUIRE", "").split(","):
        pytest.fail(f"no btrfs for the tests: {reason}", pytrace=False)
    pytest.skip(f"no btrfs for the tests; being root helps: {reason}")


@pytest.fixture
def btrfs(_mounted: Path) -> Iterator[Path]:
    """An empty folder on btrfs; what the kit leaves in it, its bases and locks, goes with it."""
    folder = Path(tempfile.mkdtemp(dir=_mounted))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # what is left of a failed test may be subvolumes
