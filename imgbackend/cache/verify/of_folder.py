"""Verification: the bytes of a base against the digest that it had when it was published.

It is read without its lock, from a descriptor that was opened under it, and judged under the
lock again.  Two readings decide that it is bad, the second from the device.  A bad base is put
aside under another name: guests that run on it have it open and go on, and the next disk of
the image has a fresh copy fetched, which must have the content that this one had.
"""

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.bases import fetch
from imgbackend.cache.policy import CachedBase
from imgbackend.cache.throttle import Throttle, idle
from imgbackend.cache.verify.of_store import Stored
from imgbackend.cache.verify.verdicts import (
    REPLACED,
    Found,
    Judged,
    SkippedError,
    cannot_move,
    differs,
    give_up,
    wavers,
)
from imgbackend.driver.abilities import HoldsBases
from imgbackend.state import digests, manifests
from imgbackend.state.manifests import Manifest
from imgbackend.system import files, qemu_img, stale
from imgbackend.system.host import Host
from imgbackend.types import Progress

LOG = logging.getLogger(__name__)

_NOVAS: Final = "it has no manifest: it is Nova's own, and no disk was made of it here yet"
_REMOVED: Final = "somebody else removed it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What a verification found."""

    base: CachedBase
    found: Found
    reason: str
    read: int
    """Bytes that were read."""
    seconds: float
    aside: Path | str | None = None
    """Where a bad one is now; of a store's, the name that it has now."""


@dataclass(slots=True, kw_only=True)
class _Reading:
    """One base, open."""

    path: Path
    fd: int
    manifest: Manifest
    read: int = 0


class _Pace:
    """The reading of a raw base, at a rate."""

    def __init__(self, reading: _Reading, throttle: Throttle, progress: Progress) -> None:
        self._reading, self._throttle, self._progress = reading, throttle, progress
        self._at: tuple[int, int | None] = (0, None)

    def told(self, _phase: str, done: int, total: int | None) -> None:
        """How far it is."""
        self._at = (done, total)
        self._progress("verify", done, total)

    def took(self, count: int) -> None:
        """So many bytes were read."""
        self._reading.read += count
        self._throttle.took(count, lambda: self._progress("verify", *self._at))


