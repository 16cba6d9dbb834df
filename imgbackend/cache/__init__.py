"""The cache of bases: what is there, what is in use, what may go, and its going.

A base is one of the base folder, or one that a backend's store keeps.  Everything here holds
for both alike.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from oslo_config import cfg

from imgbackend import errors, files
from imgbackend.abilities import HoldsBases
from imgbackend.bases import Bases
from imgbackend.cache import inventory
from imgbackend.cache.policy import CachedBase, Policy, Verdict, decide, missing_room
from imgbackend.cache.removal import Outcome, Removal
from imgbackend.cache.use import Domains, Use, no_domains
from imgbackend.cache.verification import Verification, Verified, chosen
from imgbackend.host import Host
from imgbackend.pins import Pin
from imgbackend.types import Progress, ignore, is_base_name

__all__ = ["Cache", "CachedBase", "Listing", "Outcome", "Pass", "Policy", "Stores", "Verified", "policy_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The backends whose stores keep bases."""

    opened: dict[str, HoldsBases]
    """By the backend's name."""
    faults: list[str]
    """Why others could not be opened, a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All bases that could be seen."""

    bases: list[CachedBase]
    """Those of the base folder first, then each store's, by name."""
    stores: list[str]
    """The backends whose stores keep bases and could be opened, by name."""
    faults: list[str]
    """What could not be looked at, a line each: there may be more bases, and more disks on them."""
    foreign: list[str]
    """Disks that refer to what is no base of this host, a line each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one pass over the cache did, or would do."""

    outcomes: list[Outcome]
    """Of every base."""
    faults: list[str]
    """What could not be looked at or done, a line each."""
    foreign: list[str]
    """As in :class:`Listing`."""


