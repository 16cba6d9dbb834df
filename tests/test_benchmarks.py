"""The benchmarks run, and tell what was measured in the form that the documentation shows."""

import json
from pathlib import Path

import pytest

from labs.benchmarking import run
from labs.require import require


@pytest.mark.slow
def test_quick_benchmarks_tell_of_every_case_as_json_and_as_a_page(tmp_path: Path) -> None:
    done = run("run", "--quick", "--folder", tmp_path / "at", "--output", tmp_path / "out")
    assert done.stderr == ""
    assert list((tmp_path / "at").iterdir()) == []
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"processor", "kernel", "file system", "Python", "qemu-img", "Nova", "date", "command"} <= set(
        told["machine"]
    )
    assert len(told["cases"]) == 6
    page = (tmp_path / "out" / "benchmarks.inc").read_text()
    for case in told["cases"]:
        assert case["skipped"] is None
        assert case["title"] in page
        assert case["targets"]
        for series in case["series"]:
            assert series["label"] in page
            assert 0 < series["min_seconds"] <= series["median_seconds"]
            assert len(series["seconds"]) == series["repeats"] > 1


@pytest.mark.slow
def test_a_further_disk_starts_no_process(tmp_path: Path) -> None:
    run("run", "--quick", "--cases", "qcow2", "raw", "--folder", tmp_path / "at", "--output", tmp_path)
    cases = json.loads((tmp_path / "results.json").read_text())["cases"]
    for case in cases:
        counted = [target for target in case["targets"] if target["wanted"] == "no process is started"]
        assert [target["value"] for target in counted] == [0]
        assert counted[0]["met"]
        assert any(series["processes"] for series in case["series"]) == ("raw" in case["title"])  # cp is one


@pytest.mark.slow
def test_a_spawn_is_measured_beside_libvirt_alone(tmp_path: Path) -> None:
    run("run", "--quick", "--cases", "spawn", "boot", "--folder", tmp_path / "at", "--output", tmp_path)
    cases = json.loads((tmp_path / "results.json").read_text())["cases"]
    for case in cases:
        if case["skipped"] is not None:
            require("libvirt", case["skipped"])
        ours, bare = case["series"]
        assert min(*ours["seconds"], *bare["seconds"]) > 0
        assert len(case["targets"]) == 1
    assert list((tmp_path / "at").iterdir()) == []


@pytest.mark.slow
def test_pass_over_a_made_up_host_starts_no_process_and_finds_what_is_idle(tmp_path: Path) -> None:
    done = run("populous", "--instances", "7", "--bases", "10", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["dry_run"] for each in told] == [True, True, True, False]
    assert {(each["bases"], each["going"], each["processes"]) for each in told} == {(10, 1, 0)}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_passes_and_verifications_are_cases_of_the_benchmarks(tmp_path: Path) -> None:
    words = ("--quick", "--cases", "cache-pass", "cache-verify", "--folder", tmp_path / "at", "--output", tmp_path)
    run("run", *words)
    passes, verifications = json.loads((tmp_path / "results.json").read_text())["cases"]
    assert [series["processes"] for series in passes["series"]] == [0, 0, 0, 1]
    assert [target["wanted"].split(": ")[0] for target in passes["targets"]][:2] == ["10 instances"] * 2
    assert [series["label"].split(",")[0] for series in verifications["series"]] == [
        *("imgbackend cache verify", "sha256sum", "imgbackend cache verify", "sha256sum")
    ]
    assert list((tmp_path / "at").iterdir()) == []
