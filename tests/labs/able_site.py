"""The driver ``able`` as an installed one: a folder for ``PYTHONPATH``, with a distribution's entry point."""

from pathlib import Path
from typing import Final

_TESTS: Final = Path(__file__).parents[1]


def able_site(folder: Path) -> str:
    """The value of ``PYTHONPATH`` with which a process finds the driver ``able``."""
    info = folder / "imgbackend_able-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imgbackend-able\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[imgbackend.backends]\nable = labs.able:AbleBackend\n")
    return f"{folder}:{_TESTS}"
