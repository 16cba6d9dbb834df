"""A folder that two hosts share by NFS, in a lab; ``nfs-lab.sh`` in this folder starts it.

Tests that ask for one of these fixtures run inside the lab alone, where ``NFS_LAB`` is set;
``tests/test_nfs_lab.py`` has them run there.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, Protocol

import pytest

from labs.shares import Share

INSIDE: Final = os.environ.get("NFS_LAB") == "1"
"""Whether this process runs in the lab."""

FIXTURES: Final = frozenset({"nfs_share", "nfs_mount"})

Export = Literal["shared", "squashed"]
"""squashed: root counts as nobody."""

_NUMBERS: Final = itertools.count(1)


def calls_of(mounted: Path) -> Counter[str]:
    """How often each procedure of NFS was called for a mount of this process's, by the procedure's name.

    Source: ``/proc/self/mountstats``; the first number of its per-op statistics.
    """
    _, _, after = Path("/proc/self/mountstats").read_text().partition(f" mounted on {mounted} with ")
    _, _, lines = after.partition("\ndevice ")[0].partition("per-op statistics\n")
    fields = (line.split() for line in lines.splitlines() if ":" in line)
    return Counter({name.rstrip(":"): int(count) for name, count, *_ in fields})


@contextlib.contextmanager
def filled_at(place: Path, folder: Path) -> Iterator[None]:
    """A context manager: a folder of the server's, as the server sees it, at the place where it is mounted later."""
    _run("mount", "--bind", str(folder), str(place))
    try:
        yield
    finally:
        _run("umount", str(place))


@contextlib.contextmanager
def mounted_at(place: Path, name: str) -> Iterator[None]:
    """A context manager: a folder of the export ``shared`` by NFS, with nothing in any cache."""
    _run("mount", "-i", "-t", "nfs4", "-o", os.environ["NFS_OPTIONS"], f"127.0.0.1:/shared/{name}", str(place))
    try:
        yield
    finally:
        _run("umount", str(place))


class MakeMount(Protocol):
    """Mounts an export once more; what is returned is an empty folder on it."""

    def __call__(self, export: Export = "shared", *, version: str = "4.2") -> Path: ...


@pytest.fixture
def nfs_share(request: pytest.FixtureRequest) -> Iterator[Share]:
    """An empty folder of the server, by both mounts."""
    name = f"test{next(_NUMBERS)}"
    share = Share(
        a=Path(os.environ["NFS_A"]) / name,
        b=Path(os.environ["NFS_B"]) / name,
        server=Path(os.environ["NFS_SERVER"]) / name,
    )
    share.a.mkdir()
    yield share
    shutil.rmtree(share.server)


@pytest.fixture
def nfs_mount(tmp_path: Path) -> Iterator[MakeMount]:
    """Mounts of a test's own: of another version of the protocol, or without root's rights."""
    with contextlib.ExitStack() as stack:

        def make(export: Export = "shared", *, version: str = "4.2") -> Path:
            number = next(_NUMBERS)
            place = tmp_path / f"mount{number}"
            place.mkdir()
            options = ",".join([f"vers={version}", *_options_but_version()])
            _run("mount", "-i", "-t", "nfs4", "-o", options, f"127.0.0.1:/{export}", str(place))
            stack.callback(_run, "umount", str(place))
            folder = place / f"test{number}"
            folder.mkdir()
            return folder

        yield make


def _options_but_version() -> list[str]:
    return [option for option in os.environ["NFS_OPTIONS"].split(",") if not option.startswith("vers=")]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}"
