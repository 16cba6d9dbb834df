"""The contract between the engine and a driver.

A *backend* is a configured store of disks; a *disk* is one disk of one instance, by name.
The engine decides whether and when something is done, the driver knows how.  Locks, their
order, records, the base and its checks, the comparison of sizes, undoing, progress and the
translation of ``OSError`` are the engine's, and are done before and after a driver is
called.  A driver takes no lock, probes no format and makes no folder of an instance.

*Whole* means: the template's bytes, then zeroes, at least the template's size, under the
disk's own name.  *Unfinished* is anything under another name.  A disk is published by one
operation that is atomic on its storage (a rename, a snapshot, a clone); growing it is a
later step that can be repeated.  A process killed at any instant leaves a disk absent or
whole, and nothing that :meth:`Disk.discard` does not clear.

A driver is two classes::

    class ZfsDisk(Disk["ZfsBackend"]):      # eight hooks
    class ZfsBackend(Backend):              # disk_type, traits, opts, open, close, list_disks, capacity

named by an entry point in ``imgbackend.backends``.  What it can do beyond that it says by
mixing in :mod:`imgbackend.driver.abilities`.
"""

import abc
import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast, final

from oslo_config import cfg

from imgbackend import errors
from imgbackend.disks import create, export
from imgbackend.driver.abilities import Exclusive, Lockable, TellsOpen
from imgbackend.driver.attached import Attached
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import audit, files, image_lock, qemu_img
from imgbackend.system.host import Host
from imgbackend.system.progress import Watched, translating_errors
from imgbackend.types import (
    Cached,
    Capacity,
    Declared,
    DiskId,
    DiskInfo,
    DiskSource,
    FetchFunc,
    ImageInfo,
    Plan,
    Progress,
    Record,
    Traits,
    Way,
    ignore,
)


class Backend(abc.ABC):
    """A configured store of disks."""

    disk_type: ClassVar[type["Disk[Any]"]]
    """The class of its disks."""
    traits: Traits = Traits()
    """Facts that the engine acts on, all of them promises; one that the store alone knows, such as
    the granularity of a volume group, is set on the instance by :meth:`open`."""
    opts: ClassVar[Sequence[cfg.Opt]] = ()
    """Options, registered in the backend's own section before it is made."""

    @classmethod
    def for_options(cls, conf: cfg.ConfigOpts.GroupAttr) -> "type[Backend]":  # noqa: ARG003 - most drivers have one class
        """The class of a backend with these options: this one, or one that can do more or less.

        For a driver whose abilities depend on how it is configured: they are told by the class.
        Called before the backend is made, with every option readable.  It does no I/O.

        :raises ConfigError: if no backend can have these options.
        """
        return cls

    def __init__(self, name: str, conf: cfg.ConfigOpts.GroupAttr, host: Host) -> None:
        """Keep the section's name, its options, and the host.  Whatever does I/O is for :meth:`open`."""
        self.name = name
        """Of the section; what records of disks name."""
        self.conf = conf
        """The section: ``self.conf.folder`` is the value of the option ``folder``."""
        self.host = host
        """This machine: its paths, its commands, the engine's settings."""
        self.driver = name
        """The entry point's name."""
        self._attached: Attached | None = None

    def open(self) -> None:  # noqa: B027 - a driver may have nothing to open
        """Read every option, check tools, connect.  Called once, before any disk is used.

        It changes nothing: whoever lists the backends of a host opens them all.

        :raises ConfigError: if the operator has to change something; it says what.
        :raises StorageUnavailable: if trying again later may help.
        """

    def close(self) -> None:  # noqa: B027 - a driver may have nothing to close
        """Let go of what ``open`` took.  Twice is no error."""

    @abc.abstractmethod
    def list_disks(self) -> Iterator[DiskId]:
        """What this store holds, whole or not; known by a tag or a record, never by a prefix."""

    @abc.abstractmethod
    def capacity(self) -> Capacity:
        """Of the store."""

    @final
    def disk(self, disk_id: DiskId) -> "Disk[Any]":
        """The disk of that name, whether or not it exists.  Touches nothing."""
        return self.disk_type(self, disk_id)

    @final
    def attach(self, driver: str, attached: Attached) -> None:
        """For the engine: make the final methods of this backend's disks work."""
        self.driver, self._attached = driver, attached

    @final
    @property
    def attached(self) -> Attached:
        """What the engine gave; StorageError where there was none."""
        if self._attached is None:
            raise errors.StorageError(f"the backend {self.name} was not made by an engine")
        return self._attached

    @final
    def __enter__(self) -> "Backend":
        try:
            self.open()
        except OSError as exc:
            raise files.as_error(exc, self.host.instances) from exc
        return self

    @final
    def __exit__(self, *exc: object) -> None:
        self.close()


