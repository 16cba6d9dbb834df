"""The kit and the table of broken drivers fit each other."""

from pathlib import Path

import imgbackend.testing as kit
from imgbackend.testing import BackendConformance
from kit import broken
from kit.faults import FAULTS

assert broken.TOPICS

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


def test_broken_drivers_of_every_module_are_in_the_table() -> None:
    homes = {fault.kind.__module__ for fault in FAULTS.values()} | {
        fault.kind.disk_type.__module__ for fault in FAULTS.values()
    }
    assert {topic.__name__ for topic in broken.TOPICS} <= homes
