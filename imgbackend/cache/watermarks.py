"""How much the bases may take: which of them go for room.  Verdicts in, verdicts out; nothing is looked at here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from imgbackend.cache.policy import CachedBase, OtherHost, Policy, Verdict, judge, stays
from imgbackend.types import Capacity


def decide(
    bases: Iterable[CachedBase],
    policy: Policy,
    now: float,
    *,
    store_now: float | None = None,
    free: int | None = None,
    total: int | None = None,
    stores: Mapping[str, Capacity] = MappingProxyType({}),
    unseen: bool = False,
    other: OtherHost | None = None,
) -> list[Verdict]:
    """What is to become of each base, in the order given.

    ``store_now`` is the time by which bases of stores are judged; None: the same.

    ``free`` is what is free on the base folder's file system, of ``total``; ``stores`` tells the same of
    stores of which so much is to be free.  ``unseen``: not every disk could be looked at, so that no base is known to
    be unused.
    """
    of_stores = now if store_now is None else store_now
    verdicts = [judge(base, policy, now if base.store is None else of_stores, other) for base in bases]
    _make_room(verdicts, policy, place(policy, free=free, total=total))
    for store in bounded(policy):
        _make_room(verdicts, policy, store_place(policy, store, stores.get(store)))
    if unseen:
        reason = "a disk that may hang on it could not be looked at"
        return [stays(each.base, reason) if each.goes else each for each in verdicts]
    return verdicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Where bases are: what they may take there, and what room there is."""

    store: str | None
    """The backend whose store it is; None: the base folder."""
    max_size: int | None
    min_free: int | None
    free: int | None
    total: int | None

    @property
    def prefix(self) -> str:
        """What its options begin with."""
        return "" if self.store is None else "store_"

    @property
    def where(self) -> str:
        """It, in messages; nothing of the base folder, which every option without another word is of."""
        return "" if self.store is None else f" in {self.store}"


def bounded(policy: Policy) -> list[str]:
    """The stores that are to have a limit, by name."""
    return sorted({*policy.store_max_size, *policy.store_min_free})


def place(policy: Policy, *, free: int | None, total: int | None = None) -> Bounds:
    """What is allowed in the base folder, and what room there is."""
    return Bounds(store=None, max_size=policy.max_size, min_free=policy.min_free, free=free, total=total)


def store_place(policy: Policy, store: str, room: Capacity | None) -> Bounds:
    """The same of a store; ``room`` None: it is not known, or not asked for."""
    return Bounds(
        store=store,
        max_size=policy.store_max_size.get(store),
        min_free=policy.store_min_free.get(store),
        free=None if room is None else room.free,
        total=None if room is None else room.total,
    )


@dataclass(slots=True, kw_only=True)
class _Filling:
    """How full a place is, and will be."""

    place: Bounds
    taken: int
    """By the bases that stay."""
    free: int | None

    def goes(self, base: CachedBase) -> None:
        self.taken -= base.allocated
        self.free = None if self.free is None else self.free + base.frees

    def over(self, percent: int) -> bool:
        """More is taken than so many percent of ``max_size``."""
        return self.place.max_size is not None and self.taken * 100 > self.place.max_size * percent

    def short(self, percent: int) -> bool:
        """More of the room is used than so many percent of what ``min_free`` leaves of it."""
        total, least = self.place.total, self.place.min_free
        if least is None or self.free is None:
            return False
        if total is None:
            return self.free < least
        return (total - self.free) * 100 > (total - least) * percent


def _make_room(verdicts: list[Verdict], policy: Policy, bounds: Bounds) -> None:
    """Where a high watermark is passed, let the least recently used of a place go down to the low one."""
    here = [each for each in verdicts if each.base.store == bounds.store]
    taken = sum(each.base.allocated for each in here if not each.goes)
    filling = _Filling(place=bounds, taken=taken, free=bounds.free)
    if filling.free is not None:
        filling.free += sum(each.base.frees for each in here if each.goes)
    over, short = filling.over(policy.high), filling.short(policy.high)
    for at in _by_use(verdicts, bounds.store):
        over, short = over and filling.over(policy.low), short and filling.short(policy.low)
        if not over and not short:
            return
        each = verdicts[at]
        if each.spare:
            over_max, under_min = f"{bounds.prefix}max_size", f"{bounds.prefix}min_free"
            why = f"the bases take more than {over_max}" if over else f"less than {under_min} is free"
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


def missing_room(verdicts: Sequence[Verdict], bounds: Bounds) -> tuple[int, int]:
    """Bytes by which a place stays above ``max_size``, and below ``min_free``, when all that goes is gone."""
    here = [each for each in verdicts if each.base.store == bounds.store]
    taken = sum(each.base.allocated for each in here if not each.goes)
    going = sum(each.base.frees for each in here if each.goes)
    over = 0 if bounds.max_size is None else max(taken - bounds.max_size, 0)
    short = 0 if bounds.min_free is None or bounds.free is None else max(bounds.min_free - bounds.free - going, 0)
    return over, short


def _by_use(verdicts: Sequence[Verdict], store: str | None = None) -> Iterator[int]:
    """Where those of a place are: what goes anyhow, what nobody can have again, then by their last use."""
    here = [at for at, each in enumerate(verdicts) if each.base.store == store]

    def rank(at: int) -> tuple[bool, bool, float]:
        each = verdicts[at]
        return not each.goes, each.base.upstream != "gone", each.base.last_used

    return iter(sorted(here, key=rank))


def _last_of(verdict: Verdict) -> str:
    return "its image is gone from the source" if verdict.base.upstream == "gone" else "least recently used"


def _mark(policy: Policy) -> str:
    return "" if policy.high == policy.low == 100 else f" at its watermarks of {policy.high} and {policy.low} %"


def _for_room(verdict: Verdict, reason: str) -> Verdict:
    return replace(verdict, goes=True, reason=reason, cause="room")
