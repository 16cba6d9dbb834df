"""The backend: a Ceph pool, its options, its bases and its lock."""

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final

from oslo_config import cfg, types

from imgbackend import errors
from imgbackend.driver.abilities import Checkable, IdentifiesStore, SharedStore, TellsLeftovers
from imgbackend.system.host import Host
from imgbackend.types import (
    Capacity,
    DiskId,
    Finding,
    ImageInfo,
    Progress,
    StoreBase,
    StoreLeftover,
    Traits,
    ignore,
)
from imgbackend_rbd import checks, headers, locations, marks, older_hosts, to_image
from imgbackend_rbd.bases import CephPoolBases
from imgbackend_rbd.disk import RbdDisk
from imgbackend_rbd.lock import StoreLock
from imgbackend_rbd.pool import PoolBackend

_LOCK_SECONDS: Final = 30
"""How long an importer that was killed holds others up."""


def _was(name: str) -> list[cfg.DeprecatedOpt]:
    return [cfg.DeprecatedOpt(name, group="libvirt")]


class RbdBackend(PoolBackend, SharedStore, IdentifiesStore, Checkable, TellsLeftovers):
    """Disks are clones of a base that the pool keeps once, or of Glance's own image in the same cluster."""

    disk_type = RbdDisk
    traits = Traits(shared=True)
    store_options: ClassVar[Sequence[str]] = ("pool", "ceph_conf")
    opts: ClassVar[Sequence[cfg.Opt]] = (
        cfg.StrOpt("pool", default="rbd", deprecated_opts=_was("images_rbd_pool"), help="The pool of the disks."),
        cfg.StrOpt(
            "user",
            deprecated_opts=_was("rbd_user"),
            help="The user of Ceph, without client.; None: Ceph's own default, admin.",
        ),
        cfg.StrOpt(
            "ceph_conf",
            default="",
            deprecated_opts=_was("images_rbd_ceph_conf"),
            help="The cluster's ceph.conf; empty: where Ceph looks for it, such as /etc/ceph/ceph.conf.",
        ),
        cfg.Opt(
            "connect_timeout",
            type=types.Integer(),
            default=5,
            deprecated_opts=_was("rbd_connect_timeout"),
            help="Seconds that connecting may take; 0 or less: as long as ceph.conf says (client_mount_timeout).",
        ),
        cfg.Opt(
            "operation_timeout",
            type=types.Integer(min=1),
            default=30,
            help="Seconds that a monitor or an OSD may take for one operation.",
        ),
        cfg.StrOpt(
            "secret_uuid",
            deprecated_opts=_was("rbd_secret_uuid"),
            help="The libvirt secret that has the user's key.",
        ),
        cfg.Opt(
            "destroy_volume_retries",
            type=types.Integer(min=0),
            default=12,
            deprecated_opts=_was("rbd_destroy_volume_retries"),
            help="How often the removal of a disk that is in use is tried again.",
        ),
        cfg.Opt(
            "destroy_volume_retry_interval",
            type=types.Float(min=0),
            default=5,
            deprecated_opts=_was("rbd_destroy_volume_retry_interval"),
            help="Seconds between two attempts to remove a disk that is in use.",
        ),
    )

    def __init__(self, name: str, conf: cfg.ConfigOpts.GroupAttr, host: Host) -> None:
        """Keep them; nobody is asked."""
        super().__init__(name, conf, host)
        self._locks: dict[str, StoreLock] = {}

    def open(self) -> None:
        """Connect, find the pool, and see that we may read it."""
        super().open()
        self._bases = CephPoolBases(self.cluster, self.pool, self.patience)

    def store_identity(self) -> str:
        """By the cluster's id and the pool's number: a pool that is made anew under a name has another number."""
        return self.cluster.identity(self.pool)

    def list_disks(self) -> Iterator[DiskId]:
        """By their marks; and by this host's records, for one that is unfinished, or was taken over, has none."""
        recorded, found = set(self.host.records.kept_by(self.name)), []
        with self.cluster.asked("listing the disks", self.pool):
            for image in self.cluster.rbd().list2(self.ioctx):
                disk = locations.disk_of(image["name"])
                if disk is not None and (disk in recorded or self._is_ours(image["id"])):
                    found.append(disk)
        return iter(found)

    def made_here(self) -> Iterator[DiskId]:
        """By their marks, which say what host made them."""
        with self.cluster.asked("listing the disks", self.pool):
            listed = [(locations.disk_of(image["name"]), image["id"]) for image in self.cluster.rbd().list2(self.ioctx)]
            here = [disk for disk, image_id in listed if disk and self._is_ours(image_id, here=True)]
        return iter(here)

    def _is_ours(self, image_id: str, *, here: bool = False) -> bool:
        try:
            header = headers.read(self.ioctx, image_id, (marks.MARK,))
        except self.cluster.absent:
            return False
        if marks.own(header).get("backend") != self.name:
            return False
        owner = marks.of(self, header).owner
        return not here or (owner is not None and owner == self.attached.owners.known_me())

    def capacity(self) -> Capacity:
        """What the pool could still take, replicas and all, by the monitors' figures."""
        told = self.cluster.monitor("df")
        pools = told.get("pools")
        for pool in pools if isinstance(pools, list) else []:
            stats: dict[str, int] = pool["stats"]
            if pool["name"] == self.pool and (stats["max_avail"] or stats["stored"]):
                return Capacity(total=stats["max_avail"] + stats["stored"], free=stats["max_avail"])
        why = "it is new, try again in some seconds" if pools else "no manager is active, see ceph mgr stat"
        raise errors.StorageUnavailable(f"the Ceph cluster does not tell how large the pool {self.pool} is: {why}")

    def findings(self) -> Iterator[Finding]:
        """Whether disks can be made here, and how; and who makes them without owners."""
        store = checks.Store(cluster=self.cluster, pool=self.pool, host=self.host, secret_uuid=self.conf.secret_uuid)
        yield from checks.findings(store)
        yield older_hosts.finding(self)

    def leftovers(self) -> Iterator[StoreLeftover]:
        """What is on the list of the unfinished, of all hosts; and bases that are not visible."""
        with self.cluster.asked("reading the list of the unfinished", self.pool):
            listed, holders = self.unfinished.all(), self.unfinished.holders()
        for name, entry in listed.items():
            pool, image = self.pool, name
            if entry.copy:
                pool, _, image = entry.copy.partition("/")
            disk = locations.disk_of(name.removesuffix(to_image.entry_name("")))
            if disk is not None:
                with self.cluster.asked(f"looking at {image}", pool):
                    taken = headers.taken(self.cluster.pool(pool), image, self.cluster.absent, entry.image)
                yield StoreLeftover(
                    name=f"{pool}/{image} ({entry.host})",
                    disk=disk,
                    base=None,
                    allocated=taken,
                    time=entry.time,
                    live=entry.lease in holders,
                )
        yield from self._bases.unmarked()

    # Bases

    def find_base(self, name: str) -> StoreBase | None:
        """By its mark; its children are not counted."""
        return self._bases.find(name)

    def list_bases(self) -> Iterator[StoreBase]:
        """By their marks, with the number of their children."""
        return self._bases.all()

    def touch_base(self, name: str) -> None:
        """To some minutes."""
        self._bases.touch(name)

    def remove_base(self, name: str) -> None:
        """DiskBusy where disks are clones of it, or of what it was."""
        self._bases.remove(name)

    def import_base(
        self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress
    ) -> StoreBase:
        """Published only if the store's lock is held still, where it was taken."""

        def check() -> None:
            lock = self._locks.get(name)
            if lock is not None:
                lock.check()

        return self._bases.put(name, path, info, tags, progress, check)

    def read_base(self, name: str) -> Generator[tuple[int, bytes | memoryview], None, None]:
        """From its snapshot."""
        return self._bases.read(name)

    def tag_base(self, name: str, tags: Mapping[str, str]) -> None:
        """In its mark."""
        self._bases.tag(name, tags)

    def rename_base(self, name: str, new: str, tags: Mapping[str, str]) -> None:
        """Its clones go on: they know it by its id."""
        self._bases.rename(name, new, tags)

    @contextlib.contextmanager
    def store_lock(self, name: str, progress: Progress = ignore) -> Iterator[None]:
        """RADOS' own advisory lock, renewed while it is held."""
        with StoreLock(self.cluster, self.pool, name, _LOCK_SECONDS).held(progress) as lock:
            self._locks[name] = lock
            try:
                yield
            finally:
                del self._locks[name]
