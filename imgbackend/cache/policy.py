"""Which bases may go: facts in, verdicts with their reasons out.  Nothing is looked at here."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

_DAY: Final = 86400
_RESIZED: Final = re.compile(r"[0-9a-f]{40}_(?:[0-9]+|sm)\Z")
_SKEW: Final = 60.0
"""Seconds by which the clocks of two hosts may differ before a last use is taken to be in the future."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedBase:
    """A base, wherever it is kept."""

    store: str | None
    """The backend whose store keeps it; None: the base folder."""
    name: str
    allocated: int
    """Bytes that the file system, or the store, spends on it."""
    last_used: float
    """Seconds since 1970: the lease."""
    image_id: str | None = None
    source: str | None = None
    format: str | None = None
    """None: Nova's own, not yet used by us."""
    virtual_size: int | None = None
    cluster_size: int | None = None
    digest: str | None = None
    size: int = 0
    """Of the file; of a store's, the virtual size."""
    path: Path | None = None
    """None: a store keeps it."""
    disks: tuple[str, ...] = ()
    """Those of this host that hang on it, as ``instance/disk``; of a store's base, those whose records name it."""
    children: int | None = None
    """Disks that hang on it, as the store counts them; None: it does not."""
    pinned: bool = False
    verified: float | None = None
    """When its bytes were last found to have the digest, in seconds since 1970; None: never."""

    @property
    def users(self) -> int:
        """How many disks hang on it, as far as that is known here."""
        return len(self.disks) if self.children is None else self.children

    @property
    def where(self) -> str:
        """Where it is kept, in a word."""
        return self.store or "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an operator allows; times are seconds, sizes bytes."""

    remove: bool = True
    """``remove_unused_base_images``"""
    original_age: float = _DAY
    """``remove_unused_original_minimum_age_seconds``"""
    resized_age: float = 3600
    """``remove_unused_resized_minimum_age_seconds``: of Nova's old ``<name>_<GiB>`` and ``<name>_sm``."""
    lease: float = 3600
    """``lease_seconds``: for so long after its last use nothing removes a base."""
    max_size: int | None = None
    """The bases of the base folder may take so much; None: no limit."""
    min_free: int | None = None
    """So much of the base folder's file system is to be free; None: no limit."""

    def age_of(self, name: str) -> float:
        """How long a base of that name has to be unused."""
        return self.resized_age if _RESIZED.match(name) else self.original_age


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is to become of a base, and why."""

    base: CachedBase
    goes: bool
    reason: str
    spare: bool = False
    """But for its age it would go, and it does where room is wanted."""
    refresh: bool = False
    """Its last use is to be noted anew: it is in use, pinned, or was used in the future."""


def judge(base: CachedBase, policy: Policy, now: float) -> Verdict:
    """What is to become of one base, whatever the others are."""
    unused = now - base.last_used
    if base.users:
        return _stays(base, f"{base.users} {'disk hangs' if base.users == 1 else 'disks hang'} on it", refresh=True)
    if base.pinned:
        return _stays(base, "pinned", refresh=True)
    if unused < -_SKEW:
        return _stays(base, f"last used {span(-unused)} in the future: a clock was changed", refresh=True)
    unused = max(unused, 0.0)
    if unused < policy.lease:
        return _stays(base, f"used {span(unused)} ago, and leased for {span(policy.lease)}")
    if not policy.remove:
        return _stays(base, "remove_unused_base_images is off")
    least = policy.age_of(base.name)
    if unused < least:
        return _stays(base, f"unused for {span(unused)}, and kept for {span(least)}", spare=True)
    return Verdict(base=base, goes=True, reason=f"unused for {span(unused)}")


def decide(
    bases: Iterable[CachedBase], policy: Policy, now: float, *, free: int | None = None, unseen: bool = False
) -> list[Verdict]:
    """What is to become of each base, in the order given.

    ``free`` is what is free on the base folder's file system.  ``unseen``: not every disk could
    be looked at, so that no base is known to be unused.
    """
    verdicts = [judge(base, policy, now) for base in bases]
    _make_room(verdicts, policy, free)
    if unseen:
        reason = "a disk that may hang on it could not be looked at"
        return [_stays(each.base, reason) if each.goes else each for each in verdicts]
    return verdicts


def _make_room(verdicts: list[Verdict], policy: Policy, free: int | None) -> None:
    """Let the least recently used of the base folder go, until what is left is within the limits."""
    local = [at for at, each in enumerate(verdicts) if each.base.store is None]
    taken = sum(verdicts[at].base.allocated for at in local if not verdicts[at].goes)
    going = sum(verdicts[at].base.allocated for at in local if verdicts[at].goes)
    for at in sorted(local, key=lambda at: verdicts[at].base.last_used):
        over = policy.max_size is not None and taken > policy.max_size
        short = policy.min_free is not None and free is not None and free + going < policy.min_free
        if not over and not short:
            return
        each = verdicts[at]
        if each.spare:
            why = "the bases take more than max_size" if over else "less than min_free is free"
            verdicts[at] = replace(each, goes=True, reason=f"least recently used, and {why}")
            taken -= each.base.allocated
            going += each.base.allocated


def missing_room(verdicts: Sequence[Verdict], policy: Policy, free: int | None) -> tuple[int, int]:
    """Bytes by which the base folder stays above ``max_size``, and below ``min_free``, when all that goes is gone."""
    local = [each for each in verdicts if each.base.store is None]
    taken = sum(each.base.allocated for each in local if not each.goes)
    going = sum(each.base.allocated for each in local if each.goes)
    over = 0 if policy.max_size is None else max(taken - policy.max_size, 0)
    short = 0 if policy.min_free is None or free is None else max(policy.min_free - free - going, 0)
    return over, short


def span(seconds: float) -> str:
    """A time as people say it: ``12 s``, ``59 min``, ``26 h``, ``3 days``; rounded down."""
    for name, length, least in (("days", _DAY, 2 * _DAY), ("h", 3600, 2 * 3600), ("min", 60, 120)):
        if seconds >= least:
            return f"{int(seconds // length)} {name}"
    return f"{int(max(seconds, 0))} s"


def _stays(base: CachedBase, reason: str, *, spare: bool = False, refresh: bool = False) -> Verdict:
    return Verdict(base=base, goes=False, reason=reason, spare=spare, refresh=refresh)
