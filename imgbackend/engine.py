"""The front door of the library: from configuration to disks, cache and instances."""

import contextlib
import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oslo_config import cfg

from imgbackend import errors
from imgbackend.bases import instance_folders
from imgbackend.bases.store import BaseEntry, Bases
from imgbackend.config import options, plugins
from imgbackend.config.overrides import Overrides
from imgbackend.config.settings import settings_of
from imgbackend.disks import image_refs, listing, record_binding
from imgbackend.disks.owners import Owners, Placement
from imgbackend.driver.abilities import HoldsBases
from imgbackend.driver.attached import Attached
from imgbackend.driver.contract import Backend, Disk
from imgbackend.sources.contract import Image, Source
from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.types import DiskId

if TYPE_CHECKING:
    from imgbackend.bases.folders_seen import FoldersSeen
    from imgbackend.cache.ports import SnapshotFolder, Stores
    from imgbackend.cache.service import Cache
    from imgbackend.cache.usage import DomainFile
    from imgbackend.guest.instances import Instances

LOG = logging.getLogger(__name__)


class Engine(contextlib.AbstractContextManager["Engine"]):
    """Backends, sources and bases of one configuration.

    May be used from any number of threads, and by several processes at once on one
    ``instances_path``.  After a fork, make a new one in the child.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        overrides: Mapping[str, Any] | None = None,
        placement: Placement | None = None,
    ) -> None:
        """Keep a configuration that :func:`imgbackend.config.options.load` made; nothing is touched.

        ``placement`` decides which host an instance is on; None: an instance is where it was made, or taken over.

        :raises ConfigError: if an option has a value that it cannot have.
        """
        self.conf = conf
        self._overrides = Overrides(conf, overrides or {})
        for group, opts in options.GROUPS.items():
            options.check(conf, group, opts)
        self.host = Host(settings_of(conf))
        self.owners = Owners(self.host, placement)
        """Whose instances and disks are."""
        self._bases = Bases(self.host, _Evictor(self))
        self._backends: dict[str, Backend] = {}
        self._sources: dict[str, Source] = {}
        self._cache: Cache | None = None
        self._instances: Instances | None = None
        self._guard = threading.RLock()
        self._binding = record_binding.Binding(self.host, self.backend, self._resolved)
        self._overrides.check(lambda section: self.driver_of(section) in self._installed())

    @classmethod
    def from_config(
        cls,
        files: Sequence[str | Path] | None = None,
        overrides: Mapping[str, Any] | None = None,
        placement: Placement | None = None,
    ) -> "Engine":
        """An engine from configuration files and options set here.

        ``files`` None: those of this user and this host, if any.  ``overrides`` is flat:
        ``{"images_type": "lvm", "lvm.volume_group": "vg"}``.

        :raises ConfigError: if a file is missing or broken, or an option cannot be so.
        """
        try:
            return cls(options.load(files), overrides, placement)
        except cfg.ConfigFilesNotFoundError as exc:
            raise errors.ConfigError(f"cannot read {', '.join(exc.config_files)}; check the name and its mode") from exc
        except cfg.Error as exc:
            raise errors.ConfigError(str(exc).replace("\n", " ")) from exc
        except ValueError as exc:
            raise errors.ConfigError(str(exc)) from exc

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every backend and source that was opened.  Twice is no error."""
        with self._guard:
            while self._backends:
                self._backends.popitem()[1].close()
            while self._sources:
                self._sources.popitem()[1].close()
            if self._instances is not None:
                self._instances.close()

    # The cache and instances; a disk alone needs neither

    @property
    def cache(self) -> "Cache":
        """The bases, in the base folder and in the stores of backends: listed, fetched beforehand, pinned, aged out."""
        with self._guard:
            if self._cache is None:
                from imgbackend.cache.service import Cache, policy_of

                policy = policy_of(self.conf)
                self._cache = Cache(self.host, self._bases, _CachePorts(self), policy, domains=self._domains)
            return self._cache

    @property
    def instances(self) -> "Instances":
        """The instances of this configuration; libvirt is connected to when it is first needed.

        :raises ConfigError: if an option of theirs has a value that it cannot have.
        """
        with self._guard:
            if self._instances is None:
                from imgbackend.guest.instances import Instances

                self._instances = Instances(self)
            return self._instances

    def _domains(self, seen: "FoldersSeen") -> "Iterable[DomainFile]":
        """What the domains of libvirt open, where it is configured: it is named, or instances were spawned by it."""
        where = self.conf.get_location("connection_uri", "libvirt")
        named = where is not None and where.location is not cfg.Locations.opt_default
        folders = [] if named else instance_folders.instances(self.host)
        if named or any(seen.has_domain(name, self.host.instances) for name in folders):
            return self.instances.files()
        return ()

    # Images

    def image(
        self,
        ref: str,
        session: Any | None = None,
        *,
        fallback_from_host: str | None = None,
        image_id: str | None = None,
    ) -> Image:
        """The image that ``ref`` names: ``glance:<id or name>``, a URL, a path, or a bare
        name of the default source.

        Under the operator's own credentials a source that is down is no error where the
        image is cached.  ``session`` is a caller's own way in: then the source is asked now.

        Where the source has it no more, it is had from the base folder of the host
        ``fallback_from_host`` (see ``[sources] fallback_url``).  ``image_id`` is what its id was when
        it was last seen; needed where only the source could tell.

        :raises ImageNotFound: if there is none; the error names the source that was asked.
        :raises SourceDenied: if the credentials are refused.
        :raises SourceUnavailable: if the source is down, and the image is not cached.
        :raises ConfigError: if the source lacks configuration, or both a session and another host are given.
        """
        source = self.source(image_refs.source_of(ref, self.conf.sources.default))
        if fallback_from_host is None:
            return image_refs.find(source, ref, session, self._bases)
        from imgbackend.sources.peer import PeerSource

        peers = self.source("peer")
        if session is not None or not isinstance(peers, PeerSource):
            raise errors.ConfigError(
                "fallback_from_host: whether a caller may see an image, no base can tell; use neither"
            )
        return image_refs.find_or_fall_back(
            source, ref, self._bases, host=fallback_from_host, peers=peers, image_id=image_id
        )

    def source_names(self) -> list[str]:
        """The installed sources."""
        return sorted({found.name for found in plugins.drivers(plugins.SOURCES)})

    def source(self, name: str) -> Source:
        """A source, made when it is first asked for.

        :raises ConfigError: if there is none of this name.
        """
        with self._guard:
            if name not in self._sources:
                kind = plugins.load_source(name)
                self._overrides.set_for_source(kind)
                options.check(self.conf, kind.group, kind.opts)
                self._sources[name] = kind(self.conf)
            return self._sources[name]

    # Backends

    def backend_names(self) -> list[str]:
        """The backends that are configured, and the installed drivers, each usable as one."""
        return sorted({found.name for found in plugins.drivers()} | self.configured())

    def configured(self) -> set[str]:
        """The backends that somebody wants: sections with an installed driver, and what ``images_type`` names."""
        installed = self._installed()
        sections = {*self.conf.list_all_sections(), *self._overrides.sections, *self._backends} - options.RESERVED
        return {name for name in sections if self.driver_of(name) in installed} | {self._resolved(None)}

    @staticmethod
    def _installed() -> set[str]:
        return {found.name for found in plugins.drivers()}

    def backend(self, name: str | None = None) -> Backend:
        """A backend, opened; None: the one that ``images_type`` names.

        :raises ConfigError: if there is no driver for it, or it lacks something.
        :raises StorageUnavailable: if its storage does not answer.
        """
        name = self._resolved(name)
        with self._guard:
            if name not in self._backends:
                self._backends[name] = self._opened(name)
            return self._backends[name]

    def _resolved(self, name: str | None) -> str:
        name = name or self.conf.images_type
        if name == "default":
            return "qcow2" if self.conf.use_cow_images else "raw"
        return "raw" if name == "flat" else name

    def driver_of(self, name: str) -> str:
        """The driver that a section names, else the section's own name; nothing is loaded."""
        pending = self._overrides.driver_of(name)
        options.register(self.conf, name, [options.driver_opt(name)])
        return str(pending if pending is not None else self.conf[name].driver)

    def backend_class(self, name: str) -> type[Backend]:
        """The class that a backend has with its options, by the section's name; nothing is opened.

        :raises ConfigError: if there is no driver for it, or an option has a value that it cannot have.
        """
        if name in options.RESERVED:
            raise errors.ConfigError(f"images_type: {name} is a section of its own, not a backend")
        driver = self.driver_of(name)
        kind = plugins.load_driver(driver)
        opts = options.backend_opts(name, driver, kind.opts)
        options.register(self.conf, name, opts)
        self._overrides.set_for_backend(name, {opt.dest for opt in opts})
        options.check(self.conf, name, opts)
        return kind.for_options(self.conf[name])

    def _opened(self, name: str) -> Backend:
        made = self.backend_class(name)(name, self.conf[name], self.host)
        driver = self.driver_of(name)
        made.attach(driver, Attached(bases=self._bases, owners=self.owners, bind=self._binding.record_of))
        try:
            with files.translating_errors(self.host.instances):
                made.open()
        except cfg.Error as exc:
            raise errors.ConfigError(f"[{name}] {exc}") from exc
        return made

    # Disks and bases

    def disk(self, instance: str, name: str = "disk", images_type: str | None = None) -> Disk[Any]:
        """A disk, whether or not it exists.

        One that exists is its recorded backend's, whatever ``images_type`` is configured
        today; a new one is made on ``images_type``.

        :raises ConfigError: if the names are none, or the backend is not configured.
        :raises DiskError: if the disk is kept by another backend than the one asked for.
        :raises StorageUnavailable: if ``instances_path`` does not answer.
        """
        try:
            disk_id = DiskId(instance=instance, name=name)
        except ValueError as exc:
            raise errors.ConfigError(str(exc)) from exc
        if instance in {self.host.settings.bases, self.host.bases.name}:
            raise errors.ConfigError(f"{instance} is the folder of the bases, and no instance")
        with files.translating_errors(self.host.instances):
            return self._binding.disk(disk_id, images_type)

    def disks(
        self, instance: str | None = None, *, all_hosts: bool = False, broken: listing.Broken = listing.warn
    ) -> Iterator[Disk[Any]]:
        """The own disks on record that exist, by instance and name; of one instance, if given.

        ``all_hosts``: and those of other hosts and folders.  ``broken`` is told of instances and disks that cannot be
        looked at, with the reason, and they are left out; by default that is a warning.

        :raises DiskError: if the records of the instance that is given are broken.
        :raises StorageUnavailable: if ``instances_path`` does not answer.
        """
        with files.translating_errors(self.host.instances):
            yield from listing.disks(
                self.host, self.owners, self._binding, instance, all_hosts=all_hosts, broken=broken
            )

    def bases(self) -> Iterator[BaseEntry]:
        """All bases in the base folder, by name; StorageUnavailable, if it does not answer."""
        return self._bases.entries()

    def users(self) -> dict[str, list[str]]:
        """The disks that hang on each base, as ``instance/disk``, by its name; errors as of :meth:`disks`."""
        from imgbackend.cache.usage import Use

        with files.translating_errors(self.host.instances):
            instance_folders.instances(self.host)  # of one that does not answer, the look would see no disk
        return Use(self.host).local()


