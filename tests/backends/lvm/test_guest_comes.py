"""A guest that starts while its disk is removed, rolled back or exported loses nothing, and nothing is torn."""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Mi
from imgbackend_lvm.lvm2_run import Lvm2Commands
from labs.holders import guest_on
from labs.lvm import Group, lvm
from labs.templates import Template
from labs.volumes import KilledError


class Before:
    """Has something happen just before a command of lvm2's is run, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def __call__(self, tool: str, number: int, happens: Callable[[], object]) -> None:
        real, seen = Lvm2Commands.run, [0]

        def run(self: Lvm2Commands, name: str, *args: str, fine: re.Pattern[str] | None = None) -> str:
            seen[0] += name == tool
            if name == tool and seen[0] == number:
                happens()
            return real(self, name, *args, fine=fine)

        self._patch.setattr(Lvm2Commands, "run", run)


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Before:
    """``before("lvrename", 1, act)``: once, before the first one."""
    return Before(monkeypatch)


@pytest.fixture
def guests() -> Iterator[contextlib.ExitStack]:
    """What is started in a test and ends with it."""
    with contextlib.ExitStack() as stack:
        yield stack


def made(engine: Engine, image: Template) -> Any:
    """A disk."""
    disk: Any = engine.disk("web1")
    disk.cache(image, image.name)
    return disk


def write(path: Path, byte: int, *, at: int = 0) -> None:
    """A guest writes, and is gone."""
    with path.open("r+b", buffering=0) as device:
        device.seek(at)
        device.write(bytes([byte]) * 4096)
        os.fsync(device.fileno())


@pytest.mark.parametrize("place", ["thin", "thick"])
def test_disk_that_a_guest_opens_after_the_look_is_not_removed(
    request: pytest.FixtureRequest,
    lvm_group: Group,
    raw_image: Template,
    place: str,
    before: Before,
    guests: contextlib.ExitStack,
) -> None:
    disk = made(request.getfixturevalue(place), raw_image)
    if place == "thin":
        disk.create_snap("kept")
    volumes = lvm_group.volumes()
    before("lvrename", 1, lambda: guests.enter_context(guest_on(disk.source().path, "raw")))
    with pytest.raises(errors.DiskBusy, match=f"{disk.source().path} is open"):
        disk.remove()
    assert lvm_group.volumes() == volumes
    assert place == "thick" or [snap.name for snap in disk.snaps()] == ["kept"]
    with pytest.raises(errors.DiskBusy, match=f"{disk.source().path} is open"):
        disk.remove()
    guests.close()
    assert disk.source().path.read_bytes() == raw_image.content.read_bytes()
    disk.remove()
    assert not disk.exists()


def test_snapshot_that_is_open_keeps_its_disk(thin: Engine, lvm_group: Group, raw_image: Template) -> None:
    """Somebody reads a copy of the disk from it."""
    disk = made(thin, raw_image)
    disk.create_snap("kept")
    [snapshot] = [name for name in lvm_group.volumes() if name.startswith("web1_disk+")]
    lvm("lvchange", "-ay", "-K", f"{lvm_group.name}/{snapshot}")
    with lvm_group.device(snapshot).open("rb"), pytest.raises(errors.DiskBusy, match=snapshot.replace("+", r"\+")):
        disk.remove()
    assert disk.exists()
    assert [snap.name for snap in disk.snaps()] == ["kept"]


def test_disk_that_a_guest_opens_after_the_look_is_not_rolled_back(
    thin: Engine, lvm_group: Group, raw_image: Template, before: Before, guests: contextlib.ExitStack
) -> None:
    disk = made(thin, raw_image)
    disk.create_snap("kept")
    write(disk.source().path, 0x77)
    volumes = lvm_group.volumes()
    guest: list[Any] = []
    before("lvrename", 1, lambda: guest.append(guests.enter_context(disk.source().path.open("r+b", buffering=0))))
    with pytest.raises(errors.DiskBusy, match=f"{disk.source().path} is open"):
        disk.rollback_to_snap("kept")
    assert lvm_group.volumes() == volumes
    guest[0].write(b"\x78" * 4096)
    guests.close()
    assert disk.source().path.read_bytes()[:4096] == b"\x78" * 4096
    disk.rollback_to_snap("kept")
    assert disk.source().path.read_bytes() == raw_image.content.read_bytes()


def test_guest_that_came_before_a_rollback_was_killed_keeps_what_it_wrote(
    thin: Engine,
    lvm_group: Group,
    raw_image: Template,
    before: Before,
    guests: contextlib.ExitStack,
    stop_at: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have ended when somebody looks again."""
    disk = made(thin, raw_image)
    disk.create_snap("kept")
    guest: list[Any] = []
    stop_at("lvchange", 1)
    before("lvrename", 1, lambda: guest.append(guests.enter_context(disk.source().path.open("r+b", buffering=0))))
    with pytest.raises(KilledError):
        disk.rollback_to_snap("kept")
    monkeypatch.undo()
    guest[0].write(b"\x78" * 4096)
    guests.close()
    assert disk.exists()
    assert disk.source().path.read_bytes()[:4096] == b"\x78" * 4096
    disk.rollback_to_snap("kept")
    assert disk.source().path.read_bytes() == raw_image.content.read_bytes()
    assert not any(name.startswith(".") for name in lvm_group.volumes())


