"""How a base goes: under its lock, and after looking again.  What changed meanwhile lets it stay."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from imgbackend import errors
from imgbackend.bases.store import Bases
from imgbackend.cache import inventory
from imgbackend.cache.clocks import Clocks
from imgbackend.cache.policy import CachedBase, OtherHost, Policy, Verdict, judge
from imgbackend.cache.usage import Use
from imgbackend.disks.prepare import store_lock
from imgbackend.driver.abilities import HoldsBases
from imgbackend.state import manifests
from imgbackend.system import extents, files
from imgbackend.system.host import Host

LOG = logging.getLogger(__name__)
_FRESH: Final = 4
"""A store's base that is used is touched this many times within the age at which it would go."""
_GONE: Final = "somebody else removed it"
_AGAIN: Final = 1.0
"""Seconds for which a look at the folders holds.  Whoever makes a disk by the rules notes a use first, and that is
looked at each time; a disk that was moved in otherwise could as well come just after any look."""
_RECENT: Final = 600.0
"""A base that was used within so many seconds may have got a disk after any look, where no lease keeps it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a base."""

    base: CachedBase
    action: Literal["removed", "would be removed", "kept", "gone", "failed"]
    """gone: somebody else removed it meanwhile."""
    reason: str
    freed: int = 0
    """Bytes that the storage has more, or would have; what a disk shares with the base stays."""


class _HeldByOthersError(Exception):
    """Somebody has the base's lock: it is being used."""


class Removal:
    """Removes bases, and notes the use of those that stay."""

    def __init__(
        self,
        host: Host,
        bases: Bases,
        stores: Mapping[str, HoldsBases],
        policy: Policy,
        use: Use,
        clocks: Clocks,
        other: OtherHost | None = None,
    ) -> None:
        """``use`` is what was seen when the verdicts were found; it is looked at again for each that goes."""
        self._other = other
        self._host, self._bases, self._stores = host, bases, stores
        self._policy, self._use, self._clocks = policy, use, clocks
        self._looked = -math.inf

    def remove(self, verdict: Verdict) -> Outcome:
        """Remove a base, unless something holds it now."""
        base = verdict.base
        try:
            with self._held(base):
                kept = self._kept(verdict)
                freed = self._taken_away(base) if kept is None else 0
        except _HeldByOthersError:
            kept = "its lock is held: it is being used"
        except errors.DiskBusy as exc:
            kept = f"its store does not let it go: {exc}"
        except (OSError, errors.Error) as exc:
            return Outcome(base=base, action="failed", reason=self._told(exc))
        if kept is not None:
            return Outcome(base=base, action="gone" if kept == _GONE else "kept", reason=kept)
        self._host.metrics.record_eviction(verdict.cause, freed)
        LOG.info(
            "removed base=%s store=%s image=%s cause=%s bytes=%d reason=%s",
            *(base.name, base.where, json.dumps(base.image_id), verdict.cause, freed, json.dumps(verdict.reason)),
        )
        return Outcome(base=base, action="removed", reason=verdict.reason, freed=freed)

    def refresh(self, base: CachedBase) -> str | None:
        """Note that a base is used; a line that says why that could not be done, or None."""
        try:
            if base.path is not None:
                self._touch(base.path)
            elif self._is_stale(base):
                with self._held(base):
                    store = self._stores[base.where]
                    if store.find_base(base.name) is not None:
                        store.touch_base(base.name)
        except _HeldByOthersError:
            return None  # whoever holds it notes a use
        except (OSError, errors.Error) as exc:
            return f"the use of the base {base.name} ({base.where}) could not be noted: {self._told(exc)}"
        return None

    def _is_stale(self, base: CachedBase) -> bool:
        is_fresh = self._clocks.of_stores() - base.last_used < self._policy.original_age / _FRESH
        return not is_fresh or base.last_used > self._clocks.of_stores_at_the_latest()

    def _touch(self, base: Path) -> None:
        """Of both, the manifest for us and the base for a Nova; neither takes a lock, for it only lengthens a life.

        The time is the file system's.

        :raises PermissionError: if neither may be touched.
        """
        noted = False
        refused: PermissionError | None = None
        for path in (manifests.path_of(base), base):
            try:
                os.utime(path)
                noted = True
            except FileNotFoundError:
                continue
            except PermissionError as exc:
                refused = exc
        if refused is not None and not noted:
            raise PermissionError(refused.errno, refused.strerror, str(base)) from refused  # utime(2) names no file

    @contextlib.contextmanager
    def _held(self, base: CachedBase) -> Iterator[None]:
        """The base's lock, and its store's; nobody is waited for."""
        with self._host.locks.spare_base(base.name, _give_up):
            if base.store is None:
                yield
            else:
                with store_lock(self._stores[base.store], base.name):
                    yield

    def _kept(self, verdict: Verdict) -> str | None:
        """Why a base stays after all; None: it goes."""
        now = self._now(verdict.base)
        recent = now is not None and self._clocks.of_base(now) - now.last_used < _RECENT
        if recent or time.monotonic() - self._looked > _AGAIN:
            self._use.again()
            self._looked = time.monotonic()
        if self._use.unseen:
            return "a disk that may hang on it could not be looked at"
        now = self._now(verdict.base)
        if now is None:
            return _GONE
        at = self._clocks.of_base(now)
        fresh = judge(replace(now, upstream=verdict.base.upstream), self._policy, at, self._other)
        return None if fresh.goes or (fresh.spare and verdict.spare) else fresh.reason

    def _now(self, base: CachedBase) -> CachedBase | None:
        pinned = self._host.pins.has(base.name, base.store)
        if base.store is None:
            entry = self._bases.entry(base.name)
            return None if entry is None else inventory.of_folder(entry, self._use, pinned=pinned)
        found = self._stores[base.store].find_base(base.name)
        return None if found is None else inventory.of_store(found, base.store, self._use, pinned=pinned)

    def _taken_away(self, base: CachedBase) -> int:
        """Remove the base, before its manifest: without one it would look like another's.  The bytes that are freed.

        The lock's file stays: whoever waits for it, a Nova too, has it open.
        """
        with self._host.metrics.timed("remove"):
            if base.store is not None:
                self._stores[base.store].remove_base(base.name)
                return base.allocated
            path = self._bases.path(base.name)
            freed = extents.exclusive(path)
            path.unlink()
            manifests.path_of(path).unlink(missing_ok=True)
            return freed

    def _told(self, exc: OSError | errors.Error) -> str:
        return str(files.as_error(exc, self._host.bases) if isinstance(exc, OSError) else exc)


def _give_up(_phase: str, _done: int, _total: int | None) -> None:
    raise _HeldByOthersError
