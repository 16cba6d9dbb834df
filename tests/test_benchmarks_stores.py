"""Benchmarks of disks in stores run where their labs do; kept figures stay beside those of other cases."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from benchmarks import report
from benchmarks.measuring import Series, Taken
from benchmarks.results import Case, at_most
from benchmarks.run import keep
from benchmarks.sizes import against_nova, compared
from imgbackend.types import Mi
from labs.benchmarking import run
from labs.require import require

_LABS: Final = {"rbd": "rbd", "rbd-clone": "rbd", "lvm": "lvm", "lvm-thick": "lvm"}
"""The cases that need a lab, and which."""
_FACTS: Final = {"processor": "one", "memory": "1 GiB", "date": "now", "Nova": "34"}


@pytest.mark.slow
@pytest.mark.parametrize("case", _LABS)
def test_disks_in_a_store_are_measured_and_nothing_is_left(case: str, tmp_path: Path) -> None:
    told = _quick(tmp_path, case)
    assert told["name"] == case
    if told["skipped"]:
        require(_LABS[case], told["skipped"])
    assert told["series"]
    for series in told["series"]:
        assert len(series["seconds"]) == series["repeats"] > 1
        assert 0 < series["min_seconds"] <= series["median_seconds"]
    assert list((tmp_path / "at").iterdir()) == []


@pytest.mark.slow
def test_a_pass_on_nfs_is_measured_with_its_calls(tmp_path: Path) -> None:
    told = _quick(tmp_path, "cache-pass-nfs")
    if told["skipped"]:
        require("nfs", told["skipped"])
    assert [series["label"].rpartition(", ")[2] for series in told["series"]] == ["cold caches", "warm caches"]
    [calls] = told["targets"]
    assert 9 <= calls["value"] < 20  # of so few instances what is asked once for all is a part
    assert list((tmp_path / "at").iterdir()) == []


def _quick(folder: Path, case: str) -> dict[str, Any]:
    """What a quick run tells of one case."""
    run("run", "--quick", "--cases", case, "--folder", folder / "at", "--output", folder / "out", limit=900)
    [told] = json.loads((folder / "out" / "results.json").read_text())["cases"]
    return dict(told)


def test_figures_take_the_place_of_older_ones_of_their_case_alone(tmp_path: Path) -> None:
    old = _case("raw", [3.0, 1.0, 2.0])
    report.write(_FACTS, [_case("qcow2", [1.0]), old], tmp_path, tmp_path)
    keep({**_FACTS, "date": "later"}, [_case("rbd", [5.0]), _case("qcow2", [4.0])], tmp_path, tmp_path)
    facts, kept = report.kept(tmp_path)
    assert facts["date"] == "later"
    assert [case.name for case in kept] == ["qcow2", "raw", "rbd"]
    assert [case.series[0].seconds for case in kept] == [[4.0], [3.0, 1.0, 2.0], [5.0]]
    assert report.told(kept[1]) == report.told(old)


def test_page_made_of_kept_figures_is_the_page_of_the_run(tmp_path: Path) -> None:
    report.write(_FACTS, [_case("qcow2", [1.0, 2.0]), _case("raw", [3.0])], tmp_path, tmp_path)
    page = (tmp_path / report.RST_FILE).read_text()
    keep(_FACTS, [_case("raw", [3.0])], tmp_path, tmp_path)
    assert (tmp_path / report.RST_FILE).read_text() == page
    assert "the qcow2** (now, load 0.1)" in page


def test_figures_of_two_machines_are_not_kept_side_by_side(tmp_path: Path) -> None:
    report.write(_FACTS, [_case("raw", [1.0])], tmp_path, tmp_path)
    keep({**_FACTS, "processor": "another"}, [_case("qcow2", [1.0])], tmp_path, tmp_path)
    facts, kept = report.kept(tmp_path)
    assert facts["processor"] == "another"
    assert [case.name for case in kept] == ["qcow2"]


def _case(name: str, seconds: list[float]) -> Case:
    return Case(
        name=name,
        measured="now, load 0.1",
        title=f"the {name}",
        series=[_series(*seconds)],
        targets=[at_most("soon", 1.0, 2.0, "s")],
        notes=["A note."],
    )


def _series(*seconds: float) -> Series:
    return Series("ours", [Taken(seconds=each, cpu=0.5, processes=2) for each in seconds])


def test_largest_is_held_against_the_smallest_and_against_nova() -> None:
    sizes, series = [64 * Mi, 128 * Mi], [_series(1.0), _series(5.0), _series(2.0), _series(30.0)]
    flat, faster = against_nova(series, sizes, 10)
    assert (flat.value, flat.met) == (2.0, False)
    assert (faster.value, faster.met, faster.wanted) == (15.0, True, "128 MiB: 10 times faster than Nova")
    assert compared(series, sizes) == [
        "Nova takes 5, 15 times as long as imgbackend, from the smallest to the largest."
    ]


def test_without_nova_nothing_is_said_of_it() -> None:
    [flat] = against_nova([_series(1.0), _series(1.1)], [64 * Mi, 128 * Mi], 10)
    assert flat.met
    assert compared([_series(1.0)], [64 * Mi]) == []
