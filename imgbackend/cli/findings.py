"""What the checks of ``imgbackend doctor`` have in common."""

from collections.abc import Sequence
from typing import Final

from imgbackend.types import Finding, Verdict

TOOL_SECONDS: Final = 10


def worst(findings: Sequence[Finding]) -> Verdict:
    """The verdict on all together."""
    verdicts = {finding.verdict for finding in findings}
    return "error" if "error" in verdicts else "warning" if "warning" in verdicts else "ok"
