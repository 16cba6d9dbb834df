"""Verification of bases that stores keep: their drivers read them, and give a bad one another name."""

import contextlib
import hashlib
import itertools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from imgbackend import errors
from imgbackend.cache.policy import CachedBase
from imgbackend.cache.throttle import Throttle
from imgbackend.cache.verify.verdicts import REPLACED, Judged, SkippedError, cannot_move, differs, give_up, wavers
from imgbackend.disks.prepare import store_lock
from imgbackend.driver.abilities import ChecksBases, HoldsBases
from imgbackend.state import digests
from imgbackend.system.host import Host
from imgbackend.types import Progress, StoreBase

LOG = logging.getLogger(__name__)
_SILENT: Final = "the driver of its store gives no bytes of a base back"

Piece = tuple[int, bytes | memoryview]


class Stored:
    """Verifies bases of stores."""

    def __init__(
        self,
        host: Host,
        stores: Mapping[str, HoldsBases],
        throttle: Throttle,
    ) -> None:
        """``stores`` are those that are open, by the names of their backends."""
        self._host, self._stores, self._throttle = host, stores, throttle
        self.read = 0
        """Bytes that were read, of all bases."""

    def judged(self, base: CachedBase, progress: Progress) -> Judged:
        """Read a base, compare, and put it aside where it is bad.

        :raises SkippedError: if there is nothing to compare.
        """
        store = self._stores.get(base.where)
        if not isinstance(store, ChecksBases):
            raise SkippedError(_SILENT)
        if base.bad is not None:
            raise SkippedError("it was put aside as bad")
        seen, digest = self._digested(store, base.name, progress)
        known = seen.tags.get("digest") or None
        wrong = None if known in (None, digest) else differs(digest, str(known))
        if wrong is not None:
            again, digest = self._digested(store, base.name, progress)
            if again.identity != seen.identity:
                raise SkippedError(REPLACED)
            if digest == known:
                return wavers(wrong)
        with self._held(store, base.name, progress):
            now = store.find_base(base.name)
            if now is None or now.identity != seen.identity or (now.tags.get("digest") or None) != known:
                raise SkippedError(REPLACED)
            if wrong is not None:
                return self._quarantine(store, now, wrong)
            told = {"verified": f"{time.time():.0f}"}
            store.tag_base(base.name, told if known else told | {"digest": digest})
        return Judged("sound") if known else Judged("noted", "it had no digest yet")

    @contextlib.contextmanager
    def _held(self, store: ChecksBases, name: str, progress: Progress) -> Iterator[None]:
        """The base's lock, on this host and on the others."""
        with self._host.locks.base(name, progress), store_lock(store, name, progress):
            yield

    def _digested(self, store: ChecksBases, name: str, progress: Progress) -> tuple[StoreBase, str]:
        """A base as it is now, and the digest of its content; its lock is held only while it is opened."""
        with contextlib.ExitStack() as stack:
            with self._host.locks.base(name, give_up):
                found = store.find_base(name)
                if found is None:
                    raise SkippedError("somebody else removed it")
                pieces = stack.enter_context(contextlib.closing(store.read_base(name)))
                first = next(pieces, None)
            return found, self._digest(found, itertools.chain([] if first is None else [first], pieces), progress)

    def _digest(self, base: StoreBase, pieces: Iterable[Piece], progress: Progress) -> str:
        digester = digests.ContentDigester()
        progress("verify", 0, base.size)
        for at, data in pieces:
            if at < digester.size or at + len(data) > base.size:
                raise errors.StorageError(
                    f"the driver of the base {base.name} tells bytes at {at} that are none of it, or told before"
                )
            digester.skip(at - digester.size)
            digester.update(data)
            self.read += len(data)
            progress("verify", digester.size, base.size)
            self._throttle.took(len(data), lambda: progress("verify", digester.size, base.size))
        digester.skip(base.size - digester.size)
        progress("verify", base.size, base.size)
        return digester.finish()

    def _quarantine(self, store: ChecksBases, base: StoreBase, wrong: str) -> Judged:
        """Under the locks: give a base a name that no image has.  It counts as used now, and goes when it is old."""
        since = f"{time.time():.3f}"
        new = hashlib.sha1(f"bad {base.name} {base.identity} {since}".encode(), usedforsecurity=False).hexdigest()
        try:
            store.rename_base(base.name, new, {"bad": wrong, "was": base.name, "since": since})
            store.touch_base(new)
        except (OSError, errors.Error) as exc:
            return cannot_move(wrong, exc)
        LOG.error("The base %s is bad (%s), and is put aside as %s", base.name, wrong, new)
        return Judged("bad", wrong, new)