@pytest.mark.parametrize(("tool", "number"), [("lvchange", 1), ("lvrename", 2)])
def test_rollback_that_others_look_at_is_done_or_refused(
    thin: Engine, lvm_group: Group, raw_image: Template, before: Before, tool: str, number: int
) -> None:
    """Who looks between two of its steps takes it for one that was killed, and ends it."""
    disk = made(thin, raw_image)
    disk.create_snap("kept")
    write(disk.source().path, 0x77)
    before(tool, number, thin.disk("web1").exists)
    if tool == "lvchange":
        with pytest.raises(errors.DiskBusy, match="looked at by another process"):
            disk.rollback_to_snap("kept")
        assert disk.source().path.read_bytes()[:4096] == b"\x77" * 4096
    disk.rollback_to_snap("kept")
    assert disk.source().path.read_bytes() == raw_image.content.read_bytes()
    assert not any(name.startswith(".") for name in lvm_group.volumes())


@pytest.mark.parametrize("place", ["thin", "thick"])
@pytest.mark.parametrize("how", ["runs", "ended", "direct", "discards"])
def test_export_that_a_guest_may_have_torn_is_refused(
    request: pytest.FixtureRequest,
    lvm_group: Group,
    raw_image: Template,
    tmp_path: Path,
    place: str,
    how: str,
    guests: contextlib.ExitStack,
) -> None:
    disk = made(request.getfixturevalue(place), raw_image)
    path, came = disk.source().path, list[str]()

    def comes(_phase: str, _done: int, _total: int | None) -> None:
        if came:
            return
        came.append(how)
        if how == "runs":
            guests.enter_context(guest_on(path, "raw"))
        elif how == "ended":
            write(path, 0x78, at=6 * Mi)
        else:
            told = ["discard", "6M", "1M"] if how == "discards" else ["write", "6M", "4k"]
            argv = ["qemu-io", "-f", "raw", "-n", "-d", "unmap", "-c", " ".join(told), str(path)]
            subprocess.run(argv, check=True, capture_output=True, timeout=120)

    with pytest.raises(errors.DiskBusy, match=str(path)):
        disk.extract(tmp_path / "out", "raw", progress=comes)
    assert came == [how]
    assert list(tmp_path.glob("*out*")) == []
    guests.close()
    disk.extract(tmp_path / "out", "raw")
    assert (tmp_path / "out").read_bytes() == path.read_bytes()
