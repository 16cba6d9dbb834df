"""What verifications of bases in the folder and of those in stores have in common."""

from pathlib import Path
from typing import Final, Literal, NamedTuple

from imgbackend import errors

Found = Literal["sound", "noted", "bad", "unreadable", "skipped"]
"""noted: it had no digest, and has one now; skipped: there was nothing to compare, or it was in use."""
REPLACED: Final = "it was replaced or removed while it was read"


class Judged(NamedTuple):
    """What was found of one base."""

    found: Found
    reason: str = ""
    aside: Path | str | None = None
    """Where a bad one is now; of a store's, the name that it has now."""


class SkippedError(Exception):
    """There is nothing to compare."""


def differs(digest: str, known: str) -> str:
    """What is wrong with bytes that have another digest than they had."""
    return f"its content has the digest {digest[:16]}..., and had {known[:16]}..."


def wavers(wrong: str) -> Judged:
    """The verdict where a second reading found nothing wrong."""
    return Judged("unreadable", f"{wrong}, but not so when it was read again: look after this host's memory")


def give_up(_phase: str, _done: int, _total: int | None) -> None:
    """Progress for who does not wait for a base's lock."""
    raise SkippedError("its lock is held: it is being used")


def cannot_move(wrong: str, exc: OSError | errors.Error) -> Judged:
    """The verdict of a bad base that stays where it is."""
    return Judged("bad", f"{wrong}; it is still there, for it cannot be renamed: {exc}")
