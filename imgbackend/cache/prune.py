"""A pass over the cache, and room that is made for a fetch."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from imgbackend import errors
from imgbackend.bases.folders_seen import FoldersSeen
from imgbackend.bases.instance_folders import nothing
from imgbackend.bases.store import Bases
from imgbackend.cache import inventory, watermarks
from imgbackend.cache.clocks import Clocks
from imgbackend.cache.evict import Outcome, Removal
from imgbackend.cache.garbage.collect import Leftover
from imgbackend.cache.policy import CachedBase, OtherHost, Policy, Verdict, judge
from imgbackend.cache.ports import Stores
from imgbackend.cache.sharing_hosts import SharingHosts
from imgbackend.cache.usage import Use
from imgbackend.driver.contract import Backend
from imgbackend.system import extents, files
from imgbackend.system.host import Host
from imgbackend.types import Capacity


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one pass over the cache did, or would do."""

    outcomes: list[Outcome]
    """Of every base, or of those that it came to before it was stopped."""
    faults: list[str]
    """What could not be looked at or done, a line each."""
    foreign: list[str]
    """Disks that refer to what is no base of this host, a line each."""
    missing: list[str]
    """Other hosts that fell silent of late, a line each."""
    leftovers: list[Leftover] = field(default_factory=list)
    """Of killed calls, and dead: they were removed, or would be."""
    stopped: bool = False
    """It was told to stop, and there may be more to do."""

    @property
    def freed(self) -> int:
        """Bytes that the removals freed, or would free; what disks share with a base stays."""
        return sum(each.freed for each in self.outcomes)


def go_on() -> bool:
    """For whom nobody stops."""
    return False


