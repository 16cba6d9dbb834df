"""How a disk comes to be: the algorithm behind ``Disk.cache``.

Under the disk's lock: found, it is kept, its base brought back, and grown; absent, what a killed creation left is
discarded, and it is cloned or created, compared, grown, and undone on failure.  No driver knows of this.
"""

import contextlib
import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from imgbackend import errors
from imgbackend.bases import inspect
from imgbackend.bases.fetch import declared_of, refuse_early, role_of
from imgbackend.disks import clone_parent, new_record, same_image
from imgbackend.disks.prepare import Preparer
from imgbackend.driver.abilities import Backed, Cloneable, HoldsBases, Marked
from imgbackend.state import manifests
from imgbackend.state.manifests import Manifest
from imgbackend.system import stale
from imgbackend.types import (
    Cached,
    Declared,
    DiskInfo,
    FetchFunc,
    ImageInfo,
    Plan,
    Progress,
    Role,
    Way,
    is_base_name,
)

if TYPE_CHECKING:
    from imgbackend.bases.store import Bases
    from imgbackend.driver.contract import Disk

    AnyDisk: TypeAlias = Disk[Any]

LOG = logging.getLogger(__name__)
_TRIES: Final = 3
"""How often a disk is begun whose base another host removes while it is read."""


def whole_size(disk: "AnyDisk", size: int | None) -> int | None:
    """A size rounded up to what the backend can make.

    :raises DiskError: if it is none.
    """
    if size is None:
        return None
    if size <= 0:
        raise errors.DiskError(f"{size} is no size for a disk; give bytes, or None for the image's own size")
    return inspect.rounded(size, disk.backend.traits.granularity)


def cache(disk: "AnyDisk", fetch: FetchFunc, filename: str, size: int | None, progress: Progress) -> Cached:
    """See :meth:`imgbackend.driver.contract.Disk.cache`."""
    started = time.monotonic()
    role = role_of(fetch)
    _check(disk, role, filename, size)
    order = _Order(disk=disk, fetch=fetch, name=filename, role=role, size=whole_size(disk, size))
    with disk.locked(progress, changing=False) as watched:
        disk.backend.attached.owners.check(disk, adopting=True)
        found = disk.find()
        if found is not None and disk.recorded is None and disk.backend.traits.files:
            raise errors.OnNoRecord(str(disk.id))
        if found is not None:
            return _kept(order, found, watched, started)
        disk.recorded = None
        try:
            return _made(order, watched, started)
        except BaseException:
            with contextlib.suppress(OSError):
                disk.backend.host.locks.forget(disk.id)
            raise


def explain(disk: "AnyDisk", fetch: FetchFunc, filename: str, size: int | None) -> Plan | None:
    """See :meth:`imgbackend.driver.contract.Disk.explain`."""
    role = role_of(fetch)
    _check(disk, role, filename, size)
    wanted = whole_size(disk, size)
    with disk.reading():
        if disk.find() is not None:
            return None
        declared = declared_of(fetch) or _bare(role)
        refuse_early(disk.backend.host, declared, wanted)
        parent, refused = clone_parent.find(disk, declared, wanted)
        if parent is not None:
            return Plan(way="clone")
        plan = disk.plan(declared, _known(disk, role, filename, wanted), wanted)
        return dataclasses.replace(plan, reason="; ".join(filter(None, [refused, plan.reason])))


def _known(disk: "AnyDisk", role: Role, name: str, size: int | None) -> ImageInfo | None:
    """The base that is there already, in the backend's store or in the folder of bases."""
    if role == "private":
        return None
    if isinstance(disk.backend, HoldsBases):
        held = disk.backend.find_base(name)
        if held is not None and size is not None and held.size > size:
            raise errors.TemplateTooLarge(held.size, size)
        return ImageInfo(format="raw", virtual_size=held.size) if held is not None else None
    manifest = manifests.read(disk.backend.attached.bases.path(name))
    if manifest is not None:
        manifest.check_size(size)
    return manifest.info if manifest is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    disk: "AnyDisk"
    fetch: FetchFunc
    name: str
    role: Role
    size: int | None


def _check(disk: "AnyDisk", role: Role, filename: str, size: int | None) -> None:
    if role != "private" and not is_base_name(filename):
        raise errors.DiskError(f"not a name for a base: {filename!r}; it is the sha1 of the image's id, in hex")
    if role == "boot-file" and size is not None:
        raise errors.DiskError("a kernel or ramdisk is kept byte for byte and has no size of its own; give none")
    if role == "boot-file" and disk.backend.traits.formats[0] != "raw":
        raise errors.ConfigError(f"{disk.backend.name} does not keep a file byte for byte; keep this disk on raw")


def _bare(role: Role) -> Declared:
    return Declared(image_id="", source="", role=role)


