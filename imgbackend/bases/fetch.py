"""The way in: fetched, verified, inspected, converted, flushed, remembered, published.

Called under the base's lock.  What a killed run left under the temporary names is
unlinked first, but for a ``.part`` that the source can go on with.
"""

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.bases import inspect
from imgbackend.state import digests, manifests
from imgbackend.state.manifests import FileIdentity, Manifest
from imgbackend.system import clock, files, qemu_img
from imgbackend.system.host import BASE_MODE, Host
from imgbackend.system.space import Quota
from imgbackend.types import Declared, Delivered, FetchFunc, ImageInfo, Progress, Role, base_name

_STRENGTH: Final = ("sha512", "sha384", "sha256", "blake2b", "sha3_512", "sha3_256", "sha1", "md5")
_STEP: Final = 1 << 20
_FREED: Final = 1.0
"""Seconds within which the room of a file that was removed is expected to be free."""
_AGAIN: Final = 0.02


def role_of(fetch: FetchFunc) -> Role:
    """The template's role; does not ask the source where ``fetch`` tells it by itself."""
    role: Role | None = getattr(fetch, "role", None)
    if role is not None:
        return role
    declared = declared_of(fetch)
    return "image" if declared is None else declared.role


def declared_of(fetch: FetchFunc) -> Declared | None:
    """What is known beforehand; may ask the source."""
    found: Declared | None = getattr(fetch, "declared", None)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A base that is to be fetched."""

    base: Path
    fetch: FetchFunc
    size: int | None
    """Of the disk it is for: a larger image is refused as soon as that can be known."""
    raw: bool
    """Make it raw, whatever it is delivered as."""
    format: str | None = None
    """It has to have this format, for a disk that refers to it; None: as configured."""
    digest: str | None = None
    """It has to have this content: disks may hang on what was there under its name."""


def refuse_early(host: Host, declared: Declared | None, size: int | None) -> None:
    """Refuse what the declaration alone shows to be too large, with nothing fetched.

    :raises TemplateTooLarge: with both sizes.
    """
    if declared is None or declared.role == "boot-file":
        return
    told = declared.virtual_size or (declared.size if declared.format in {"raw", "iso"} else None) or 0
    if told > host.settings.max_virtual_size:
        raise errors.TemplateTooLarge(told, host.settings.max_virtual_size, limit="max_image_virtual_size")
    if size is not None and max(told, declared.min_disk) > size:
        raise errors.TemplateTooLarge(max(told, declared.min_disk), size)


class Fetching:
    """One base on its way in."""

    def __init__(
        self, host: Host, order: Order, progress: Progress, make_room: Callable[[int], bool] | None = None
    ) -> None:
        """Keep the order; :meth:`run` does it.  ``make_room`` is told what is lacking, before the order is refused."""
        self._host, self._order, self._progress = host, order, progress
        self._make_room = make_room
        self._part = order.base.with_name(f"{order.base.name}.part")
        self._converted = order.base.with_name(f"{order.base.name}.converted")

    def run(self) -> Manifest:
        """Fetch the base and publish it with its manifest.

        :raises SourceError: if the source fails.
        :raises TemplateError: if the image is refused.
        :raises StorageFull: if it does not fit.
        """
        declared = declared_of(self._order.fetch)
        if (
            declared
            and declared.role in {"image", "boot-file"}
            and base_name(declared.image_id) != self._order.base.name
        ):
            raise errors.DiskError(f"image {declared.image_id} is to be cached as {base_name(declared.image_id)}")
        refuse_early(self._host, declared, self._order.size)
        self._host.make_folder(self._order.base.parent)
        self._converted.unlink(missing_ok=True)
        with self._kept_if_broken():
            delivered = self._fetched(declared)
            return self._publish(declared_of(self._order.fetch), delivered)

    @contextlib.contextmanager
    def _kept_if_broken(self) -> Iterator[None]:
        """Clear what was not published; only a download that broke keeps its beginning."""
        resumable = bool(getattr(self._order.fetch, "resumable", False))
        if not resumable:
            self._part.unlink(missing_ok=True)
        try:
            yield
        except errors.SourceUnavailable:
            if not resumable:
                self._part.unlink(missing_ok=True)
            raise
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        finally:
            self._converted.unlink(missing_ok=True)

    def _fetched(self, declared: Declared | None) -> Delivered:
        size = None if declared is None else declared.size
        begun = self._part.stat().st_size if self._part.exists() else 0
        with (
            self._host.metrics.timed("fetch"),
            self._room_for(size) as progress,
            inspect.loaded_meanwhile(),
        ):
            told = self._order.fetch(self._part, progress)
        declared = declared_of(self._order.fetch)  # had from elsewhere, it is what is said of it there
        size = None if declared is None else declared.size
        length = self._own_file()
        self._host.metrics.record_fetch(max(length - begun, 0))
        if size is not None and length != size:
            raise errors.TemplateCorrupt(f"the image is {length} bytes, and its source says {size}")
        delivered = told or Delivered(size=length)
        self._verify(declared, delivered)
        return delivered

    @contextlib.contextmanager
    def _room_for(self, size: int | None) -> Iterator[Progress]:
        """The progress to fetch with: of a size that nobody knows the room is promised while the bytes come."""
        if size is not None:
            with self._room(self._part, size):
                yield self._progress
            return
        with self._host.space.growing(self._part, self._quota(self._part)) as grow:

            def progress(phase: str, done: int, total: int | None, /) -> None:
                self._having(grow)
                self._progress(phase, done, total)

            yield progress
            self._having(grow)

    @contextlib.contextmanager
    def _room(self, target: Path, need: int | None, *, instead_of: Path | None = None) -> Iterator[None]:
        """Have ``need`` bytes promised, within what the operator allows."""
        quota = self._quota(target, instead_of)
        with contextlib.ExitStack() as promised:
            self._having(lambda: promised.enter_context(self._host.space.reserved(target, need, quota)))
            yield

    def _quota(self, target: Path, instead_of: Path | None = None) -> Quota:
        return Quota(
            folder=target.parent,
            max_size=self._host.settings.max_bases,
            min_free=self._host.settings.min_free,
            without=frozenset() if instead_of is None else frozenset({instead_of.name}),
        )

    def _having(self, promise: Callable[[], object]) -> None:
        """Have room promised; other bases may have to go for it."""
        try:
            promise()
        except errors.StorageFull as exc:
            if self._make_room is None or not exc.short or not self._make_room(exc.short):
                raise
            self._wait_for_room(promise)

    def _wait_for_room(self, promise: Callable[[], object]) -> None:
        """Have it promised; XFS frees what was unlinked some time after it said that it did."""
        end = time.monotonic() + _FREED
        while True:
            try:
                promise()
            except errors.StorageFull:
                if time.monotonic() > end:
                    raise
                self._progress("wait", 0, None)
                time.sleep(_AGAIN)
            else:
                return

    def _own_file(self) -> int:
        """The length of what was fetched: a file of its own, since its mode will be changed."""
        try:
            status = os.lstat(self._part)
        except FileNotFoundError as exc:
            raise errors.SourceUnavailable("the source delivered nothing") from exc
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise errors.SourceUnavailable("the source delivered a link, and not a file of its own; let it copy")
        return status.st_size

    def _verify(self, declared: Declared | None, delivered: Delivered) -> None:
        """Compare the strongest digest that the source declared and this Python knows."""
        wanted = {} if declared is None else dict(declared.digests)
        for name in sorted(wanted, key=lambda name: _STRENGTH.index(name) if name in _STRENGTH else len(_STRENGTH)):
            got = dict(delivered.digests).get(name)
            if got is None and name in hashlib.algorithms_available:
                got = self._digest(name)
            if got is None:
                continue
            if got != wanted[name].lower():
                raise errors.TemplateCorrupt(f"the image's {name} is {got}, and its source says {wanted[name]}")
            return

    def _digest(self, name: str) -> str:
        digest = hashlib.new(name, usedforsecurity=False)
        size = os.stat(self._part).st_size
        with self._part.open("rb") as file:
            while data := file.read(_STEP):
                digest.update(data)
                self._progress("digest", file.tell(), size)
        return digest.hexdigest()

    def _publish(self, declared: Declared | None, delivered: Delivered) -> Manifest:
        role = role_of(self._order.fetch)
        info, whole, came_as = self._ready(role, declared)
        with files.open_fd(whole, os.O_RDWR) as fd:
            if role in {"image", "generated"} and info.format == "raw":
                os.ftruncate(fd, info.virtual_size)
            unchanged = whole == self._part and os.fstat(fd).st_size == delivered.size
            with self._host.metrics.timed("settle"):
                digest = self._settled(fd, info, delivered.content if unchanged else None)
            if self._order.digest not in (None, digest) and digest is not None:
                former = manifests.path_of(self._order.base)
                raise errors.TemplateCorrupt(
                    "the source delivers other bytes for this image than it did, and nothing was replaced; "
                    f"if no disk needs the former ones, remove {former}"
                )
            manifest = Manifest(
                image_id=declared.image_id if declared else None,
                source=declared.source if declared else None,
                role=role,
                format=info.format,
                virtual_size=info.virtual_size,
                cluster_size=info.cluster_size,
                min_disk=declared.min_disk if declared else 0,
                digest=digest,
                delivered_format=came_as,
                delivered_size=delivered.size,
                delivered_digests=delivered.digests,
                inspected_by=inspect.NAME if role == "image" else "nobody: not a disk image",
                inspected_at=time.time(),
                identity=FileIdentity.of(fd),
            )
        replace_base(self._order.base, whole, manifest)
        return manifest

    def _ready(self, role: Role, declared: Declared | None) -> tuple[ImageInfo, Path, str]:
        """What the base is, where it is, and what it was delivered as."""
        length = os.stat(self._part).st_size
        if role != "image":
            whole = inspect.rounded(length) if role == "generated" else length
            return ImageInfo(format="raw", virtual_size=whole), self._part, "raw"
        info, data = inspect.inspect(self._host, self._part, declared.format if declared else None)
        limit = self._host.settings.max_virtual_size
        if info.virtual_size > limit:
            raise errors.TemplateTooLarge(info.virtual_size, limit, limit="max_image_virtual_size")
        size, least = self._order.size, declared.min_disk if declared else 0
        if size is not None and max(info.virtual_size, least) > size:
            raise errors.TemplateTooLarge(max(info.virtual_size, least), size)
        wanted = "raw" if self._order.raw else self._order.format or ("qcow2" if info.format == "qcow2" else "raw")
        if wanted == info.format:
            return info, self._part, info.format
        if wanted != "raw":
            raise errors.BaseMissing(f"a disk needs this base as {wanted}, and its source now delivers {info.format}")
        self._convert(info, data)
        return ImageInfo(format="raw", virtual_size=info.virtual_size), self._converted, info.format

    def _convert(self, info: ImageInfo, data: int) -> None:
        try:
            with (
                self._host.metrics.timed("convert"),
                self._room(self._converted, min(data, info.virtual_size), instead_of=self._part),
                files.open_fd(self._part, os.O_RDONLY) as source,
                files.new_file(self._converted) as target,
            ):
                layers = [(source, info.format)]
                qemu_img.convert(self._host, layers, target, "raw", size=info.virtual_size, progress=self._progress)
        except errors.CommandFailed as exc:
            raise qemu_img.blamed(exc, info.format) from exc
        self._part.unlink()

    def _settled(self, fd: int, info: ImageInfo, known: str | None) -> str | None:
        """Flush the base, and compute its content digest meanwhile, unless it is known."""
        if info.format != "raw" or known is not None:
            self._host.finish(fd, mode=BASE_MODE, durable=True)
            return known if info.format == "raw" else None
        failed: list[BaseException] = []

        def finish() -> None:
            try:
                self._host.finish(fd, mode=BASE_MODE, durable=True)
            except BaseException as exc:
                failed.append(exc)

        flushing = threading.Thread(target=finish, name="imgbackend-flush")
        flushing.start()
        try:
            digest = digests.content_digest(fd, self._progress)
        finally:
            flushing.join()
        if failed:
            raise failed[0]
        return digest


def quarantine(base: Path) -> Path:
    """Rename a base that is bad, under its lock, and say to what.

    Its manifest stays: what comes in its place has to have the content that this one had.
    """
    now = int(clock.file_system_now(base.parent))
    for number in range(now, now + 100):
        aside = base.with_name(f"{base.name}.bad-{number}")
        if not os.path.lexists(aside):
            break
    os.rename(base, aside)
    return aside


def replace_base(base: Path, whole: Path, manifest: Manifest) -> None:
    """Publish a base, its manifest first; a bad one of the same name is put aside, not removed."""
    if base.exists():
        quarantine(base)
    manifests.write(base, manifest)
    files.publish(whole, base)