class Verification:
    """Verifies one base after the other."""

    def __init__(
        self,
        host: Host,
        stores: Mapping[str, HoldsBases],
        rate: int | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``clock`` is that of the base folder.

        ``rate`` is bytes per second, for all of them together; None: as fast as it goes."""
        self._host, self._throttle, self._clock = host, Throttle(rate), clock
        self._stored = Stored(host, stores, self._throttle)
        self._read = 0

    def verify_all(self, bases: Sequence[CachedBase], progress: Progress) -> list[Verified]:
        """Verify bases one after the other, when nobody else reads; progress is over all of them."""
        done, total, told = 0, sum(base.size for base in bases), []
        with idle(self._host):
            for base in bases:
                with self._host.metrics.timed("verify"):
                    told.append(self.verify(base, _within(progress, done, base.size, total)))
                self._count(told[-1])
                done += base.size
        return told

    def _count(self, done: Verified) -> None:
        if done.found != "skipped":
            self._host.metrics.record_verification(done.read)
        if done.found in ("bad", "unreadable"):
            self._host.metrics.record_verification_failure()

    def verify(self, base: CachedBase, progress: Progress) -> Verified:
        """Read a base, compare, and put it aside where it is bad."""
        started, before = time.monotonic(), self._read + self._stored.read
        try:
            judged = self._of_folder(base, base.path, progress) if base.path else self._stored.judged(base, progress)
        except SkippedError as exc:
            judged = Judged("skipped", str(exc))
        except (OSError, errors.Error) as exc:
            judged = Judged("unreadable", str(self._told(exc)))
        seconds, read = time.monotonic() - started, self._read + self._stored.read - before
        return Verified(
            base=base, found=judged.found, reason=judged.reason, read=read, seconds=seconds, aside=judged.aside
        )

    def _of_folder(self, base: CachedBase, path: Path, progress: Progress) -> Judged:
        with self._opened(base, path) as reading:
            try:
                return self._judged(reading, progress)
            except OSError as exc:
                if not stale.is_stale(exc):
                    raise
                raise SkippedError(_REMOVED) from exc
            finally:
                self._read += reading.read

    @contextlib.contextmanager
    def _opened(self, base: CachedBase, path: Path) -> Iterator[_Reading]:
        """The base as it is now; its lock is held only while it is opened."""
        with self._host.locks.base(base.name, give_up):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError as exc:
                raise SkippedError(_REMOVED) from exc
            manifest = manifests.read(path)
        try:
            if manifest is None:
                raise SkippedError(_NOVAS)
            yield _Reading(path=path, fd=fd, manifest=manifest)
        finally:
            os.close(fd)

    def _judged(self, reading: _Reading, progress: Progress) -> Judged:
        wrong, digest = self._compared(reading, progress)
        if wrong is not None:
            os.posix_fadvise(reading.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            again, _ = self._compared(reading, progress)
            if again is None:
                return wavers(wrong)
        with self._host.locks.base(reading.path.name, progress):
            now = self._now(reading)
            if wrong is not None:
                return self._quarantine(reading.path, wrong)
            manifests.amend(reading.path, replace(now, digest=digest, verified_at=self._clock()))
        if reading.manifest.digest is None:
            return Judged("noted", "it had no digest yet")
        return Judged("sound")

    def _quarantine(self, path: Path, wrong: str) -> Judged:
        try:
            aside = fetch.quarantine(path)
            files.flush_folder(aside.parent)
        except OSError as exc:
            return cannot_move(wrong, self._told(exc))
        LOG.error("The base %s is bad (%s), and is put aside as %s", path, wrong, aside.name)
        return Judged("bad", wrong, aside)

    def _compared(self, reading: _Reading, progress: Progress) -> tuple[str | None, str | None]:
        """What is wrong, if anything is; and the digest of the content."""
        manifest = reading.manifest
        try:
            if manifest.digest is None and not self._is_as_delivered(reading, progress):
                return f"it is not the {manifest.delivered_size} bytes that were delivered", None
            digest = self._digest(reading, progress)
        except errors.TemplateCorrupt as exc:
            return str(exc), None
        if manifest.digest not in (None, digest):
            return differs(digest, str(manifest.digest)), None
        return None, digest

    def _is_as_delivered(self, reading: _Reading, progress: Progress) -> bool:
        """Of a base that has no digest yet: whether it is still what its source delivered, as far as that is known."""
        known = reading.manifest.delivered_digests
        if not known or reading.manifest.delivered_format != reading.manifest.format:
            return True
        pace = _Pace(reading, self._throttle, progress)
        return manifests.has_content(reading.fd, reading.manifest, pace.told, pace.took)

    def _digest(self, reading: _Reading, progress: Progress) -> str:
        """Of the content, as a guest reads it."""
        if reading.manifest.format == "raw":
            pace = _Pace(reading, self._throttle, progress)
            return digests.content_digest(reading.fd, pace.told, pace.took)
        data = qemu_img.check(self._host, (reading.fd, reading.manifest.format))
        name, size = reading.manifest.format, reading.manifest.virtual_size
        with (
            tempfile.TemporaryFile(dir=self._host.bases, prefix=".verify-") as file,
            self._host.space.reserved(reading.path.with_name(f".verify-{reading.path.name}"), min(data, size)),
        ):
            layers, rate = [(reading.fd, name)], self._throttle.rate
            try:
                qemu_img.convert(
                    self._host, layers, file.fileno(), "raw", size=size, rate=rate, progress=progress, phase="verify"
                )
            except errors.CommandFailed as exc:
                raise qemu_img.blamed(exc, name) from exc
            reading.read += files.allocated(reading.path)
            return digests.content_digest(file.fileno(), progress)

    def _now(self, reading: _Reading) -> Manifest:
        """The manifest, if what was read is still the base."""
        try:
            same = os.path.samestat(os.lstat(reading.path), os.fstat(reading.fd))
        except OSError as exc:
            if not stale.is_gone(exc):
                raise
            same = False
        now = manifests.read(reading.path) if same else None
        if now is None or now.digest not in (None, reading.manifest.digest):
            raise SkippedError(REPLACED)
        return now

    def _told(self, exc: OSError | errors.Error) -> errors.Error:
        return files.as_error(exc, self._host.bases) if isinstance(exc, OSError) else exc


def chosen(
    bases: Sequence[CachedBase], names: Collection[str] | None, store: str | None, sample: int | None
) -> list[CachedBase]:
    """Those of these names (None: all), in one store (None: in any), of which ``sample`` are due first (None: all).

    :raises ConfigError: if there is none of such a name.
    """
    found = [base for base in bases if store in (None, base.where)]
    missing = sorted(set(names or ()) - {base.name for base in found})
    if missing:
        raise errors.ConfigError(f"there is no base {missing[0]}; imgbackend cache list shows those there are")
    found = [base for base in found if names is None or base.name in names]
    if sample is None:
        return found
    known = [base for base in found if base.format is not None and base.bad is None]
    return sorted(known, key=lambda base: base.verified or 0.0)[:sample]


def _within(progress: Progress, before: int, size: int, total: int) -> Progress:
    """Progress of one base, told as that of all."""

    def told(phase: str, done: int, of: int | None) -> None:
        progress(phase, before + (min(done * size // of, size) if of else 0), total)

    return told
