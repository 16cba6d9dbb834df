"""The figures as JSON, as reStructuredText for the documentation, and as lines for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Series, Taken
from benchmarks.results import Case, Target

JSON_FILE = "results.json"
RST_FILE = "benchmarks.inc"
_OF_ONE_RUN: Final = frozenset({"load when it began", "date", "command"})
"""Facts of the last run; the page has cases of several, and tells them of each."""


def write(facts: Mapping[str, str], cases: Sequence[Case], json_folder: Path, rst_folder: Path) -> None:
    """Both files, the old ones replaced."""
    all_told = {"machine": dict(facts), "cases": [told(case) for case in cases]}
    (json_folder / JSON_FILE).write_text(json.dumps(all_told, indent=1) + "\n")
    (rst_folder / RST_FILE).write_text("\n".join(_page(facts, cases)) + "\n")


def kept(json_folder: Path) -> tuple[dict[str, str], list[Case]]:
    """What :func:`write` wrote: the facts, and the cases."""
    found = json.loads((json_folder / JSON_FILE).read_text())
    return found["machine"], [read(case) for case in found["cases"]]


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


def told(case: Case) -> dict[str, Any]:
    """A case in JSON."""
    return {
        "name": case.name,
        "measured": case.measured,
        "title": case.title,
        "skipped": case.skipped or None,
        "series": [_series(series) for series in case.series],
        "targets": [_target(target) for target in case.targets],
        "notes": list(case.notes),
    }


def read(told: Mapping[str, Any]) -> Case:
    """What :func:`told` gave; of the CPU of a series its median alone is kept."""
    return Case(
        name=told["name"],
        measured=told["measured"],
        title=told["title"],
        series=[_read_series(each) for each in told["series"]],
        targets=[Target(**each) for each in told["targets"]],
        skipped=told["skipped"] or "",
        notes=told["notes"],
    )


def _read_series(told: Mapping[str, Any]) -> Series:
    cpu, processes = told["cpu_median_seconds"], told["processes"]
    taken = [Taken(seconds=seconds, cpu=cpu, processes=processes) for seconds in told["seconds"]]
    return Series(told["label"], taken)


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
        if name not in _OF_ONE_RUN:
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
            when = f" ({case.measured})" if case.measured else ""
            yield [f"**{case.title}**{when}", "", "", "", "", ""]
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
