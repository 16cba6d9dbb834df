"""Bases that are fetched before a disk wants them, by the way on which a disk would have them fetched."""

import functools
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from imgbackend import errors
from imgbackend.bases import fetch
from imgbackend.bases.store import Bases
from imgbackend.cache.ports import Bootable, Ports, Wanted
from imgbackend.disks import clone_parent
from imgbackend.disks.prepare import Preparer
from imgbackend.driver.abilities import Cloneable, HoldsBases
from imgbackend.driver.contract import Backend
from imgbackend.state.manifests import Manifest
from imgbackend.system import parallel
from imgbackend.system.host import Host
from imgbackend.system.progress import Watched, translating_errors
from imgbackend.types import DiskId, ImageInfo, Progress, ignore

_NOBODY: Final = DiskId(instance="prefetch", name="disk")
"""A disk that is asked what it could be cloned from, and never made."""
_LOOK: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefetched:
    """What became of one image."""

    ref: str
    status: Literal["cached", "existing", "not needed", "failed"]
    """not needed: disks are clones of what the source keeps inside the storage, and there is no base."""
    reason: str = ""
    """Why it failed, or is not needed; a line."""
    image_id: str | None = None
    """None: it was not found."""
    base: str | None = None
    """The name that its base has, or would have."""
    store: str | None = None
    """The backend whose store keeps the base; None: it is in the base folder."""
    boot_files: tuple[str, ...] = ()
    """The bases of the kernel and the ramdisk that it names, in the base folder; all of them are there."""
    seconds: float = 0.0


def silent(_ref: str) -> Progress:
    """Progress that nobody looks at, of any image."""
    return ignore


class Prefetching:
    """Fetches for the disks of one backend."""

    def __init__(
        self,
        host: Host,
        bases: Bases,
        backend: Backend,
        ports: Ports,
    ) -> None:
        """``ports`` is the way to images."""
        self._host, self._bases, self._backend, self._ports = host, bases, backend, ports

    def all(
        self, refs: Iterable[str], *, at_once: int, jitter: float, progress: Callable[[str], Progress]
    ) -> list[Prefetched]:
        """Fetch several, so many at once, each after a while of up to ``jitter`` seconds; in the order given.

        What a progress callback raises ends all of them, and is raised when the last has stopped.
        """
        wanted = list(dict.fromkeys(refs))
        jobs = [functools.partial(self._job, ref, jitter) for ref in wanted]
        return parallel.all_at_once(jobs, [progress(ref) for ref in wanted], most=at_once)

    def _job(self, ref: str, jitter: float, progress: Progress) -> Prefetched:
        return self.one(ref, jitter=jitter, progress=progress)

    def one(self, ref: str, *, jitter: float = 0.0, progress: Progress = ignore) -> Prefetched:
        """Fetch one, unless its base is there; its use is noted either way.  Errors of ours are told, not raised."""
        began = time.monotonic()
        store = self._backend.name if isinstance(self._backend, HoldsBases) else None
        done = Prefetched(ref=ref, status="failed", store=store)
        watched = Watched(progress)
        try:
            with translating_errors(self._host, watched):
                _wait(random.uniform(0.0, jitter), watched)  # noqa: S311 - no secret: it only spreads the load
                image = self._ports.image(ref)
                done = replace(done, image_id=image.id, base=image.filename)
                done = self._booted(image, self._had(image, done, watched), watched)
        except errors.Error as exc:
            done = replace(done, status="failed", reason=str(exc))
        return replace(done, seconds=time.monotonic() - began)

    def _had(self, image: Wanted, done: Prefetched, progress: Progress) -> Prefetched:
        where = self._cloned_from(image)
        if where is not None:
            return replace(done, status="not needed", store=None, reason=f"disks are clones of {where}")
        store = self._backend if isinstance(self._backend, HoldsBases) else None
        preparer = self._prepared(image, store, progress)
        fresh = preparer.fetched if store is None else preparer.manifest is not None
        return replace(done, status="cached" if fresh else "existing")

    def _booted(self, image: Bootable, done: Prefetched, progress: Progress) -> Prefetched:
        """With the kernel and the ramdisk; they are files, whatever the disks are."""
        try:
            named = [each for each in (image.kernel_id, image.ramdisk_id) if each is not None]
        except errors.SourceUnavailable as exc:
            return replace(done, reason="; ".join(filter(None, [done.reason, f"it may name a kernel: {exc}"])))
        files = list[str]()
        for image_id in named:
            try:
                file = self._ports.boot_file(done.ref, image_id)
                if self._prepared(file, None, progress).fetched and done.status == "existing":
                    done = replace(done, status="cached")
            except errors.Error as exc:
                reason = f"the image is there, and what it boots with is not: {image_id}: {exc}"
                return replace(done, status="failed", reason=reason, boot_files=tuple(files))
            files.append(file.filename)
        return replace(done, boot_files=tuple(files))

    def _prepared(self, image: Wanted, store: HoldsBases | None, progress: Progress) -> Preparer:
        """What fetches an image as a disk would have it fetched, when it is done."""
        preparer = Preparer(self._host, self._bases, store, image, image.filename, None, progress, _no_disk)
        try:
            preparer(preparer.base)
        finally:
            preparer.close()
        return preparer

    def _cloned_from(self, image: Wanted) -> str | None:
        """Where the source keeps the image so that the backend clones it; None: it needs a base."""
        if not issubclass(self._backend.disk_type, Cloneable):
            return None
        disk = self._backend.disk(_NOBODY)
        parent, _ = clone_parent.find(disk, fetch.declared_of(image), None)
        return None if parent is None else parent[0]


def _no_disk(_info: ImageInfo, _manifest: Manifest | None) -> None:
    """There is no disk whose record were to be written."""


def _wait(seconds: float, progress: Progress) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        progress("wait", 0, None)
        time.sleep(min(left, _LOOK))
