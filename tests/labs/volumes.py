"""Engines whose disks are logical volumes, and what they run; inside the lab alone."""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from imgbackend import Engine
from imgbackend_lvm.lvm2_run import Lvm2Commands
from labs.engines import MakeEngine
from labs.lvm import Group

CHANGING: Final = frozenset({"lvcreate", "lvextend", "lvchange", "lvrename", "lvremove"})


def options(group: Group, section: str = "lvm", **own: Any) -> dict[str, Any]:
    """An engine's options for a group, and for its pool where it has one."""
    told = {"volume_group": group.name, "thin_pool": group.pool or "", **own}
    return {f"{section}.driver": "lvm", **{f"{section}.{key}": value for key, value in told.items()}}


def emptied(engine: Engine, section: str = "lvm") -> None:
    """Remove all disks and bases of a backend, other folders' too."""
    backend: Any = engine.backend(section)
    for disk_id in list(backend.list_disks()):
        disk = backend.disk(disk_id)
        with disk.locked(changing=False):
            disk.remove_image()
        engine.host.records.forget(disk_id, durable=False)
    for base in list(backend.list_bases()) if hasattr(backend, "list_bases") else ():
        backend.remove_base(base.name)


@pytest.fixture
def thin(lvm_group: Group, make_engine: MakeEngine) -> Iterator[Engine]:
    """An engine on the lab's pool; its disks and bases go with it."""
    engine = make_engine({"images_type": "lvm", **options(lvm_group)})
    yield engine
    emptied(engine)


@pytest.fixture
def thick(lvm_group: Group, make_engine: MakeEngine) -> Iterator[Engine]:
    """An engine on the lab's group, without the pool; its disks go with it."""
    engine = make_engine({"images_type": "lvm", **options(lvm_group, thin_pool="")})
    yield engine
    emptied(engine)


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that change something, as they are run."""
    told: list[str] = []
    real = Lvm2Commands.run

    def run(self: Lvm2Commands, tool: str, *args: str, fine: re.Pattern[str] | None = None) -> str:
        if tool in CHANGING:
            told.append(tool)
        return real(self, tool, *args, fine=fine)

    monkeypatch.setattr(Lvm2Commands, "run", run)
    return told


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that report something, as they are run."""
    told: list[str] = []
    real = Lvm2Commands.run

    def run(self: Lvm2Commands, tool: str, *args: str, fine: re.Pattern[str] | None = None) -> str:
        if tool in {"lvs", "vgs"}:
            told.append(tool)
        return real(self, tool, *args, fine=fine)

    monkeypatch.setattr(Lvm2Commands, "run", run)
    return told


class KilledError(BaseException):
    """Stands for a kill: nothing that comes after it is done, and nothing is undone."""


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """``stop_at("lvrename", 2)``: from the second one on no command is run, as if the process had been killed."""

    def arm(tool: str, number: int = 1) -> None:
        real, seen = Lvm2Commands.run, [0]

        def run(self: Lvm2Commands, name: str, *args: str, fine: re.Pattern[str] | None = None) -> str:
            seen[0] += name == tool
            if seen[0] >= number:
                raise KilledError(name)
            return real(self, name, *args, fine=fine)

        monkeypatch.setattr(Lvm2Commands, "run", run)

    return arm
