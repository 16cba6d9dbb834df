"""Which bases may go: facts in, verdicts with their reasons out.  Nothing is looked at here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

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
    exclusive: int | None = None
    """Of these, what it shares with no disk and no other base; None: it was not looked at."""
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
    upstream: Literal["there", "gone"] | None = None
    """What its source says of the image; None: it was not asked, or could not tell."""
    verified: float | None = None
    """When its bytes were last found to have the digest, in seconds since 1970; None: never."""
    bad: str | None = None
    """Of a store's that was put aside under another name: what is wrong with it; None: nothing, as far as is known."""

    @property
    def users(self) -> int:
        """How many disks hang on it, as far as that is known here."""
        return len(self.disks) if self.children is None else self.children

    @property
    def frees(self) -> int:
        """Bytes that its storage has more when it is gone."""
        return self.allocated if self.exclusive is None else self.exclusive

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
    store_max_size: Mapping[str, int] = field(default_factory=dict)
    """The bases in the store of a backend may take so much, by its name."""
    store_min_free: Mapping[str, int] = field(default_factory=dict)
    """So much of a backend's store is to be free, by its name."""
    high: int = 100
    """``high_watermark``: room is made from here on, in percent of what the two limits allow."""
    low: int = 100
    """``low_watermark``: room is made until no more than this is used."""
    gone_age: float | None = None
    """``remove_gone_minimum_age_seconds``, of bases whose image is gone from its source; None: as of others."""

    at_once: int = 1
    """``precache_concurrency``: images that are fetched side by side before they are wanted."""
    jitter: float = 0.0
    """``precache_jitter``: before each of them it waits for up to so long."""
    metrics_file: Path | None = None
    """``metrics_file``: where passes write metrics; None: nowhere."""

    def age_of(self, base: CachedBase) -> float:
        """How long a base has to be unused."""
        least = self.resized_age if _RESIZED.match(base.name) else self.original_age
        return least if base.upstream != "gone" or self.gone_age is None else min(self.gone_age, least)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherHost:
    """Of the hosts that share the cache and are alive, the one whose last pass is longest ago."""

    name: str
    last_pass: float
    """Seconds since 1970."""


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
    cause: Literal["unused", "gone", "room"] = "unused"
    """Of one that goes, in a word: its age; its image is gone from the source, else it were too young; for room."""


def judge(base: CachedBase, policy: Policy, now: float, other: OtherHost | None = None) -> Verdict:
    """What is to become of one base, whatever the others are.

    What only another host can see of its use it tells by touching the base at each of its passes: a lease has to
    have ended before the last pass of each of them, too.
    """
    unused = now - base.last_used
    if base.users:
        return stays(base, f"{base.users} {'disk hangs' if base.users == 1 else 'disks hang'} on it", refresh=True)
    if base.pinned:
        return stays(base, "pinned", refresh=True)
    if unused < -_SKEW:
        return stays(base, f"last used {span(-unused)} in the future: a clock was changed", refresh=True)
    unused = max(unused, 0.0)
    if unused < policy.lease:
        return stays(base, f"used {span(unused)} ago, and leased for {span(policy.lease)}")
    if other is not None and other.last_pass < base.last_used + policy.lease:
        return stays(base, f"the host {other.name} may use it: it made no pass since the lease ended")
    if not policy.remove:
        return stays(base, "remove_unused_base_images is off")
    least = policy.age_of(base)
    gone = base.upstream == "gone"
    told = f"unused for {span(unused)}" + (", and its image is gone from the source" if gone else "")
    told += ", and put aside as bad" if base.bad else ""
    if unused < least:
        return stays(base, f"{told}, and kept for {span(least)}", spare=True)
    early = gone and unused < replace(policy, gone_age=None).age_of(base)
    return Verdict(base=base, goes=True, reason=told, cause="gone" if early else "unused")


def span(seconds: float) -> str:
    """A time as people say it: ``12 s``, ``59 min``, ``26 h``, ``3 days``; rounded down."""
    for name, length, least in (("days", _DAY, 2 * _DAY), ("h", 3600, 2 * 3600), ("min", 60, 120)):
        if seconds >= least:
            return f"{int(seconds // length)} {name}"
    return f"{int(max(seconds, 0))} s"


def stays(base: CachedBase, reason: str, *, spare: bool = False, refresh: bool = False) -> Verdict:
    """The verdict of a base that is kept."""
    return Verdict(base=base, goes=False, reason=reason, spare=spare, refresh=refresh)
