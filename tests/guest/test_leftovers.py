"""An instance whose destruction was killed is finished by a pass over the leftovers; others are left alone."""

import os
import shutil
import time
from pathlib import Path

import pytest

from imgbackend import Engine
from imgbackend.cache.garbage.collect import Leftover
from imgbackend.guest.hypervisor import Hypervisor
from imgbackend.testing.children import Child
from labs.libvirt import Guests


def instances_left(engine: Engine) -> list[Leftover]:
    found = engine.cache.leftovers(remove=True)
    assert (found.faults, found.unknown) == ([], [])
    return [each for each in found.leftovers if each.kind == "instance"]


def kill_in_destroy(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder is renamed, and the domain runs on."""

    def destroy() -> None:
        monkeypatch.setattr(Hypervisor, "force_off", lambda *_: os.kill(os.getpid(), 9))
        with Engine.from_config([], guests.options()) as engine:
            engine.instances.destroy(guests.name())

    assert Child(destroy, watched=False).outcome().killed
    going = guests.instances_path / f"{guests.name()}_del"
    assert going.is_dir()
    return going


def two_hours_pass(folder: Path) -> None:
    then = time.time() - 7200
    os.utime(folder, (then, then))


def test_destruction_that_was_killed_is_finished_when_it_is_old_enough(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests.instances().spawn(guests.spec("other"))
    guests.instances().spawn(guests.spec())
    going, engine = kill_in_destroy(guests, monkeypatch), guests.engine()
    [left] = instances_left(engine)
    assert (left.name, left.dead) == (going.name, False)
    assert left.size > 0
    assert guests.domains() == {"a", "other"}
    two_hours_pass(going)
    [left] = instances_left(engine)
    assert left.removed
    assert guests.domains() == {"other"}
    assert not any(name for name in guests.left() if guests.name() in name), guests.left()
    assert engine.disk(guests.name("other")).exists()
    guests.instances().destroy(guests.name("other"))


def test_instance_that_has_the_name_of_one_that_was_going_keeps_all_it_has(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests.instances().spawn(guests.spec())
    going = guests.instances_path / f"{guests.name()}_del"
    going.mkdir()
    (going / "disks.json").write_text("{}")
    two_hours_pass(going)
    [left] = instances_left(guests.engine())
    assert left.removed
    assert not going.exists()
    assert guests.domains() == {"a"}
    assert guests.engine().disk(guests.name()).exists()
    guests.instances().destroy(guests.name())


def test_folder_that_a_nova_is_removing_is_left_alone(guests: Guests) -> None:
    going = guests.instances_path / f"{guests.name()}_del"
    going.mkdir()
    (going / "disk.info").write_text("{}")
    two_hours_pass(going)
    assert instances_left(guests.engine()) == []
    assert going.is_dir()
    (going / "disk.info").unlink()
    going.rmdir()


def test_instance_whose_folder_was_moved_and_linked_goes_whole(guests: Guests, tmp_path: Path) -> None:
    guests.instances().spawn(guests.spec())
    folder, elsewhere = guests.instances_path / guests.name(), tmp_path / "larger"
    guests.instances().stop(guests.name(), seconds=0)
    shutil.move(folder, elsewhere)
    folder.symlink_to(elsewhere)
    (elsewhere / "more").mkdir()
    guests.instances().destroy(guests.name())
    assert list(elsewhere.iterdir()) == []
    assert not any(name for name in guests.left() if guests.name() in name), guests.left()
