"""What killed calls left in a group goes with a pass, and no volume of others, nor one that is whole."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from imgbackend import Engine
from imgbackend.cache.garbage.collect import Leftover
from imgbackend_lvm.lvm2_run import Lvm2Commands
from labs.lvm import Group, lvm
from labs.templates import Template
from labs.volumes import KilledError


def stored(engine: Engine, *, remove: bool = False) -> list[Leftover]:
    """Of the group."""
    found = engine.cache.leftovers(remove=remove)
    assert (found.faults, found.unknown) == ([], [])
    return [each for each in found.leftovers if each.store is not None]


@pytest.mark.parametrize("place", ["thin", "thick"])
def test_volumes_of_killed_calls_go_and_those_of_others_stay(
    request: pytest.FixtureRequest,
    lvm_group: Group,
    raw_image: Template,
    place: str,
    stop_at: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real: Any = Lvm2Commands.run
    engine: Engine = request.getfixturevalue(place)
    engine.disk("kept").cache(raw_image, raw_image.name)
    other = raw_image.but(image_id="other")
    stop_at("lvrename", 1)
    with pytest.raises(KilledError):
        engine.disk("web1").cache(other, other.name)
    monkeypatch.setattr(Lvm2Commands, "run", real)
    lvm("lvcreate", "-y", "-n", ".theirs", "-L", "4m", lvm_group.name)
    before = lvm_group.volumes()
    [left] = stored(engine, remove=True)
    assert (left.kind, left.dead) == ("base" if place == "thin" else "disk", False), "it was made just now"
    assert lvm_group.volumes() == before
    engine.cache.policy = replace(engine.cache.policy, lease=0)
    [left] = stored(engine, remove=True)
    assert left.removed
    assert left.name.removeprefix(f"{lvm_group.name}/") not in lvm_group.volumes()
    assert before - lvm_group.volumes() == {left.name.removeprefix(f"{lvm_group.name}/")}
    assert ".theirs" in lvm_group.volumes()
    assert engine.disk("kept").exists()
    lvm("lvremove", "-y", f"{lvm_group.name}/.theirs")


def test_file_that_tells_when_a_base_was_used_goes_with_a_pass_once_that_is_gone(
    thin: Engine, lvm_group: Group, raw_image: Template
) -> None:
    """An operator removed the volume by hand."""
    disk, other = thin.disk("web1"), raw_image.but(image_id="other")
    disk.cache(raw_image, raw_image.name)
    thin.disk("web2").cache(other, other.name)
    disk.remove()
    folder = thin.host.bases / ".used"
    [lost] = folder.glob(f"*-{raw_image.name}")
    assert stored(thin) == []
    [base] = [name for name in lvm_group.volumes() if raw_image.name in name]
    lvm("lvremove", "-f", "-y", f"{lvm_group.name}/{base}")
    (folder / f"00000000-{raw_image.name}").touch()
    (folder / f"{lost.name.partition('-')[0]}-notes").touch()
    [left] = stored(thin, remove=True)
    assert (left.kind, left.name, left.dead) == ("base", str(lost), False)
    thin.cache.policy = replace(thin.cache.policy, lease=0)
    [left] = stored(thin, remove=True)
    assert left.removed
    assert {path.name.partition("-")[2] for path in folder.iterdir()} == {other.name, raw_image.name, "notes"}
    assert not lost.exists()
    assert thin.disk("web2").exists()


def test_whole_volume_that_no_record_tells_of_is_listed_and_stays(thin: Engine, raw_image: Template) -> None:
    """It may hold a guest's data, whoever lost its record."""
    disk = thin.disk("web1")
    disk.cache(raw_image, raw_image.name)
    thin.host.records.forget(disk.id, durable=False)
    thin.cache.policy = replace(thin.cache.policy, lease=0)
    [left] = stored(thin, remove=True)
    assert (left.kind, left.name, left.dead) == ("disk", "web1/disk", False)
    assert thin.disk("web1").exists()