class Sweep:
    """Passes of one engine."""

    def __init__(
        self,
        host: Host,
        bases: Bases,
        stores: Callable[[Collection[str]], Stores],
        policy: Policy,
        clocks: Clocks,
        look: Callable[[Callable[[], object]], Use],
    ) -> None:
        """As of :class:`imgbackend.cache.service.Cache`, whose passes these are.

        ``look`` finds what is in use now, and calls what it is given before each folder.
        """
        self._host, self._bases, self._stores = host, bases, stores
        self._policy, self._clocks, self._look = policy, clocks, look
        self._hosts = SharingHosts(host, clocks.instances)

    def run(
        self,
        *,
        dry_run: bool,
        stop: Callable[[], bool] = go_on,
        alive: Callable[[], object] = nothing,
        asked: Callable[[list[CachedBase]], list[CachedBase]] | None = None,
    ) -> tuple[Pass, FoldersSeen]:
        """See :meth:`imgbackend.cache.service.Cache.prune`; ``asked`` adds what the sources say.

        With it comes what was in the folders of instances.
        """
        if not dry_run:
            self.refuse_namesake()
        began = self._clocks.instances()
        with self._host.metrics.timed("scan"):
            use = self._look(alive)
            unseen = list(use.unseen)
            stores = self._stores(use.backends)
            found, faults = inventory.everything(self._host, self._bases, stores.opened, use)
        faults = [*unseen, *stores.faults, *faults]
        other, missing = self._others(faults)
        found = [_measured(base) for base in (found if asked is None else asked(found))]
        verdicts = self._decided(found, stores, other, faults, unseen=bool(unseen))
        if dry_run:
            outcomes = [_would(verdict) for verdict in verdicts]
            return Pass(outcomes=outcomes, faults=faults, foreign=use.foreign, missing=missing), use.seen
        removal = Removal(self._host, self._bases, stores.opened, self._policy, use, self._clocks, other)
        outcomes = list(self._done(removal, verdicts, faults, stop))
        stopped = len(outcomes) < len(verdicts)
        faults += use.unseen[len(unseen) :]
        if not use.unseen and not stopped:
            self._register(began, faults)
        done = Pass(outcomes=outcomes, faults=faults, foreign=use.foreign, missing=missing, stopped=stopped)
        return done, use.seen

    def make_room(self, need: int) -> bool:
        """Remove bases of the folder that may go, so that ``need`` bytes are freed; none, where they do not suffice.

        May be called while a base's lock is held.
        """
        if self._hosts.namesake() is not None:
            return False
        use = self._look(nothing)
        other, _ = self._others([])
        found, _ = inventory.everything(self._host, self._bases, {}, use)
        verdicts = [judge(_measured(base), self._policy, self._clocks.of_base(base), other) for base in found]
        if use.unseen:
            return False
        removal = Removal(self._host, self._bases, {}, self._policy, use, self._clocks, other)
        outcomes = [removal.remove(verdict) for verdict in watermarks.for_need(verdicts, need)]
        return any(each.action == "removed" for each in outcomes)

    def refuse_namesake(self) -> None:
        """Refuse to change anything where another host of this host's name works on the folder.

        :raises ConfigError: with what to do.
        """
        refusal = self._hosts.namesake()
        if refusal is not None:
            raise errors.ConfigError(refusal)

    def _others(self, faults: list[str]) -> tuple[OtherHost | None, list[str]]:
        """The host to wait for, and those that fell silent."""
        try:
            return self._hosts.slowest(), self._hosts.missing()
        except (OSError, errors.Error) as exc:
            faults.append(f"which hosts share the cache cannot be read, and so no base goes: {exc}")
            return OtherHost(name="that is not known", last_pass=0.0), []

    def _decided(
        self, found: list[CachedBase], stores: Stores, other: OtherHost | None, faults: list[str], *, unseen: bool
    ) -> list[Verdict]:
        folder, policy = files.nearest(self._host.bases), self._policy
        free, total, rooms = files.free_bytes(folder), files.total_bytes(folder), self._rooms(stores, faults)
        now, store_now = self._clocks.bases(), self._clocks.of_stores()
        verdicts = watermarks.decide(
            found,
            policy,
            now,
            store_now=store_now,
            free=free,
            total=total,
            stores=rooms,
            unseen=unseen,
            other=other,
        )
        faults += _too_full(verdicts, watermarks.place(policy, free=free))
        for name in watermarks.bounded(policy):
            faults += _too_full(verdicts, watermarks.store_place(policy, name, rooms.get(name)))
        return verdicts

    def _rooms(self, stores: Stores, faults: list[str]) -> dict[str, Capacity]:
        """What room there is in the stores of which so much is to be free."""
        found: dict[str, Capacity] = {}
        for name in watermarks.bounded(self._policy):
            store = stores.opened.get(name)
            if not isinstance(store, Backend):
                faults.append(f"[image_cache] has limits for {name}, which was not opened, or keeps no bases")
            elif name in self._policy.store_min_free:
                try:
                    found[name] = store.capacity()
                except (OSError, errors.Error) as exc:
                    faults.append(f"what is free in {name} cannot be told: {exc}")
        return found

    def _done(
        self, removal: Removal, verdicts: list[Verdict], faults: list[str], stop: Callable[[], bool]
    ) -> Iterator[Outcome]:
        for verdict in verdicts:
            if stop():
                return
            if verdict.goes:
                outcome = removal.remove(verdict)
                if outcome.action == "failed":
                    faults.append(f"the base {outcome.base.name} ({outcome.base.where}) stays: {outcome.reason}")
                yield outcome
                continue
            told = removal.refresh(verdict.base) if verdict.refresh else None
            faults += [told] if told is not None else []
            yield Outcome(base=verdict.base, action="kept", reason=verdict.reason)

    def _register(self, began: float, faults: list[str]) -> None:
        try:
            self._hosts.register(began)
        except errors.Error as exc:
            faults.append(f"other hosts that share the cache are not told of this pass: {exc}")


def _measured(base: CachedBase) -> CachedBase:
    """With what its removal would free, where it may be removed at all."""
    if base.path is None or base.users:
        return base
    try:
        return replace(base, exclusive=extents.exclusive(base.path))
    except OSError:
        return base  # whoever removes it will say why that cannot be done


def _would(verdict: Verdict) -> Outcome:
    if not verdict.goes:
        return Outcome(base=verdict.base, action="kept", reason=verdict.reason)
    return Outcome(base=verdict.base, action="would be removed", reason=verdict.reason, freed=verdict.base.frees)


def _too_full(verdicts: list[Verdict], place: watermarks.Bounds) -> Iterator[str]:
    over, short = watermarks.missing_room(verdicts, place)
    most, least = f"{place.prefix}max_size", f"{place.prefix}min_free"
    if over:
        left = "all that is left is in use or held"
        yield f"the bases{place.where} take {over} bytes more than {most} allows, and {left}"
    if short:
        left = "all bases that are left are in use or held"
        yield f"{short} bytes more would have to be free{place.where} for {least}, and {left}"
