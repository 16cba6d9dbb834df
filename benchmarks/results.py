"""What was measured, and what was wanted."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.measuring import Series


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One sentence of what is wanted, with what came out."""

    wanted: str
    value: float
    unit: str
    """``ms``, ``s``, ``x``, ``/s`` or empty."""
    met: bool

    @property
    def shown(self) -> str:
        """The value as people read it."""
        return f"{self.value:.3g} {self.unit}".strip() if self.value < 100 else f"{self.value:.0f} {self.unit}".strip()


def at_most(wanted: str, value: float, limit: float, unit: str = "") -> Target:
    """Met if ``value`` is not above ``limit``; both in ``unit``."""
    return Target(wanted=wanted, value=value, unit=unit, met=value <= limit)


def at_least(wanted: str, value: float, limit: float, unit: str = "") -> Target:
    """Met if ``value`` is not below ``limit``; both in ``unit``."""
    return Target(wanted=wanted, value=value, unit=unit, met=value >= limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the table of what is wanted."""

    name: str = ""
    """Which it is; its figures take the place of those that it had."""
    measured: str = ""
    """When, and what else the machine had to do."""
    title: str
    series: Sequence[Series] = ()
    targets: Sequence[Target] = ()
    skipped: str = ""
    """Why it was not measured."""
    notes: Sequence[str] = field(default_factory=tuple)


class Skipped(Exception):
    """This machine does not let us measure that; the message says why."""
