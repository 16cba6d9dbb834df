"""The cache of bases: what is there, what is in use, what may go, and its going.

A base is one of the base folder, or one that a backend's store keeps.  Everything here holds
for both alike.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from oslo_config import cfg

from imgbackend import errors
from imgbackend.bases.folders_seen import FoldersSeen
from imgbackend.bases.instance_folders import nothing
from imgbackend.bases.store import Bases
from imgbackend.cache import inventory, upstream
from imgbackend.cache.clocks import Clocks
from imgbackend.cache.evict import Outcome
from imgbackend.cache.garbage.collect import LeftBehind, Leftover, settled
from imgbackend.cache.garbage.of_disks import Orphans
from imgbackend.cache.garbage.of_files import Strewn
from imgbackend.cache.garbage.of_instances import InstanceFolders
from imgbackend.cache.garbage.of_snapshots import Workrooms
from imgbackend.cache.policy import CachedBase, Policy
from imgbackend.cache.ports import Ports, Stores
from imgbackend.cache.prefetch import Prefetched, Prefetching, silent
from imgbackend.cache.prune import Pass, Sweep, go_on
from imgbackend.cache.sharing_hosts import SeenHost, SharingHosts
from imgbackend.cache.usage import Domains, Use, no_domains
from imgbackend.cache.verify.of_folder import Verification, Verified, chosen
from imgbackend.state.pins import Pin
from imgbackend.system import extents, files
from imgbackend.system.host import Host
from imgbackend.system.shared_storage import NEWS, file_system, least_lease
from imgbackend.types import Progress, ignore, is_base_name

__all__ = [
    "Cache",
    "CachedBase",
    "LeftBehind",
    "Leftover",
    "Listing",
    "Outcome",
    "Pass",
    "Policy",
    "Prefetched",
    "SeenHost",
    "Stores",
    "Verified",
    "policy_of",
]


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


class Cache:
    """The bases of one engine."""

    def __init__(
        self,
        host: Host,
        bases: Bases,
        ports: Ports,
        policy: Policy,
        domains: Domains = no_domains,
    ) -> None:
        """``domains`` tells what the hypervisor's domains open."""
        self._host, self._bases, self._ports = host, bases, ports
        self.policy = policy
        """What the configuration allows."""
        self._clocks, self._domains = Clocks(host), domains
        self._hosts = SharingHosts(host, self._clocks.instances)
        self._sweep = Sweep(host, bases, ports.stores, policy, self._clocks, self._look)

    def bases(self, *, ask_sources: bool = False) -> Listing:
        """Every base, with the disks that hang on it.

        ``ask_sources``: ask where they are from whether the images are still there, for a minute at most; a source
        that fails has said nothing.

        :raises ConfigError: if the base folder cannot be read.
        """
        with self._translating_errors():
            listing, _ = self._listed()
            return replace(listing, bases=self._asked(listing.bases)) if ask_sources else listing

    def _listed(self) -> tuple[Listing, Stores]:
        use = self._look()
        stores = self._ports.stores(use.backends)
        found, faults = inventory.everything(self._host, self._bases, stores.opened, use)
        faults = [*use.unseen, *stores.faults, *faults]
        return Listing(bases=found, stores=sorted(stores.opened), faults=faults, foreign=use.foreign), stores

    def pins(self) -> frozenset[Pin]:
        """All pins, also of bases that are not there; each has a ``name`` and a ``store``."""
        with self._translating_errors():
            return self._host.pins.all()

    def pin(self, name: str, store: str | None = None) -> None:
        """Keep a base, used or not, until it is unpinned; twice is no error.

        On return the pin survives a power cut, and no pass that is under way removes the base.
        ``store`` is the backend whose store keeps it, None the base folder.  The base need not be there.

        :raises ConfigError: if no base can have this name, or the pin cannot be written.
        """
        self._check(name)
        with self._translating_errors(), self._host.locks.base(name):
            self._host.pins.set(name, store)

    def unpin(self, name: str, store: str | None = None) -> None:
        """Let a base go when it is old enough; one that is not pinned is no error.

        :raises ConfigError: if no base can have this name, or the pin cannot be removed.
        """
        self._check(name)
        with self._translating_errors(), self._host.locks.base(name):
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
        A bad one is put aside: the next disk of its image has it fetched again.  Those of a store whose driver does not
        give their bytes back are told as skipped.

        :raises ConfigError: if there is no base of such a name.
        """
        with self._translating_errors():
            listing, stores = self._listed()
            found = chosen(listing.bases, names, store, sample)
            return Verification(self._host, stores.opened, rate, self._clocks.bases).verify_all(found, progress)

    def prune(
        self,
        *,
        dry_run: bool = False,
        ask_sources: bool = False,
        stop: Callable[[], bool] = go_on,
        alive: Callable[[], object] = nothing,
    ) -> Pass:
        """Remove the bases that nothing needs and that the policy lets go; note the use of the others.

        No base is removed on which a disk hangs, which is pinned, or which was used within
        ``lease_seconds``; none at all where some disk could not be looked at.  Each goes under its lock,
        after another look at its last use, its pin, and the folders that changed since.  ``dry_run`` changes nothing.
        ``ask_sources``: whose image is gone from its source may go earlier; see :meth:`bases`.
        ``stop`` is asked before each base; where it says yes, what is left is left to the next pass.  ``alive`` is
        called before each folder and each leftover that is looked at; what it raises ends the pass.
        The metrics are written, where there is a file for them.
        What killed calls left behind goes too, as :meth:`leftovers` tells.

        :raises ConfigError: if the base folder cannot be read, or is shared and ``lease_seconds`` too short for that,
            or another host has this host's name.
        """
        with self._translating_errors():
            self._expect_safe_to_remove()
            asked = self._asked if ask_sources else None
            done, seen = self._sweep.run(dry_run=dry_run, stop=stop, alive=alive, asked=asked)
            if not done.stopped:
                done = self._cleared(done, seen, dry_run=dry_run, alive=alive)
            if self.policy.metrics_file is not None and not dry_run:
                self._tell(done, self.policy.metrics_file)
            return done

    def _asked(self, bases: list[CachedBase]) -> list[CachedBase]:
        return upstream.asked(bases, self._ports.image_now)

    def _tell(self, done: Pass, path: Path) -> None:
        from imgbackend.cache import prometheus

        measured = prometheus.Measured(
            bases=[each.base for each in done.outcomes if each.action not in ("removed", "gone")],
            free=files.free_bytes(files.nearest(self._host.bases)),
            faults=len(done.faults),
            hosts=sum(each.alive or each.here for each in self._hosts.all()),
        )
        try:
            prometheus.write(path, self._host.metrics.counts(), measured)
        except OSError as exc:
            done.faults.append(f"the metrics cannot be written: {files.as_error(exc, path)}")

    def prefetch(
        self,
        refs: Iterable[str],
        images_type: str | None = None,
        *,
        at_once: int | None = None,
        jitter: float | None = None,
        progress: Callable[[str], Progress] = silent,
    ) -> list[Prefetched]:
        """Fetch images into the cache before a disk wants them; for each, in the order given, what became of it.

        ``refs`` are as for ``engine.image``.  The bases are made where the disks of the backend
        ``images_type`` (None: the configured one) would have them made, with the same locks: a disk that wants
        one of them meanwhile waits, and fetches nothing.  A base counts as used now, whether or not it was there.
        The kernel and the ramdisk that an image names come with it, into the base folder.
        ``at_once`` and ``jitter`` (seconds) None: as configured.  ``progress`` makes the progress of an
        image; what one of these raises ends them all.  What fails is told in the result, and is no error.

        :raises ConfigError: if there is no such backend.
        :raises StorageUnavailable: if its storage does not answer.
        """
        backend = self._ports.backend(images_type)
        return Prefetching(self._host, self._bases, backend, self._ports).all(
            refs,
            at_once=at_once or self.policy.at_once,
            jitter=self.policy.jitter if jitter is None else jitter,
            progress=progress,
        )

    def make_room(self, need: int) -> bool:
        """Remove bases of the folder that may go, the least recently used first, so that ``need`` bytes are freed.

        Whether one went.  None is removed where all of them do not suffice.  A fetch that lacks room calls it, under
        its base's lock.
        """
        with self._translating_errors():
            self._expect_safe_to_remove()
            return self._sweep.make_room(need)

    def taken(self) -> int:
        """Bytes that the bases of the folder take together, with those that were put aside and what is being fetched.

        An extent that several of them share counts once.

        :raises ConfigError: if the base folder cannot be read.
        """
        with self._translating_errors():
            try:
                names = os.listdir(self._host.bases)
            except FileNotFoundError:
                return 0
            mine = (name for name in names if is_base_name(name.partition(".")[0]) and not name.endswith(".json"))
            return extents.together(self._host.bases / name for name in mine)

    def hosts(self) -> list[SeenHost]:
        """The hosts that make passes over this folder, this one too, by name."""
        with self._translating_errors():
            return self._hosts.all()

    def forget_host(self, name: str) -> None:
        """Take a host off the record that is no more; one that is not on it is no error."""
        self._hosts.forget(name)

    def namesake(self) -> str | None:
        """Why the name of this host is another host's, in a line that says what to do; None: it is its own."""
        with self._translating_errors():
            return self._hosts.namesake()

    def paths(self) -> dict[str, str]:
        """Where the hosts that made passes have mounted the folder, by their names."""
        with self._translating_errors():
            return self._hosts.paths()

    def in_use(self, name: str) -> bool:
        """Whether a disk or a domain needs a base of the folder, or may do so: not all of them could be looked at."""
        use = self._look()
        return bool(use.disks(name)) or bool(use.unseen)

    def leftovers(self, *, remove: bool = False, alive: Callable[[], object] = nothing) -> LeftBehind:
        """What killed calls left behind, in folders and in stores, with what is being made just now.

        ``remove``: what is surely dead goes.  Its lock is free, and whoever made it was noted and is gone, or it is
        unchanged for ``lease_seconds``.  No whole disk goes, and nothing that has no name of ours.
        ``alive`` is called before each folder and each leftover that is looked at, and may raise.

        :raises ConfigError: if what is dead is to go, and another host has this host's name.
        :raises StorageUnavailable: if ``instances_path`` does not answer.
        """
        if remove:
            with self._translating_errors():
                self._expect_safe_to_remove()
                self._sweep.refuse_namesake()
        return self._left(FoldersSeen(), remove=remove, alive=alive)

    def _expect_safe_to_remove(self) -> None:
        """Where hosts see late what others did, the lease is all that keeps what another host just began to use.

        :raises ConfigError: if it is too short for that.
        :raises StorageUnavailable: if the folder seems not to be mounted.
        """
        self._ports.expect_mounted()
        for folder in (self._host.instances, self._host.bases):
            least = least_lease(folder)
            if self.policy.lease < least:
                raise errors.ConfigError(
                    f"[image_cache] lease_seconds is {self.policy.lease:g}, which is too short for {folder}: on "
                    f"{file_system(folder)} a host may see {NEWS} s late what another did, and a pass could remove "
                    f"what that just began to use; make it {least} or more"
                )

    def _left(self, seen: FoldersSeen, *, remove: bool, alive: Callable[[], object], whole: bool = True) -> LeftBehind:
        with self._translating_errors():
            host, ports, policy, clocks = self._host, self._ports, self.policy, self._clocks
            strewn = Strewn(host, self._bases, policy, lambda: self._look(alive), clocks, alive, seen)
            shared = any(not each.here for each in self._hosts.all())
            orphans = Orphans(host, ports, policy, clocks, alive, seen, whole=whole, shared=shared)
            folders = InstanceFolders(host, ports, policy, clocks, alive, seen)
            faults: list[str] = []
            rooms = Workrooms(self._host, self._ports, self.policy)
            candidates = itertools.chain(
                orphans.candidates(), folders.candidates(), strewn.candidates(), rooms.candidates()
            )
            found = list(settled(candidates, self._host, faults, remove=remove))
            unknown = [*strewn.faults, *orphans.faults, *rooms.faults]
            return LeftBehind(leftovers=found, faults=faults, unknown=unknown)

    def _cleared(self, done: Pass, seen: FoldersSeen, *, dry_run: bool, alive: Callable[[], object]) -> Pass:
        """A pass, with the leftovers that are dead."""
        left = self._left(seen, remove=not dry_run, alive=alive, whole=False)
        dead = [each for each in left.leftovers if each.dead]
        return replace(done, leftovers=dead, faults=[*done.faults, *left.faults])

    def _look(self, alive: Callable[[], object] = nothing) -> Use:
        return Use(self._host, self._domains, alive)

    def _translating_errors(self) -> contextlib.AbstractContextManager[None]:
        return files.translating_errors(self._host.bases)

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
        store_max_size=told.store_max_size,
        store_min_free=told.store_min_free,
        high=told.high_watermark,
        low=min(told.low_watermark, told.high_watermark),
        gone_age=told.remove_gone_minimum_age_seconds,
        at_once=told.precache_concurrency,
        jitter=told.precache_jitter,
        metrics_file=None if told.metrics_file is None else Path(told.metrics_file),
    )
