"""The marker of a folder: what is not what imgbackend writes is refused, and never made anew over it."""

import json
import os
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.state import folder_marker
from imgbackend.system.locks import Locks

GOOD = {"version": 1, "format": 2, "id": "0" * 32}

BROKEN: list[object] = [
    "",
    "{",
    "[" * 100_000,
    [],
    {},
    *[{key: value for key, value in GOOD.items() if key != gone} for gone in GOOD],
    *[GOOD | {"id": folder} for folder in (5, None, "", "x" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", ["0" * 32])],
]


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content)[:40])
def test_marker_that_is_broken_is_named_and_left_as_it_is(instances: Path, content: object) -> None:
    path = instances / folder_marker.NAME
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    before = path.read_bytes()
    with pytest.raises(errors.ConfigError, match=r"\.imgbackend\.json is broken .*restore it from a backup"):
        folder_marker.make(instances, Locks(instances / "locks"), durable=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize("newer", [{"version": 2}, {"version": 0}, {"format": 3}, {"format": None}, {"format": -1}])
def test_marker_of_another_version_is_refused(instances: Path, newer: dict[str, object]) -> None:
    (instances / folder_marker.NAME).write_text(json.dumps(GOOD | newer))
    with pytest.raises(errors.ConfigError, match="use a newer one"):
        folder_marker.read(instances)


def test_marker_that_is_a_link_to_nothing_is_not_taken_for_none(instances: Path) -> None:
    path = instances / folder_marker.NAME
    path.symlink_to(instances / "not mounted")
    with pytest.raises(errors.ConfigError, match="mount what it leads to"):
        folder_marker.make(instances, Locks(instances / "locks"), durable=False)
    assert path.is_symlink()


def test_marker_that_is_a_pipe_is_not_waited_for(instances: Path) -> None:
    os.mkfifo(instances / folder_marker.NAME)
    with pytest.raises(errors.ConfigError, match="is broken"):
        folder_marker.read(instances)


def test_marker_that_cannot_be_read_is_an_error_that_names_it(instances: Path) -> None:
    (instances / folder_marker.NAME).mkdir()
    with pytest.raises(errors.Error, match=folder_marker.NAME):
        folder_marker.read(instances)
