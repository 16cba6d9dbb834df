"""Each driver that is broken on purpose is caught, by the test that should, for the reason that it should."""

from pathlib import Path

import pytest

from imgbackend import errors
from kit import broken
from kit.faults import FAULTS, SOUND
from kit.runs import Result, run

assert broken.TOPICS

pytestmark = pytest.mark.slow

_BY_ASSERTION = {"AssertionError", "OracleError", "Failed", *(name for name in vars(errors) if name[0].isupper())}
"""An assertion of the kit or of its oracle, ``pytest.raises``, or an error of the engine, which refuses by itself."""


_PATIENCE = 8.0
"""Seconds: a driver that makes others wait for ever is caught when they lose patience."""


def _needed(driver: str) -> list[str]:
    return sorted({test for fault in FAULTS.values() if fault.sound == driver for test in fault.caught})


def _failures(results: list[Result]) -> dict[str, Result]:
    return {result.test: result for result in results if result.outcome == "failed"}


@pytest.mark.parametrize("driver", sorted(SOUND))
def test_sound_driver_passes_what_catches_the_broken_ones(driver: str, tmp_path: Path) -> None:
    results = run(tmp_path / "run", driver, _needed(driver))
    passed = {result.test for result in results if result.phase == "call" and result.outcome == "passed"}
    assert _failures(results) == {}
    assert sorted(passed) == _needed(driver)


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_broken_driver_is_caught(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    results = run(tmp_path / "run", name, sorted(fault.caught), _PATIENCE)
    assert {result.test for result in results} == set(fault.caught)
    failures = _failures(results)
    for test, says in fault.caught.items():
        assert test in failures, f"{test} does not see that {name} is broken"
        failure = failures[test]
        told = f"{failure.statement}: {failure.message}"
        assert failure.phase == "call", f"{test} did not come to its assertion: {told}"
        assert failure.kind in _BY_ASSERTION, f"{test} ends with {failure.kind}: {told}"
        assert says in told, f"{test} fails for another reason: {failure.kind}: {told}"
