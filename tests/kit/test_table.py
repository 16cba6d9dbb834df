"""The kit and the table of broken drivers fit each other."""

from pathlib import Path
from typing import Final

import imgbackend.testing as kit
from imgbackend.testing import BackendConformance
from kit import broken
from kit.faults import FAULTS

assert broken.TOPICS

_CATCHES_NOBODY: Final = {
    "test_creation_that_fails_keeps_what_another_host_made_meanwhile": "the engine undoes nothing without a record",
    "test_declared_image_that_is_too_large_is_not_fetched": "the engine refuses it before it asks the driver",
    "test_disk_without_an_engine_is_told": "it is a final method that does",
    "test_extract_overwrites_nothing": "the driver is never told of the target's name",
    "test_flattening_keeps_the_mark": "no driver here both flattens and marks: it is tried on rbd",
    "test_full_store_is_told": "it needs a small store, and is tried on one: see tests/conformance/test_rules.py",
    "test_names_that_are_not_safe_are_none": "they are refused before there is a disk to ask",
    "test_resize_to_the_same_size_changes_nothing": "no hook is called but find",
    "test_rollback_keeps_the_mark": "no driver here both has snapshots and marks: it is tried on lvm and rbd",
    "test_sizes_that_are_none_are_refused": "the engine refuses them before it asks the driver",
    "test_wrong_name_of_a_base_is_refused": "the engine refuses it before it asks the driver",
}
"""Tests of what the engine does, whatever the driver is; they hold the engine to it on every store."""

_HOME = Path(kit.__file__).parent


def test_every_topic_is_demanded_and_tells_its_values() -> None:
    """A module that TOPICS forgets is not rewritten; a class that is not a base is never run."""
    modules = {path.stem.removeprefix("_") for path in _HOME.glob("_[a-z]*.py")}
    assert modules == set(kit.TOPICS)
    demanded = {each.__module__.rpartition("._")[2] for each in BackendConformance.__mro__}
    assert modules <= demanded


def test_table_names_tests_of_the_kit() -> None:
    named = {test for fault in FAULTS.values() for test in fault.caught}
    assert named <= set(dir(BackendConformance))


def test_every_test_of_the_kit_has_a_driver_that_it_catches() -> None:
    """What catches nobody may be blind; those of which a driver cannot be the cause are named, with the reason."""
    tests = {name for name in dir(BackendConformance) if name.startswith("test_")}
    catching = {test for fault in FAULTS.values() for test in fault.caught}
    assert tests - catching == set(_CATCHES_NOBODY)


def test_broken_drivers_of_every_module_are_in_the_table() -> None:
    homes = {fault.kind.__module__ for fault in FAULTS.values()} | {
        fault.kind.disk_type.__module__ for fault in FAULTS.values()
    }
    assert {topic.__name__ for topic in broken.TOPICS} <= homes
