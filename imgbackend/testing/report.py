"""What came of a run: told as a table, and as JSON."""

import platform
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from imgbackend.testing import SUITE, TOPICS

Outcome: TypeAlias = Literal["passed", "failed", "deviation", "not applicable"]

OUTCOMES: Final[tuple[Outcome, ...]] = ("passed", "failed", "deviation", "not applicable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Of one test."""

    topic: str
    name: str
    outcome: Outcome
    reason: str
    """Why, unless it passed: one line."""
    seconds: float


@dataclass(slots=True, kw_only=True)
class Report:
    """Of all tests."""

    backend: str
    driver: str
    package: str
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What else there is to say: the run was interrupted, a disk could not be cleared."""
    seconds: float = 0.0

    @property
    def counts(self) -> "Counter[str]":
        """How many tests had each outcome."""
        return Counter(result.outcome for result in self.results)

    @property
    def ran(self) -> int:
        """How many tests said anything of the driver."""
        return len(self.results) - self.counts["not applicable"]

    @property
    def good(self) -> bool:
        """Nothing failed, and something ran."""
        return self.ran > 0 and not self.counts["failed"] and not self.notes

    @property
    def last_line(self) -> str:
        """What scripts look at."""
        counts = self.counts
        return (
            f"{counts['passed']} passed, {counts['failed']} failed, "
            f"{counts['deviation']} deviations, {counts['not applicable']} not applicable"
        )

    def lines(self) -> Iterator[str]:
        """The table, what did not pass and why, and the last line."""
        yield f"suite {SUITE}, backend {self.backend}, driver {self.driver} of {self.package}, {self.seconds:.0f} s"
        yield ""
        yield f"{'topic':<14}{'passed':>8}{'failed':>8}{'deviation':>11}{'not applicable':>16}"
        for topic in [topic for topic in TOPICS if any(result.topic == topic for result in self.results)]:
            counts = Counter(result.outcome for result in self.results if result.topic == topic)
            numbers = [counts[outcome] for outcome in OUTCOMES]
            yield f"{topic:<14}{numbers[0]:>8}{numbers[1]:>8}{numbers[2]:>11}{numbers[3]:>16}"
        for outcome in OUTCOMES[1:]:
            yield from self._told(outcome)
        yield ""
        if not self.ran:
            yield "nothing ran, and so nothing is known of this backend"
        yield from self.notes
        yield self.last_line

    def _told(self, outcome: Outcome) -> Iterator[str]:
        """By reason, since many tests do not apply for the same one."""
        found: dict[str, list[str]] = {}
        for result in self.results:
            if result.outcome == outcome:
                found.setdefault(result.reason, []).append(result.name)
        if found:
            yield ""
            yield f"{outcome}:"
        for reason, names in found.items():
            yield from textwrap.wrap(
                f"{reason}: {', '.join(names)}", 110, initial_indent="  ", subsequent_indent="      "
            )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "suite": SUITE,
            "backend": self.backend,
            "driver": self.driver,
            "package": self.package,
            "python": platform.python_version(),
            "seconds": round(self.seconds, 3),
            "counts": {outcome: self.counts[outcome] for outcome in OUTCOMES},
            "good": self.good,
            "notes": self.notes,
            "tests": [asdict(result) for result in self.results],
        }
