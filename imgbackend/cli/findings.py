"""What a check of ``imgbackend doctor`` finds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Verdict: TypeAlias = Literal["ok", "warning", "error"]

TOOL_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""
    """What to do; empty where all is well."""


def worst(findings: Sequence[Finding]) -> Verdict:
    """The verdict on all together."""
    verdicts = {finding.verdict for finding in findings}
    return "error" if "error" in verdicts else "warning" if "warning" in verdicts else "ok"