class Cache:
    """The bases of one engine."""

    def __init__(
        self,
        host: Host,
        bases: Bases,
        stores: Callable[[Collection[str]], Stores],
        policy: Policy,
        clock: Callable[[], float] = time.time,
        domains: Domains = no_domains,
    ) -> None:
        """``stores`` opens the configured backends that hold bases, and of those named what it can.

        ``domains`` tells what the hypervisor's domains open.
        """
        self._host, self._bases, self._stores = host, bases, stores
        self.policy = policy
        """What the configuration allows."""
        self._clock, self._domains = clock, domains

    def bases(self) -> Listing:
        """Every base, with the disks that hang on it.

        :raises ConfigError: if the base folder cannot be read.
        """
        with self._translated():
            use = Use(self._host, self._domains)
            stores = self._stores(use.backends)
            found, faults = self._found(use, stores)
            return Listing(
                bases=found, stores=sorted(stores.opened), faults=[*use.unseen, *faults], foreign=use.foreign
            )

    def pins(self) -> frozenset[Pin]:
        """All pins, also of bases that are not there; each has a ``name`` and a ``store``."""
        with self._translated():
            return self._host.pins.all()

    def pin(self, name: str, store: str | None = None) -> None:
        """Keep a base, used or not, until it is unpinned; twice is no error.

        On return the pin survives a power cut, and no pass that is under way removes the base.
        ``store`` is the backend whose store keeps it, None the base folder.  The base need not be there.

        :raises ConfigError: if no base can have this name, or the pin cannot be written.
        """
        self._check(name)
        with self._translated(), self._host.locks.base(name):
            self._host.pins.set(name, store)

    def unpin(self, name: str, store: str | None = None) -> None:
        """Let a base go when it is old enough; one that is not pinned is no error.

        :raises ConfigError: if no base can have this name, or the pin cannot be removed.
        """
        self._check(name)
        with self._translated(), self._host.locks.base(name):
            self._host.pins.clear(name, store)

    def verify(
        self,
        names: Collection[str] | None = None,
        *,
        store: str | None = None,
        sample: int | None = None,
        rate: int | None = None,
        progress: Progress = ignore,
    ) -> list[Verified]:
        """Compare the bytes of bases with the digests that they had when they were published.

        ``names`` None: all of them; ``store``: only those of one place, by its name, ``local`` for the base folder.
        ``sample``: of these only so many, those whose last verification is longest ago first.
        They are read at ``rate`` bytes per second at most, when nobody else reads (ionice), and under no lock.
        A bad one is put aside: the next disk of its image has it fetched again.  Bases of stores are told as skipped.

        :raises ConfigError: if there is no base of such a name.
        """
        with self._translated():
            found = chosen(self.bases().bases, names, store, sample)
            return Verification(self._host, rate, self._clock).verify_all(found, progress)

    def prune(self, *, dry_run: bool = False) -> Pass:
        """Remove the bases that nothing needs and that the policy lets go; note the use of the others.

        No base is removed on which a disk hangs, which is pinned, or which was used within
        ``lease_seconds``; none at all where some disk could not be looked at.  Each goes under its lock,
        after another look at its last use, its pin, and the folders that changed since.  ``dry_run`` changes nothing.

        :raises ConfigError: if the base folder cannot be read.
        """
        with self._translated():
            use = Use(self._host, self._domains)
            unseen = list(use.unseen)
            stores = self._stores(use.backends)
            found, faults = self._found(use, stores)
            free = files.free_bytes(files.nearest(self._host.bases))
            verdicts = decide(found, self.policy, self._clock(), free=free, unseen=bool(unseen))
            faults = [*unseen, *faults, *_too_full(verdicts, self.policy, free)]
            if dry_run:
                return Pass(outcomes=[_would(verdict) for verdict in verdicts], faults=faults, foreign=use.foreign)
            removal = Removal(self._host, self._bases, stores.opened, self.policy, use, self._clock)
            outcomes = [self._done(removal, verdict, faults) for verdict in verdicts]
            faults += use.unseen[len(unseen) :]
            return Pass(outcomes=outcomes, faults=faults, foreign=use.foreign)

    @staticmethod
    def _done(removal: Removal, verdict: Verdict, faults: list[str]) -> Outcome:
        if verdict.goes:
            outcome = removal.remove(verdict)
            if outcome.action == "failed":
                faults.append(f"the base {outcome.base.name} ({outcome.base.where}) stays: {outcome.reason}")
            return outcome
        told = removal.refresh(verdict.base) if verdict.refresh else None
        faults += [told] if told is not None else []
        return Outcome(base=verdict.base, action="kept", reason=verdict.reason)

    def _found(self, use: Use, stores: Stores) -> tuple[list[CachedBase], list[str]]:
        pins = self._host.pins.all()
        found = [
            inventory.of_folder(entry, use, pinned=Pin(name=entry.name, store=None) in pins)
            for entry in self._bases.entries()
        ]
        faults = list(stores.faults)
        for name, store in sorted(stores.opened.items()):
            try:
                found += inventory.all_of(name, store, use, pins)
            except OSError as exc:
                faults.append(f"the bases of {name} cannot be listed: {files.translated(exc, self._host.instances)}")
            except errors.Error as exc:
                faults.append(f"the bases of {name} cannot be listed: {exc}")
        return found, faults

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise files.translated(exc, self._host.bases) from exc

    @staticmethod
    def _check(name: str) -> None:
        if not is_base_name(name):
            raise errors.ConfigError(f"not a name for a base: {name!r}; imgbackend cache list shows those there are")


def policy_of(conf: cfg.ConfigOpts) -> Policy:
    """The policy that the section ``image_cache`` states."""
    told = conf.image_cache
    return Policy(
        remove=told.remove_unused_base_images,
        original_age=told.remove_unused_original_minimum_age_seconds,
        resized_age=told.remove_unused_resized_minimum_age_seconds,
        lease=told.lease_seconds,
        max_size=told.max_size,
        min_free=told.min_free,
    )


def _would(verdict: Verdict) -> Outcome:
    return Outcome(base=verdict.base, action="would be removed" if verdict.goes else "kept", reason=verdict.reason)


def _too_full(verdicts: list[Verdict], policy: Policy, free: int) -> Iterator[str]:
    over, short = missing_room(verdicts, policy, free)
    if over:
        yield f"the bases take {over} bytes more than max_size allows, and all that is left is in use or held"
    if short:
        yield f"{short} bytes more would have to be free for min_free, and all bases that are left are in use or held"