def _kept(order: _Order, found: DiskInfo, progress: Progress, started: float) -> Cached:
    """The disk exists: bring its base back where that is gone, and grow it."""
    disk, fetched, grown = order.disk, False, False
    same_image.check(disk, order.fetch, order.name)
    _adopt(disk, found)
    if isinstance(disk, Backed):
        backing = disk.backing()
        if backing is not None:
            fetched = _bring_back(order, backing[0].name, backing[1], progress)
    if order.size is not None and found.size < order.size and order.role != "boot-file":
        disk.expect_closed()
        disk.resize_image(order.size)
        found, grown = disk.found(), True
    base = disk.recorded.base if disk.recorded else None
    return Cached(
        way="exists",
        reason="",
        base=base,
        fetched=fetched,
        grown=grown,
        size=found.size,
        seconds=time.monotonic() - started,
    )


def _adopt(disk: "AnyDisk", found: DiskInfo) -> None:
    """Remember a disk that nobody here made: Nova's, another host's, one whose record was lost.

    Its store knew it by its name or its tags.  A file says nothing of whose it is, and its
    format is not guessed: that takes a record.
    """
    if disk.recorded is not None or disk.backend.traits.files:
        return
    host, folder = disk.backend.host, disk.backend.host.folder(disk.id)
    mark = disk.mark() if isinstance(disk, Marked) else None
    if isinstance(disk, Marked) and mark is not None and mark.owner is None:
        disk.expect_closed()  # another host's guest would have it open
        disk.set_mark(mark, disk.backend.attached.owners.me())
        LOG.warning("%s on %s was noted as nobody's, and is taken over by this host", disk.id, disk.backend.name)
    changed = [*host.new_folder(folder), folder]
    identity = mark.identity if mark is not None else None
    disk.recorded = new_record.of(disk, format=found.format, way="exists", identity=identity)
    disk.remember(disk.recorded)
    host.flush_folders(changed)


def _bring_back(order: _Order, name: str, format: str, progress: Progress) -> bool:
    bases: Bases = order.disk.backend.attached.bases
    if bases.path(name).exists():
        return False
    if order.name != name and not name.startswith(f"{order.name}_"):
        raise errors.BaseMissing(f"the base {name} of {order.disk.id} is gone; give the image that it was made from")
    digest = order.disk.recorded.digest if order.disk.recorded else None
    return bases.bring_back(name, order.fetch, format, digest, progress)


def _made(order: _Order, progress: Progress, started: float) -> Cached:
    """The disk is absent: make it, or leave nothing."""
    disk, host = order.disk, order.disk.backend.host
    folder = host.folder(disk.id)
    changed = host.new_folder(folder)
    if not disk.backend.traits.files:
        changed.append(folder)  # the record is in it, and no file of the disk
    disk.discard()
    making = _Making(order, progress)
    try:
        way = making.cloned() or making.created()
        found = _published(disk)
        grown = order.size is not None and found.size < order.size
        if grown and order.size is not None:
            disk.resize_image(order.size)
            found = disk.found()
        making.compare_base()
        host.flush_folders(changed)
    except BaseException as failure:
        making.close()
        undo(disk, failure)
        raise
    making.close()
    seconds = time.monotonic() - started
    if making.based:
        host.metrics.record_disk(hit=not making.fetched, seconds=seconds)
    return Cached(
        way=way,
        reason=making.reason(way),
        base=disk.recorded.base if disk.recorded else None,
        fetched=making.fetched,
        grown=grown,
        size=found.size,
        seconds=seconds,
    )


def _published(disk: "AnyDisk") -> DiskInfo:
    found = disk.find()
    if found is None:
        raise errors.StorageError(f"the driver {disk.backend.driver} made no disk")
    return found


def undo(disk: "AnyDisk", failure: BaseException) -> None:
    """Leave nothing of a disk that could not be made; what fails here must not hide ``failure``.

    Where the disk cannot be removed its record stays: it tells what is there.
    """
    try:
        _remove_made(disk)
        disk.discard()
        disk.backend.host.records.forget(disk.id, durable=False, keep_folder=True)
    except Exception as exc:
        failure.add_note(f"and what was made of {disk.id} cannot be removed: {exc}")
        LOG.warning("What was made of %s is left, and stays on record: %s", disk.id, exc)


def _remove_made(disk: "AnyDisk") -> None:
    """Remove what this call published: a driver may fail after that.

    In a store that other hosts use, one of them may have made a disk of this name meanwhile: that has another identity.
    """
    if isinstance(disk, Marked):
        mark = disk.mark()
        if mark is None or disk.recorded is None or mark.identity != disk.recorded.identity:
            return
    was_there = disk.may_be_there()
    disk.remove_image()
    if was_there:
        disk.note_loss("undo", "its creation failed")