BackendT = TypeVar("BackendT", bound=Backend)


class Disk(Lockable, Generic[BackendT]):
    """One disk: a name, not a connection.  Making one touches nothing."""

    def __init__(self, backend: BackendT, disk_id: DiskId) -> None:
        """Keep both.  A driver's disk keeps no other state, but for what it saw in one :attr:`operation`."""
        self._turn: tuple[int, object] | None = None
        self.backend = backend
        """Its store."""
        self.id = disk_id
        """Its name: ``id.instance`` and ``id.name``."""
        self.recorded: Record | None = None
        """What is known of this disk, set by the engine before any hook is called; where it is
        there, the format is its, never what the bytes look like."""
        self.given_record: Record | None = None
        """For the engine: the record that binds this disk, where it does not lie in the instance's folder."""

    # For callers: final; the lock is held where something changes, the record is checked first.

    @final
    def cache(
        self, fetch_func: FetchFunc, filename: str, size: int | None = None, *, progress: Progress = ignore
    ) -> Cached:
        """Make sure that this disk exists, whole, and is at least ``size`` bytes large.

        A disk that exists is not made again and never shrunk; it is grown where it is
        smaller, and where its base is gone that is brought back.  Otherwise the template is
        fetched, once for all who ask, into the base named ``filename`` (unused for a private
        template), and the disk is made from it.  ``size`` None is the template's own.  When
        this returns, a power cut leaves the disk whole (``durable_disks``); when it raises,
        nothing is left but what other disks share.

        :raises TemplateError: if the image is refused.
        :raises SourceError: if it cannot be had.
        :raises DiskError: if it is another backend's or of another image, or the call is from a callback of this one.
        :raises StorageError: if the storage fails.
        :raises ConfigError: if the operator has to change something.
        """
        return create.cache(self, fetch_func, filename, size, progress)

    @final
    def explain(self, fetch_func: FetchFunc, filename: str, size: int | None = None) -> Plan | None:
        """What :meth:`cache` would do, without doing it; None: the disk exists."""
        return create.explain(self, fetch_func, filename, size)

    @final
    def exists(self) -> bool:
        """Whether the disk is there, whole.

        :raises StorageUnavailable: if that cannot be told.
        """
        with self.reading():
            return self.find() is not None

    @final
    def info(self) -> DiskInfo:
        """What is there.

        :raises DiskNotFound: if nothing is.
        """
        with self.reading():
            return self.found()

    @final
    def resize(self, size: int) -> None:
        """Grow to ``size`` bytes, rounded up to the backend's granularity.

        :raises DiskError: if the disk is larger: it is never shrunk.
        :raises DiskBusy: if somebody has it open; a guest's is grown by ``Instances.grow``.
        :raises DiskNotFound: if there is none.
        """
        wanted = create.whole_size(self, size)
        with self.locked():
            now = self.found().size
            if wanted is not None and wanted < now:
                raise errors.DiskError(f"{self.id} has {now} bytes and is not shrunk to {wanted}")
            if wanted is not None and wanted > now:
                self.expect_closed()
                self.resize_image(wanted)

    @final
    def remove(self, *, force: bool = False) -> None:
        """Take the disk away, with its record; an absent one is no error.

        ``force``: also where a guest has it open, if the storage can do that: the guest loses what it runs on; and
        also where an instance that is off has it.

        :raises DiskBusy: if something depends on it, or has it open; or an instance has it.
        """
        with self.locked():
            self.discard()
            was_there = self.may_be_there()
            with contextlib.ExitStack() as held:
                if isinstance(self, Exclusive) and not force:
                    held.enter_context(self.exclusively())
                if not force:
                    self.backend.attached.owners.expect_unnamed(self)
                self.remove_image()
            if was_there:
                self.note_loss("remove", "forced: it may have been open" if force else "asked for")
            self.backend.host.records.forget(self.id, durable=self.backend.host.settings.durable)
            self.backend.host.locks.forget(self.id)

    @final
    def extract(self, target: Path, format: str, *, compress: bool = False, progress: Progress = ignore) -> None:
        """Write the whole disk, base included, to a new file, as raw or qcow2.

        The file appears under its name when it is whole.

        :raises DiskError: if the target is there already, or the format is not known.
        :raises DiskBusy: if a guest runs on the disk.
        """
        with self.locked(progress, changing=False) as watched:
            export.extract(self, target, format, compress=compress, progress=watched)

    # For drivers: eight hooks, called by the engine alone.

    @abc.abstractmethod
    def find(self) -> DiskInfo | None:
        """This disk, in the format of :attr:`recorded`, else in the driver's own.

        None only where it is *surely* absent.

        :raises StorageUnavailable: if that cannot be told.
        """

    @abc.abstractmethod
    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        """How ``create_image`` would go about it.  No side effects; ``base`` None: not fetched yet."""

    @abc.abstractmethod
    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """Make the disk, and say which way it took.

        Called under the disk's lock, where ``find`` said None, after ``discard``.  Call
        ``prepare_template`` once, with ``base``, or, where ``base.generated``, with a path of
        the disk's own, to have the bytes put straight there.  It returns what the template
        is, and has refused what is unsafe or larger than ``size``.  Nobody writes to a base.
        Make the disk ``size`` bytes large at once where that costs nothing; else the engine
        grows it.  On an error leave things as they are: ``discard`` is called.
        """

    @abc.abstractmethod
    def discard(self) -> None:
        """Take away what is unfinished; never what is whole."""

    @abc.abstractmethod
    def resize_image(self, size: int) -> None:
        """Grow to ``size``, which is larger than now; what is new reads as zeroes."""

    @abc.abstractmethod
    def remove_image(self) -> None:
        """Take the disk away; absent is no error.  DiskBusy if something depends on it."""

    @abc.abstractmethod
    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        """Write the whole disk into the empty file ``target``, as ``raw`` or ``qcow2``."""

    @abc.abstractmethod
    def source(self) -> DiskSource:
        """How a hypervisor opens the disk.  No I/O; works before the disk exists."""

    # For the engine and the abilities.

    def may_be_there(self) -> bool:
        """Whether something has this disk's name, whole or broken; a driver may tell it faster than :meth:`find`."""
        try:
            return self.find() is not None
        except errors.DiskError:
            return True

    @final
    def note_loss(self, act: str, why: str) -> None:
        """Log that data of the disk are gone now."""
        identity = self.recorded.identity if self.recorded is not None else None
        host = self.backend.host.settings.hostname
        audit.log(act, host=host, what=str(self.id), store=self.backend.name, identity=identity, why=why)

    @final
    def expect_closed(self) -> None:
        """Refuse what must not be done under a guest, as far as the disk itself can tell.

        :raises DiskOpen: if somebody has it open.
        """
        if isinstance(self, Exclusive):
            with self.exclusively():
                pass
        elif isinstance(self, TellsOpen):
            self.refuse_open()

    @final
    def found(self) -> DiskInfo:
        """What ``find`` says; DiskNotFound where it says None, OnNoRecord where nothing tells the format of a file."""
        found = self.find()
        if found is None:
            raise errors.DiskNotFound(f"there is no disk {self.id} on {self.backend.name}")
        if self.recorded is None and self.backend.traits.files:
            raise errors.OnNoRecord(str(self.id))
        return found

    @final
    @property
    def operation(self) -> object | None:
        """What tells one operation under the disk's lock from the next; None where this thread does not hold it.

        While it is the same nobody else changes the disk: a driver for which looking is dear
        may keep what it saw.
        """
        held = self._turn
        return held[1] if held is not None and held[0] == threading.get_ident() else None

    @final
    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """The record looked up, no lock held, for what changes nothing."""
        with translating_errors(self.backend.host, Watched(ignore)):
            self.recorded = self.backend.attached.bind(cast("Disk[Any]", self))
            yield

    @final
    @contextlib.contextmanager
    def locked(self, progress: Progress = ignore, *, changing: bool = True) -> Iterator[Progress]:
        """The disk's lock held, its record looked up under it, and ``OSError`` translated.

        ``changing``: a disk that is another host's, or another folder's, is refused.
        """
        watched = Watched(progress)
        host = self.backend.host
        self.backend.attached.owners.expect_mounted()
        with translating_errors(host, watched), host.locks.disk(self.id, watched):
            if self.backend.traits.files:
                qemu_img.take_back(host, host.path(self.id))
            self.recorded = self.backend.attached.bind(cast("Disk[Any]", self))
            self._turn = (threading.get_ident(), object())
            try:
                if changing:
                    self.backend.attached.owners.check(cast("Disk[Any]", self))
                with image_lock.naming(str(self.id), self.id.instance):
                    yield watched
            finally:
                self._turn = None

    @final
    def amend(self, **fields: str | None) -> None:
        """Change some fields of the disk's record."""
        if self.recorded is not None and self.recorded.way:
            self.recorded = dataclasses.replace(self.recorded, **fields)  # type: ignore[arg-type]  # fields of str | None only
            self.remember(self.recorded)

    @final
    def remember(self, record: Record) -> None:
        """Write the disk's record."""
        host = self.backend.host
        host.records.write(self.id, record, as_file=self.backend.traits.files, durable=host.settings.durable)
