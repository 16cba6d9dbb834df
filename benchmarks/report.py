"""The figures as JSON, as reStructuredText for the documentation, and as lines for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import Series
from benchmarks.results import Case, Target

JSON_FILE = "results.json"
RST_FILE = "benchmarks.inc"


def write(facts: Mapping[str, str], cases: Sequence[Case], json_folder: Path, rst_folder: Path) -> None:
    """Both files, the old ones replaced."""
    told = {"machine": dict(facts), "cases": [_case(case) for case in cases]}
    (json_folder / JSON_FILE).write_text(json.dumps(told, indent=1) + "\n")
    (rst_folder / RST_FILE).write_text("\n".join(_page(facts, cases)) + "\n")


def lines(case: Case) -> Iterator[str]:
    """A case as it is printed while the others still run."""
    yield case.title
    if case.skipped:
        yield f"  not measured: {case.skipped}"
    for series in case.series:
        yield f"  {series.label:<58} " + "  ".join(f"{name} {value}" for name, value in _figures(series).items())
    for target in case.targets:
        yield f"  {'met' if target.met else 'MISSED':<6} {target.wanted}: {target.shown}"
    for note in case.notes:
        yield f"  {note}"


def _case(case: Case) -> dict[str, Any]:
    return {
        "title": case.title,
        "skipped": case.skipped or None,
        "series": [_series(series) for series in case.series],
        "targets": [_target(target) for target in case.targets],
        "notes": list(case.notes),
    }


def _series(series: Series) -> dict[str, Any]:
    return {
        "label": series.label,
        "repeats": len(series.taken),
        "median_seconds": series.median,
        "min_seconds": series.best,
        "cpu_median_seconds": series.cpu,
        "processes": series.processes,
        "seconds": series.seconds,
    }


def _target(target: Target) -> dict[str, Any]:
    return {"wanted": target.wanted, "value": target.value, "unit": target.unit, "met": target.met}


def _figures(series: Series) -> dict[str, str]:
    return {
        "median": _time(series.median),
        "min": _time(series.best),
        "CPU": "" if series.cpu is None else _time(series.cpu),
        "processes": "" if series.processes is None else str(series.processes),
        "repeats": str(len(series.taken)),
    }


def _time(seconds: float) -> str:
    return (
        f"{seconds * 1e3:.2f} ms"
        if seconds < 0.01
        else f"{seconds * 1e3:.0f} ms"
        if seconds < 1
        else f"{seconds:.2f} s"
    )


def _page(facts: Mapping[str, str], cases: Sequence[Case]) -> Iterator[str]:
    for name, value in facts.items():
        yield f":{name}: {value}"
    yield ""
    yield from _table(["case", "wanted", "measured", ""], [28, 42, 18, 12], _wanted(cases))
    yield "All figures.  *CPU* is that of the process and of those that it started; median and CPU are of one call."
    yield ""
    yield from _table(
        ["case", "median", "min", "CPU", "processes", "repeats"], [45, 13, 13, 13, 8, 8], _all_series(cases)
    )
    yield from _notes(cases)


def _wanted(cases: Sequence[Case]) -> Iterator[list[str]]:
    for case in cases:
        if case.skipped:
            yield [case.title, "", f"not measured: {case.skipped}", ""]
        for number, target in enumerate(case.targets):
            yield ["" if number else case.title, target.wanted, target.shown, "met" if target.met else "**missed**"]


def _all_series(cases: Sequence[Case]) -> Iterator[list[str]]:
    for case in cases:
        if case.series:
            yield [f"**{case.title}**", "", "", "", "", ""]
        for series in case.series:
            yield [series.label, *_figures(series).values()]


def _notes(cases: Sequence[Case]) -> Iterator[str]:
    for case in cases:
        for note in case.notes:
            yield f"* {case.title}: {note}"


def _table(head: Sequence[str], widths: Sequence[int], rows: Iterator[list[str]]) -> Iterator[str]:
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield f"   :widths: {' '.join(str(width) for width in widths)}"
    yield ""
    for row in [list(head), *rows]:
        for number, cell in enumerate(row):
            yield f"   {' ' if number else '*'} - {cell}".rstrip()
    yield ""
