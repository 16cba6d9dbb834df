"""Volume groups for tests, on the real LVM of a lab; ``lvm-lab.sh`` in this folder starts it.

Tests that ask for one of these fixtures run inside the lab alone, where ``LVM_LAB`` is set;
``tests/test_lvm_lab.py`` has them run there.
"""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import pytest

from imgbackend.types import Mi
from labs import leaks
from labs.quick import start_quickly as start_quickly

INSIDE: Final = os.environ.get("LVM_LAB") == "1"
"""Whether this process runs in the lab."""

FIXTURES: Final = frozenset({"lvm_group", "lvm_make_group"})

_SECONDS: Final = 180
_NUMBERS: Final = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Group:
    """A volume group."""

    name: str
    pool: str | None
    """Its thin pool."""

    def volumes(self) -> set[str]:
        """The names of its volumes, the pool's own not among them."""
        return set(lvm("lvs", "--noheadings", "-o", "lv_name", self.name).split()) - {self.pool}

    def device(self, volume: str) -> Path:
        """Where a volume that is active is read and written."""
        return Path("/dev") / self.name / volume

    def field(self, volume: str, field: str) -> str:
        """One field of lvs(8), without units: ``group.field("disk", "data_percent")``."""
        return lvm("lvs", "--noheadings", "--nosuffix", "--units", "b", "-o", field, f"{self.name}/{volume}").strip()

    def left(self) -> list[str]:
        """Everything in it but the pool, in words: volumes, and devices that no volume has."""
        volumes = self.volumes()
        known = {_mapped(self.name, volume) for volume in volumes}
        if self.pool:
            known |= {_mapped(self.name, self.pool) + part for part in ("", "-tpool", "_tdata", "_tmeta")}
        stray = {name for name in _devices() - known if name.startswith(_mapped(self.name, ""))}
        return [*(f"volume {name}" for name in sorted(volumes)), *(f"device {name}" for name in sorted(stray))]

    def clear(self) -> None:
        """Remove every volume but the pool."""
        while volumes := self.volumes():
            lvm("lvremove", "-f", "-y", f"{self.name}/{min(volumes)}")


class MakeGroup(Protocol):
    """Makes volume groups of their own on loop devices; they are taken away after the test."""

    def __call__(
        self,
        size: int,
        *,
        pool_size: int | None = None,
        metadata_size: int | None = None,
        zeroing: bool = True,
        dirty: bytes | None = None,
    ) -> Group:
        """A group of ``size`` bytes, at most one extent (4 MiB) of it its own.

        ``pool_size``: of a thin pool, if there is to be one, with ``metadata_size`` and, as LVM
        has it, zeroing; ``dirty`` is what was on the device before, again and again.
        """


@pytest.fixture
def lvm_group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """The lab's own group, with its thin pool; a test that leaves anything in it fails."""
    group = Group(name=os.environ["LVM_LAB_VG"], pool=os.environ["LVM_LAB_POOL"] or None)
    yield group
    left = group.left()
    if left:
        group.clear()
    if left and not request.node.stash.get(leaks.FAILED, False):
        pytest.fail(f"the test left in {group.name}: " + ", ".join(left), pytrace=False)


@pytest.fixture
def lvm_make_group(tmp_path: Path) -> Iterator[MakeGroup]:
    """Groups of a test's own: small, full, dirty, without zeroing."""
    with contextlib.ExitStack() as stack:

        def make(
            size: int,
            *,
            pool_size: int | None = None,
            metadata_size: int | None = None,
            zeroing: bool = True,
            dirty: bytes | None = None,
        ) -> Group:
            name = f"test{next(_NUMBERS)}"
            device = stack.enter_context(_loop(tmp_path / f"{name}.img", size, dirty))
            pool = None if pool_size is None else "pool"
            group = stack.enter_context(_made(Group(name=name, pool=pool), device))
            if pool_size is not None:
                sizes = ["-L", f"{pool_size}b"]
                if metadata_size is not None:
                    sizes += ["--poolmetadatasize", f"{metadata_size}b"]
                zero = "y" if zeroing else "n"
                lvm("lvcreate", "-q", "-y", "--type", "thin-pool", *sizes, "-Z", zero, "-n", "pool", name)
            return group

        yield make


@contextlib.contextmanager
def _loop(image: Path, size: int, dirty: bytes | None) -> Iterator[str]:
    with image.open("xb") as file:
        file.truncate(size)
        if dirty is not None:
            block = (dirty * (Mi // len(dirty) + 1))[:Mi]
            for at in range(0, size, Mi):
                file.write(block[: size - at])
    device = lvm("losetup", "--find", "--show", str(image)).strip()
    try:
        yield device
    finally:
        lvm("losetup", "-d", device)
        image.unlink()


@contextlib.contextmanager
def _made(group: Group, device: str) -> Iterator[Group]:
    lvm("vgcreate", "-q", "-y", "--dataalignment", "1m", group.name, device)
    try:
        yield group
    finally:
        lvm("vgremove", "-q", "-f", "-y", group.name)


def _mapped(group: str, volume: str) -> str:
    """The name that device-mapper knows a volume by."""
    return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"


def _devices() -> set[str]:
    """The names of all that device-mapper has."""
    return {file.read_text().strip() for file in Path("/sys/block").glob("dm-*/dm/name")}


def lvm(*command: str) -> str:
    """What a command prints; it has to succeed."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "LVM_SUPPRESS_FD_WARNINGS": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        env=environment,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}"
    return done.stdout