class _Making:
    """One attempt, or two, at a disk that is absent."""

    def __init__(self, order: _Order, progress: Progress) -> None:
        self._order, self._disk, self._progress = order, order.disk, progress
        self._preparer: Preparer | None = None
        self._planned: Plan | None = None
        self._refused = ""

    @property
    def in_place(self) -> bool:
        return self._preparer is not None and self._preparer.in_place

    @property
    def based(self) -> bool:
        """It is made from a base: no clone of the source's own image, and nothing put in place."""
        return self._preparer is not None and not self.in_place

    @property
    def fetched(self) -> bool:
        return self._preparer is not None and self._preparer.fetched

    def close(self) -> None:
        if self._preparer is not None:
            self._preparer.close()

    def cloned(self) -> Way | None:
        """Clone the disk from a location of the source, where its storage can."""
        disk = self._disk
        if not isinstance(disk, Cloneable) or self._order.role != "image":
            return None
        try:
            declared = declared_of(self._order.fetch)
        except errors.SourceUnavailable as exc:
            LOG.warning("Cannot ask for locations to clone from: %s", exc)
            return None
        parent, self._refused = clone_parent.find(disk, declared, self._order.size)
        if parent is None:
            return None
        url, info = parent
        self._remember(info, None, "clone", declared)
        return disk.clone_image(url)

    def created(self) -> Way:
        """Make the disk from its template; once more where the store's base just vanished."""
        try:
            return self._read_anew()
        except errors.BaseMissing:
            if not isinstance(self._disk.backend, HoldsBases):
                raise
            self._disk.discard()
            return self._read_anew()

    def _read_anew(self) -> Way:
        """The same; again where another host removed the base while it was read, which NFS does not bear."""
        for _ in range(_TRIES - 1):
            try:
                return self._create()
            except OSError as exc:
                if not stale.is_stale(exc):
                    raise
            self._disk.discard()
        return self._create()

    def _create(self) -> Way:
        order, backend = self._order, self._disk.backend
        self.close()
        self._preparer = Preparer(
            backend.host,
            backend.attached.bases,
            backend if isinstance(backend, HoldsBases) else None,
            order.fetch,
            order.name,
            order.size,
            self._progress,
            self._prepared,
        )
        way = self._disk.create_image(self._preparer, self._preparer.base, order.size)
        if self._planned is not None and way != self._planned.way and self._disk.recorded is not None:
            self._disk.amend(way=way)
        return way

    def _prepared(self, info: ImageInfo, manifest: Manifest | None) -> None:
        """The template's facts are known: write the record, before anything is published."""
        known = None if self.in_place else info
        self._planned = self._disk.plan(_bare(self._order.role), known, self._order.size)
        self._remember(info, manifest, self._planned.way)

    def _remember(self, info: ImageInfo, manifest: Manifest | None, way: Way, cloned: Declared | None = None) -> None:
        """Write the record; a disk that is ``cloned`` from its source's own has no base."""
        disk = self._disk
        kept = disk.backend.traits.formats
        tags = self._preparer.tags if self._preparer else {}
        disk.recorded = new_record.of(
            disk,
            format=info.format if info.format in kept else kept[0],
            image_id=cloned.image_id if cloned else manifest.image_id if manifest else tags.get("image_id") or None,
            base=None if cloned or self.in_place else self._order.name,
            digest=manifest.digest if manifest else tags.get("digest") or None,
            way=way,
            identity=new_record.new_identity(disk),
        )
        disk.remember(disk.recorded)

    def reason(self, way: Way) -> str:
        """Why not a faster way."""
        planned = self._planned
        why = planned.reason if planned else ""
        if planned is not None and planned.way != way:
            why = f"the storage refused the way {planned.way}"
        return "; ".join(filter(None, [self._refused, why]))

    def compare_base(self) -> None:
        """The base of an overlay may have gone meanwhile: bring it back, or undo the disk."""
        disk = self._disk
        if not isinstance(disk, Backed) or self._preparer is None or self._preparer.manifest is None:
            return
        bases, base, manifest = disk.backend.attached.bases, self._order.name, self._preparer.manifest
        # under its lock: a pass that looked before the disk was there has removed the base by then, or sees the disk
        with disk.backend.host.locks.base(base, self._progress):
            if bases.same(base, manifest.identity):
                return
        if not bases.bring_back(base, self._order.fetch, manifest.format, manifest.digest, self._progress):
            now = manifests.read(bases.path(base))
            if now is None or now.digest is None or now.digest != manifest.digest:
                raise errors.BaseMissing(f"the base {base} was replaced while {disk.id} was made; try again")
        LOG.warning("The base %s went away while %s was made, and was fetched again", base, disk.id)
