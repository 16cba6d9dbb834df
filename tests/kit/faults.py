"""The table of drivers that are broken on purpose, and how each is tried.

Every entry is a driver that conforms, with one fault that an author could make; its
docstring says why one would.  With it stand the tests of the kit that have to catch it,
and what they have to say: a test that fails for another reason caught nothing.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from imgbackend.driver.contract import Backend, Disk
from imgbackend.testing import MemoryBackend, conforming
from imgbackend.testing.memory import MemoryDisk
from imgbackend.testing.trial import Trial
from imgbackend.types import Location
from imgbackend_qcow2 import Qcow2Backend
from imgbackend_qcow2.driver import Qcow2Disk
from imgbackend_raw import RawBackend
from imgbackend_raw.driver import RawDisk
from kit.sound import CommandBackend, CommandDisk, SnapBackend, SnapDisk
from labs import away
from labs.able import SCHEME, AbleBackend, AbleDisk

Driver = TypeVar("Driver", bound=type)

SOUND: Final[dict[str, type[Backend]]] = {
    kind.__name__: kind for kind in (SnapBackend, CommandBackend, AbleBackend, MemoryBackend, RawBackend, Qcow2Backend)
}
"""The drivers that broken ones are made of; of two, one of which is made of the other, that one first."""
_BACKENDS: Final[dict[type[Disk[Any]], type[Backend]]] = {
    SnapDisk: SnapBackend,
    CommandDisk: CommandBackend,
    AbleDisk: AbleBackend,
    MemoryDisk: MemoryBackend,
    RawDisk: RawBackend,
    Qcow2Disk: Qcow2Backend,
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One broken driver."""

    kind: type[Backend]
    sound: str
    """The driver that it was, before it was broken; a key of :data:`SOUND`."""
    caught: Mapping[str, str]
    """The tests that have to fail, each with a part of the assertion that has to, or of its message."""


FAULTS: Final[dict[str, Fault]] = {}


def caught(by: Mapping[str, str]) -> Callable[[Driver], Driver]:
    """Put a disk or a backend with a fault into the table."""

    def enter(driver: Driver) -> Driver:
        kind = driver if issubclass(driver, Backend) else _backend_of(driver)
        (sound, *_) = [name for name, each in SOUND.items() if issubclass(kind, each)]
        assert driver.__name__ not in FAULTS, f"two faults are called {driver.__name__}"
        assert driver.__doc__, f"{driver.__name__} does not say why an author would do that"
        FAULTS[driver.__name__] = Fault(kind=kind, sound=sound, caught=by)
        return driver

    return enter


def _backend_of(disk: type) -> type[Backend]:
    (sound, *_) = [backend for kind, backend in _BACKENDS.items() if issubclass(disk, kind)]
    return type(f"{disk.__name__}Backend", (sound,), {"disk_type": disk})


@contextlib.contextmanager
def tried(name: str, folder: Path) -> Iterator[Backend]:
    """What the fixture ``backend`` gives: a broken driver, or a sound one, by its name."""
    kind = FAULTS[name].kind if name in FAULTS else SOUND[name]
    own = {"folder": str(folder / "memory")} if issubclass(kind, MemoryBackend) else {}
    with conforming(kind, folder, own) as backend:
        yield backend


def without_store(trial: Trial) -> contextlib.AbstractContextManager[None] | None:
    """What the method ``without_store`` gives: the folder of a store that has one is away."""
    return away.renamed(trial.backend.folder) if isinstance(trial.backend, MemoryBackend) else None


def other_store(trial: Trial) -> contextlib.AbstractContextManager[Backend] | None:
    """What the method ``other_store`` gives: another folder, for a store that has one."""
    kind, folder = type(trial.backend), trial.backend.host.instances.parent
    own = {"folder": str(folder / "another")}
    return conforming(kind, folder, own) if isinstance(trial.backend, MemoryBackend) else None


def location(trial: Trial) -> Location:
    """What the fixture ``location`` gives: the usual image, where a sound driver clones it from."""
    return Location(url=f"{SCHEME}{trial.image().content}")
