"""Sizes and times, as people write and read them; bytes and seconds everywhere else."""

import argparse
from datetime import datetime
from typing import Any

from cliff.columns import FormattableColumn

from imgbackend.sizes import parse_size

_UNITS = "KMGTP"


def size_argument(text: str) -> int:
    """:func:`~imgbackend.sizes.parse_size` for argparse, which then says what is wrong and ends with 2."""
    try:
        return parse_size(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def human_size(size: float) -> str:
    """Such as ``20 GiB``, ``1.5 GiB``, ``512 B``: at most one digit after the point."""
    units = ["B", *(f"{unit}iB" for unit in _UNITS)]
    step = 0
    while round(size, 1) >= 1024 and step < len(units) - 1:
        size /= 1024
        step += 1
    return f"{size:.1f}".removesuffix(".0") + f" {units[step]}"


class Size(FormattableColumn[int]):
    """Bytes: an integer for machines, binary units for people."""

    def human_readable(self) -> str:
        return human_size(self._value)


class Time(FormattableColumn[float]):
    """Seconds since 1970: a number for machines, the local time for people."""

    def human_readable(self) -> str:
        return datetime.fromtimestamp(self._value).astimezone().isoformat(sep=" ", timespec="seconds")


class Facts(FormattableColumn[dict[str, Any]]):
    """Names and values: an object for machines, a line each for people."""

    def human_readable(self) -> str:
        return "\n".join(f"{name}: {_text(value)}" for name, value in self._value.items() if value is not None)

    def machine_readable(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in self._value.items()}


class Several(FormattableColumn[list[dict[str, Any]]]):
    """Several things with the same facts: objects for machines, a line each for people.

    What is true is told there by its name, and what is not, not at all.
    """

    def human_readable(self) -> str:
        return "\n".join(" ".join(self._words(each)) for each in self._value)

    @staticmethod
    def _words(facts: dict[str, Any]) -> list[str]:
        return [
            name if value is True else _text(value)
            for name, value in facts.items()
            if not (value is None or value is False)
        ]

    def machine_readable(self) -> list[dict[str, Any]]:
        return [{name: _plain(value) for name, value in each.items()} for each in self._value]


class Listed(FormattableColumn[list[str]]):
    """Several names: a list for machines, a line each for people."""

    def human_readable(self) -> str:
        return "\n".join(self._value)


def size_or_none(size: int | None) -> Size | None:
    """A cell for a size that may be unknown."""
    return None if size is None else Size(size)


def _text(value: object) -> str:
    if isinstance(value, FormattableColumn):
        return str(value.human_readable())
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)


def _plain(value: Any) -> Any:
    return value.machine_readable() if isinstance(value, FormattableColumn) else value


STRUCTURED = frozenset({"json", "yaml"})
"""The formats that keep numbers, lists, objects and null apart."""


def cell(value: Any, formatter: str) -> Any:
    """``value`` as the output format wants it: units only in tables, structure only where it can be."""
    if value is None and formatter not in STRUCTURED:
        return ""
    if formatter == "table" or not isinstance(value, FormattableColumn):
        return value
    if formatter not in STRUCTURED and isinstance(value, Listed | Facts | Several):
        return value.human_readable().replace("\n", ", ")
    return value.machine_readable()
