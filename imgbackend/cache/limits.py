"""How much the bases may take: which of them go for room.  Verdicts in, verdicts out; nothing is looked at here."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from imgbackend.cache.policy import CachedBase, OtherHost, Policy, Verdict, judge, stays


def decide(
    bases: Iterable[CachedBase],
    policy: Policy,
    now: float,
    *,
    free: int | None = None,
    total: int | None = None,
    unseen: bool = False,
    other: OtherHost | None = None,
) -> list[Verdict]:
    """What is to become of each base, in the order given.

    ``free`` is what is free on the base folder's file system, of ``total``.  ``unseen``: not every disk could
    be looked at, so that no base is known to be unused.
    """
    verdicts = [judge(base, policy, now, other) for base in bases]
    _make_room(verdicts, policy, free, total)
    if unseen:
        reason = "a disk that may hang on it could not be looked at"
        return [stays(each.base, reason) if each.goes else each for each in verdicts]
    return verdicts


@dataclass(slots=True, kw_only=True)
class _Filling:
    """How full the base folder is, and will be."""

    policy: Policy
    taken: int
    """By the bases that stay."""
    free: int | None
    total: int | None

    def goes(self, base: CachedBase) -> None:
        self.taken -= base.allocated
        self.free = None if self.free is None else self.free + base.frees

    def over(self, percent: int) -> bool:
        """More is taken than so many percent of ``max_size``."""
        return self.policy.max_size is not None and self.taken * 100 > self.policy.max_size * percent

    def short(self, percent: int) -> bool:
        """More of the file system is used than so many percent of what ``min_free`` leaves of it."""
        if self.policy.min_free is None or self.free is None:
            return False
        if self.total is None:
            return self.free < self.policy.min_free
        return (self.total - self.free) * 100 > (self.total - self.policy.min_free) * percent


def _make_room(verdicts: list[Verdict], policy: Policy, free: int | None, total: int | None) -> None:
    """Where a high watermark is passed, let the least recently used of the base folder go down to the low one."""
    local = [each for each in verdicts if each.base.store is None]
    filling = _Filling(
        policy=policy, taken=sum(each.base.allocated for each in local if not each.goes), free=free, total=total
    )
    if filling.free is not None:
        filling.free += sum(each.base.frees for each in local if each.goes)
    over, short = filling.over(policy.high), filling.short(policy.high)
    for at in _by_use(verdicts):
        over, short = over and filling.over(policy.low), short and filling.short(policy.low)
        if not over and not short:
            return
        each = verdicts[at]
        if each.spare:
            why = "the bases take more than max_size" if over else "less than min_free is free"
            verdicts[at] = _for_room(each, f"{_last_of(each)}, and {why}{_mark(policy)}")
            filling.goes(each.base)


def for_need(verdicts: Sequence[Verdict], need: int) -> list[Verdict]:
    """The bases of the folder that go so that ``need`` bytes are freed, or none where they do not suffice."""
    found = []
    for at in _by_use(verdicts):
        each = verdicts[at]
        if need > 0 and (each.goes or each.spare):
            found.append(each if each.goes else _for_room(each, f"{_last_of(each)}, and room is needed for another"))
            need -= each.base.frees
    return found if need <= 0 else []


def missing_room(verdicts: Sequence[Verdict], policy: Policy, free: int | None) -> tuple[int, int]:
    """Bytes by which the base folder stays above ``max_size``, and below ``min_free``, when all that goes is gone."""
    local = [each for each in verdicts if each.base.store is None]
    taken = sum(each.base.allocated for each in local if not each.goes)
    going = sum(each.base.frees for each in local if each.goes)
    over = 0 if policy.max_size is None else max(taken - policy.max_size, 0)
    short = 0 if policy.min_free is None or free is None else max(policy.min_free - free - going, 0)
    return over, short


def _by_use(verdicts: Sequence[Verdict]) -> Iterator[int]:
    """Where those of the base folder are: what goes anyhow, what nobody can have again, then by their last use."""
    local = [at for at, each in enumerate(verdicts) if each.base.store is None]

    def rank(at: int) -> tuple[bool, bool, float]:
        each = verdicts[at]
        return not each.goes, each.base.upstream != "gone", each.base.last_used

    return iter(sorted(local, key=rank))


def _last_of(verdict: Verdict) -> str:
    return "its image is gone from the source" if verdict.base.upstream == "gone" else "least recently used"


def _mark(policy: Policy) -> str:
    return "" if policy.high == policy.low == 100 else f" at its watermarks of {policy.high} and {policy.low} %"


def _for_room(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, goes=True, reason=reason, cause="room")