class _Evictor:
    """Makes room for a fetch by the engine's cache, which is not loaded before."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def make_room(self, need: int) -> bool:
        return self._engine.cache.make_room(need)

    def in_use(self, name: str) -> bool:
        return self._engine.cache.in_use(name)


class _CachePorts:
    """The ways from the cache into its engine; see :class:`imgbackend.cache.ports.Ports`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.backend, self.configured = engine.backend, engine.configured
        self.is_mine, self.expect_mounted = engine.owners.is_mine, engine.owners.expect_mounted

    def stores(self, recorded: Collection[str]) -> "Stores":
        from imgbackend.cache.ports import Stores

        engine, opened, faults = self._engine, dict[str, HoldsBases](), list[str]()
        for name in sorted(engine.configured().union(recorded)):
            try:
                if not issubclass(engine.backend_class(name), HoldsBases):
                    continue
                if name == "local":
                    raise errors.ConfigError("local is what the base folder is called; rename the section")
                backend = engine.backend(name)
            except errors.Error as exc:
                faults.append(f"the backend {name} cannot be opened, and what bases it holds is not known: {exc}")
                continue
            if isinstance(backend, HoldsBases):
                opened[name] = backend
        return Stores(opened=opened, faults=faults)

    def finish_destroying(self, instance: str) -> None:
        self._engine.instances.finish(instance)

    def image(self, ref: str) -> Image:
        return self._engine.image(ref)

    def image_now(self, ref: str) -> Image:
        source = image_refs.source_of(ref, self._engine.conf.sources.default)
        return self._engine.source(source).find(ref)

    def boot_file(self, ref: str, image_id: str) -> Image:
        beside = image_refs.beside(ref, image_id, self._engine.conf.sources.default)
        return self._engine.image(beside).as_boot_file()

    def snapshot_folders(self) -> "Iterable[SnapshotFolder]":
        from imgbackend.guest import snapshots

        return snapshots.rooms(snapshots.folder_of(self._engine.host, self._engine.conf.libvirt.snapshots_directory))
