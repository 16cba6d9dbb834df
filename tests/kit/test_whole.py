"""The whole of the kit on a few broken drivers: one fault is one failure, and nothing is everything."""

from pathlib import Path
from typing import Final

import pytest

from kit import broken
from kit.runs import Result, run

pytestmark = pytest.mark.slow

assert broken.TOPICS

_PATIENCE: Final = 8.0
_SAMPLE: Final = 4
"""Of the points of a matrix: that a fault is told by no other test is seen at any of them."""

_NEED_NO_DISK: Final = frozenset(
    {
        "test_abilities_are_declared_by_their_classes",
        "test_abilities_are_on_the_right_class",
        "test_absent_disk_cannot_be_changed",
        "test_bases_that_are_private_stay_so",
        "test_capacity_is_plausible",
        "test_disk_keeps_its_name",
        "test_disk_without_an_engine_is_told",
        "test_errors_have_one_line",
        "test_final_methods_are_the_engines",
        "test_making_objects_does_no_io",
        "test_names_that_are_not_safe_are_none",
        "test_options_have_defaults_or_are_required",
        "test_sizes_that_are_none_are_refused",
        "test_source_does_no_io",
        "test_traits_are_plausible",
    }
)
"""What a driver that makes no disks may pass: it is of names, classes, and of what the engine refuses."""


def _failed(results: list[Result]) -> set[str]:
    return {result.test for result in results if result.outcome == "failed"}


def test_driver_that_does_nothing_passes_nothing(tmp_path: Path) -> None:
    results = run(tmp_path / "run", "DoesNothing", patience=_PATIENCE, sample=_SAMPLE)
    passed = {result.test for result in results if result.phase == "call" and result.outcome == "passed"}
    assert passed - _failed(results) <= _NEED_NO_DISK
    assert {result.phase for result in results if result.outcome == "failed"} == {"call"}
    assert len(_failed(results)) > 100


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ListsTwice", {"test_list_does_not_repeat"}),
        ("ReadableByAll", {"test_disk_is_nobody_elses_to_read", "test_bases_that_are_private_stay_so"}),
    ],
)
def test_one_fault_is_told_by_its_tests_alone(name: str, wanted: set[str], tmp_path: Path) -> None:
    assert _failed(run(tmp_path / "run", name, patience=_PATIENCE, sample=_SAMPLE)) == wanted
