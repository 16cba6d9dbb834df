"""The base folder: each base fetched once, checked at every use, published whole.

A *base* is the local, immutable copy of an image, under the sha1 of its id.  All of this
happens under the base's lock; copying from a base does not: it reads a descriptor that was
opened under it.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from imgbackend import errors
from imgbackend.bases import inspect, users
from imgbackend.bases.fetch import Fetching, Order, declared_of, replace_base, role_of
from imgbackend.state import digests, manifests, shared_failure
from imgbackend.state.manifests import FileIdentity, Manifest
from imgbackend.system import files, qemu_img, stale
from imgbackend.system.host import BASE_MODE, Host
from imgbackend.types import FetchFunc, Gi, Progress, ignore, is_base_name

LOG = logging.getLogger(__name__)
_LEGACY: Final = re.compile(r"([0-9a-f]{40})_([0-9]{1,6})\Z")


def generated_name(kind: str, size: int, filesystem: str = "", label: str = "", command: str = "") -> str:
    """The name of a base that this host generates: a swap area, a fresh file system.

    Whatever makes a difference to the bytes is in it, and it is outside Nova's grammar,
    whose cache manager would remove it.
    """
    told = "\0".join([kind, str(size), filesystem, label, command])
    return "gen-" + hashlib.sha1(told.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseEntry:
    """A base, as it is listed."""

    name: str
    path: Path
    manifest: Manifest | None
    """None: Nova's own, not yet used by us."""
    size: int
    allocated: int
    last_used: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A base that may be used: open, checked under its lock."""

    fd: int
    manifest: Manifest
    fetched: bool


class Evictor(Protocol):
    """Who knows which bases of the folder may go."""

    def make_room(self, need: int, /) -> bool:
        """Remove bases, so that ``need`` bytes are freed; whether one went."""

    def in_use(self, name: str, /) -> bool:
        """Whether anything needs a base, or may do so."""


class NoEvictor:
    """Removes none, and knows of no other use than that of overlays below ``instances_path``."""

    def __init__(self, host: Host) -> None:
        """Keep the host; nothing is touched."""
        self._host = host

    def make_room(self, _need: int, /) -> bool:
        """None goes."""
        return False

    def in_use(self, name: str, /) -> bool:
        """Whether an overlay hangs on it."""
        return users.is_used_by_overlay(self._host, name)


class Bases:
    """The bases of one ``instances_path``."""

    def __init__(self, host: Host, evictor: Evictor | None = None) -> None:
        """Keep both; nothing is touched.  ``evictor`` None: no base goes to make room for another."""
        self._host = host
        self._evictor: Evictor = evictor or NoEvictor(host)

    def in_use(self, name: str) -> bool:
        """Whether anything needs a base of the folder, or may do so."""
        return self._evictor.in_use(name)

    def path(self, name: str) -> Path:
        """Where a base is, or would be."""
        return self._host.bases / name

    def entries(self) -> Iterator[BaseEntry]:
        """All bases that are published, by name.

        :raises StorageUnavailable: if their folder does not answer.
        """
        with files.translating_errors(self._host.bases):
            try:
                names = sorted(filter(is_base_name, os.listdir(self._host.bases)))
            except FileNotFoundError:
                return
            yield from filter(None, map(self.entry, names))

    def entry(self, name: str) -> BaseEntry | None:
        """A base that is published; None where there is none."""
        path = self.path(name)
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return None
        if not is_base_name(name) or not stat.S_ISREG(status.st_mode):
            return None
        return BaseEntry(
            name=name,
            path=path,
            manifest=manifests.read(path),
            size=status.st_size,
            allocated=status.st_blocks * 512,
            last_used=manifests.last_used(path),
        )

    def ready(
        self,
        name: str,
        fetch: FetchFunc,
        size: int | None,
        *,
        raw: bool | None = None,
        progress: Progress = ignore,
    ) -> Ready:
        """The base, fetched where it is missing; its descriptor is the caller's to close.

        ``raw``: whether a fresh one is converted to raw; None: as ``force_raw_images`` says.
        """
        asked = time.time()
        wanted = self._host.settings.force_raw if raw is None else raw
        order = Order(base=self.path(name), fetch=fetch, size=size, raw=wanted)
        with self._host.locks.base(name, progress):
            return self.ready_held(order, asked, progress)

    def bring_back(
        self, name: str, fetch: FetchFunc, format: str, digest: str | None, progress: Progress = ignore
    ) -> bool:
        """Fetch a base again that a disk refers to, with the format and the content it had.

        Whether it was gone.  Nova's old ``<name>_<GiB>`` are made of ``<name>``, enlarged.

        :raises BaseMissing: if what the source delivers is something else, or it delivers nothing.
        """
        path = self.path(name)
        if path.exists():
            return False
        legacy = _LEGACY.match(name)
        root = legacy[1] if legacy else name
        order = Order(
            base=self.path(root),
            fetch=fetch,
            size=None,
            format=format,
            raw=format == "raw",
            digest=None if legacy else digest,
        )
        asked = time.time()
        try:
            with self._host.locks.base(root, progress):
                found = self.ready_held(order, asked, progress)
            os.close(found.fd)
        except (errors.SourceError, errors.TemplateError) as exc:
            raise errors.BaseMissing(f"the base {name} is gone, and cannot be fetched again: {exc}") from exc
        if legacy:
            self._enlarge(self.path(root), path, found.manifest, int(legacy[2]) * Gi, progress)
        return True

    def same(self, name: str, identity: FileIdentity) -> bool:
        """Whether a base is still the one that had this identity; takes no lock."""
        try:
            return stale.look_again(self.path(name), lambda: self._identity(name)) == identity
        except FileNotFoundError:
            return False

    def _identity(self, name: str) -> FileIdentity:
        with files.open_fd(self.path(name), os.O_RDONLY) as fd:
            return FileIdentity.of(fd)

    def ready_held(self, order: Order, asked: float, progress: Progress) -> Ready:
        """As :meth:`ready`, for a caller that holds the base's lock since it asked, at ``asked``."""
        shared = shared_failure.SharedFailure(self._host.instances / "locks", order.base.name)
        try:
            found = stale.look_again(order.base, lambda: self._known(order, progress))
        except FileNotFoundError:
            found = None
        if found is None:
            shared.raise_recent(asked, order.size)
            before = manifests.read(order.base)
            if before is not None and before.digest is not None and order.digest is None:
                order = dataclasses.replace(order, digest=before.digest)
            with shared.told():
                manifest = Fetching(self._host, order, progress, self._evictor.make_room).run()
            found = Ready(fd=os.open(order.base, os.O_RDONLY | os.O_CLOEXEC), manifest=manifest, fetched=True)
        try:
            self._usable(found.manifest, order)
            manifests.touch(order.base)
        except BaseException:
            os.close(found.fd)
            raise
        return found

    def _usable(self, manifest: Manifest, order: Order) -> None:
        role = role_of(order.fetch)
        if role == "image" and manifest.role == "boot-file":
            raise errors.TemplateUnsafe("this was cached as a kernel or ramdisk, byte for byte; it is no disk image")
        if role == "boot-file" and manifest.role != role and manifest.delivered_format != "raw":
            raise errors.TemplateUnsafe("this was cached as a disk image, converted; it is no kernel or ramdisk")
        if order.format not in (None, manifest.format):
            raise errors.BaseMissing(f"a disk needs its base as {order.format}, and it is there as {manifest.format}")
        manifest.check_size(order.size)

    def _known(self, order: Order, progress: Progress) -> Ready | None:
        """The base where it is there and is what its manifest says; None: it has to be fetched."""
        try:
            fd = os.open(order.base, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            manifest = manifests.read(order.base)
            if manifest is None:
                manifest = self._adopted(order, fd, progress)
            elif FileIdentity.of(fd) != manifest.identity:
                manifest = self._recognised(order.base, manifest, fd, progress)
        except BaseException:
            os.close(fd)
            raise
        if manifest is None:
            os.close(fd)
            return None
        return Ready(fd=fd, manifest=manifest, fetched=False)

    def _adopted(self, order: Order, fd: int, progress: Progress) -> Manifest:
        """The manifest of a base that has none: Nova's own, or one whose manifest was lost.

        Its format is what the overlays on it state.  Only without any is it inspected, and
        what looks like a container is refused where bases are raw: a raw image may contain
        anything, and its content must not decide what it is.
        """
        role, stated = role_of(order.fetch), users.stated_formats(self._host, order.base)
        if len(stated) > 1:
            raise errors.TemplateUnsafe(
                f"the disks on {order.base} differ over its format: {', '.join(sorted(stated))}"
            )
        name, size, by = next(iter(stated), None), os.fstat(fd).st_size, "the headers of its overlays"
        cluster: int | None = None
        if name is None and role == "image":
            if self._host.settings.force_raw and inspect.looks_like_container(order.base):
                raise errors.TemplateUnsafe(
                    f"{order.base} has no manifest and is no plain raw image, though force_raw_images is on; "
                    "remove it, and it is fetched again"
                )
            info, _ = inspect.inspect(self._host, order.base, None)
            name, size, cluster, by = info.format, info.virtual_size, info.cluster_size, inspect.NAME
        elif name not in (None, "raw"):
            info, _ = inspect.inspect(self._host, order.base, name)
            size, cluster = info.virtual_size, info.cluster_size
        name = name or "raw"
        declared = declared_of(order.fetch) if role == "image" else None
        made = Manifest(
            image_id=declared.image_id if declared else None,
            source=declared.source if declared else None,
            role=role,
            format=name,
            virtual_size=size if role != "image" else inspect.rounded(size),
            cluster_size=cluster,
            digest=digests.content_digest(fd, progress) if name == "raw" else None,
            inspected_by=by,
            inspected_at=time.time(),
            identity=FileIdentity.of(fd),
        )
        manifests.write(order.base, made)
        return made

    def _recognised(self, base: Path, manifest: Manifest, fd: int, progress: Progress) -> Manifest | None:
        """The manifest of a base that was moved or restored, its content being the same; else None.

        The number of a device may change whenever the host starts.
        """
        now = FileIdentity.of(fd)
        renumbered = dataclasses.replace(now, device=manifest.identity.device) == manifest.identity
        if renumbered or manifests.has_content(fd, manifest, progress):
            manifest = dataclasses.replace(manifest, identity=now)
            manifests.write(base, manifest)
            return manifest
        LOG.warning("The base %s is not what its manifest says; it is put aside, and fetched again", base)
        return None

    def _enlarge(self, root: Path, legacy: Path, manifest: Manifest, size: int, progress: Progress) -> None:
        """Make Nova's old enlarged base: the bytes of ``root``, then zeroes."""
        whole, size = legacy.with_name(f"{legacy.name}.part"), max(size, manifest.virtual_size)
        with self._host.locks.base(legacy.name, progress), contextlib.ExitStack() as undo:
            if legacy.exists():
                return
            undo.callback(whole.unlink, missing_ok=True)
            with files.open_fd(root, os.O_RDONLY) as source, files.new_file(whole) as target:
                if not files.reflink(source, target):
                    files.copy(source, target, progress)
                if manifest.format == "raw":
                    os.ftruncate(target, size)
                else:
                    qemu_img.resize(self._host, [(target, manifest.format)], size)
                self._host.finish(target, mode=BASE_MODE, durable=True)
                digest = digests.content_digest(target, progress) if manifest.format == "raw" else None
                made = dataclasses.replace(manifest, virtual_size=size, digest=digest, identity=FileIdentity.of(target))
            replace_base(legacy, whole, made)
