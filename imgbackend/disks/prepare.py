"""Making a base ready for a driver: in the base folder, in the backend's store, or in place."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from imgbackend import errors
from imgbackend.bases import inspect
from imgbackend.bases.fetch import Order, role_of
from imgbackend.bases.store import Bases, Ready
from imgbackend.driver.template import Base
from imgbackend.state import digests, manifests
from imgbackend.state.manifests import Manifest
from imgbackend.system import files, qemu_img
from imgbackend.system.host import SECRET_MODE, Host
from imgbackend.types import FetchFunc, ImageInfo, Progress, ignore

if TYPE_CHECKING:
    from imgbackend.driver.abilities import HoldsBases


class Preparer:
    """The engine's :class:`PrepareTemplate`; it remembers what it did."""

    def __init__(
        self,
        host: Host,
        bases: Bases,
        store: "HoldsBases | None",
        fetch: FetchFunc,
        name: str,
        size: int | None,
        progress: Progress,
        remember: Callable[[ImageInfo, Manifest | None], None],
    ) -> None:
        """``remember`` writes the disk's record; called when the template's facts are known."""
        self._host, self._bases, self._store = host, bases, store
        self._fetch, self._size, self._progress, self._remember = fetch, size, progress, remember
        role = role_of(fetch)
        self.base = Base(name, None if store is not None else bases.path(name), role, progress)
        self.manifest: Manifest | None = None
        self.fetched = False
        self.in_place = False
        """The bytes were put at a path of the disk's own; there is no base."""
        self.tags: Mapping[str, str] = {}
        """Of a base that the backend's store had already."""
        self._called = False

    def __call__(self, target: Base | Path, /) -> ImageInfo:
        """See :class:`PrepareTemplate`."""
        if self._called:
            raise errors.StorageError("a driver called prepare_template twice")
        self._called = True
        if isinstance(target, Base):
            return self._based()
        return self._in_place(target)

    def close(self) -> None:
        """Let go of the base's descriptor."""
        if self.base.opened is not None:
            os.close(self.base.opened)
            self.base.opened = None

    def _in_place(self, target: Path) -> ImageInfo:
        if not self.base.generated:
            raise errors.StorageError("a driver asked to have an image put in place; only what is generated may be")
        self.in_place = True
        self._remember(ImageInfo(format="raw", virtual_size=0), None)
        if self.base.secret:
            with files.new_file(target, SECRET_MODE):
                pass  # it is nobody else's from the first byte, whoever writes it
        self._fetch(target, self._progress)
        self.fetched = True
        size = inspect.rounded(os.stat(target).st_size)
        if self._size is not None and size > self._size:
            raise errors.TemplateTooLarge(size, self._size)
        os.truncate(target, size)
        return ImageInfo(format="raw", virtual_size=size)

    def _based(self) -> ImageInfo:
        if self.base.secret:
            raise errors.ConfigError("a private template never becomes a base; keep this disk on raw")
        if self._store is not None:
            return self._stored(self._store)
        ready = self._bases.ready(self.base.name, self._fetch, self._size, progress=self._progress)
        self.base.opened = ready.fd
        self.manifest, self.fetched = ready.manifest, ready.fetched
        self._remember(ready.manifest.info, ready.manifest)
        return ready.manifest.info

    def _stored(self, store: "HoldsBases") -> ImageInfo:
        """Have the base in the backend's own store, imported once from a raw local copy."""
        asked, name = time.time(), self.base.name
        with self._host.locks.base(name, self._progress), contextlib.ExitStack() as stack:
            found = store.find_base(name)  # what is visible is whole: no other host need be waited for
            if found is None:
                stack.enter_context(store_lock(store, name, self._progress))
                found = store.find_base(name)
            if found is None:
                order = Order(base=self._bases.path(name), fetch=self._fetch, size=self._size, raw=True)
                info = self._imported(store, order, self._bases.ready_held(order, asked, self._progress))
            else:
                store.touch_base(name)
                self.tags = found.tags
                info = ImageInfo(format="raw", virtual_size=found.size)
        if self._size is not None and info.virtual_size > self._size:
            raise errors.TemplateTooLarge(info.virtual_size, self._size)
        self._remember(info, self.manifest)
        return info

    def _imported(self, store: "HoldsBases", order: Order, local: Ready) -> ImageInfo:
        """Import a local base, and let go of it: the store has it now, unless a pin or an overlay holds it here."""
        pinned = self._host.pins.has(self.base.name)
        gone = local.fetched and not pinned
        try:
            with self._raw(order.base, local) as (path, manifest):
                tags = {"image_id": manifest.image_id or "", "digest": manifest.digest or "", "format": "raw"}
                with self._host.metrics.timed("import"):
                    store.import_base(self.base.name, path, manifest.info, tags, self._progress)
            gone = not pinned and not self._bases.in_use(self.base.name)
        finally:
            os.close(local.fd)
            if gone:
                order.base.unlink(missing_ok=True)
                manifests.path_of(order.base).unlink(missing_ok=True)
        self.manifest, self.fetched = manifest, local.fetched
        return manifest.info

    @contextlib.contextmanager
    def _raw(self, base: Path, local: Ready) -> Iterator[tuple[Path, Manifest]]:
        """The raw bytes of a base, which may be kept as qcow2 for the overlays on it."""
        if local.manifest.format == "raw":
            yield base, local.manifest
            return
        converted, size = base.with_name(f"{base.name}.converted"), local.manifest.virtual_size
        try:
            with files.new_file(converted) as target:
                layers = [(local.fd, local.manifest.format)]
                qemu_img.convert(self._host, layers, target, "raw", size=size, progress=self._progress)
                digest = digests.content_digest(target, self._progress)
            yield converted, dataclasses.replace(local.manifest, format="raw", cluster_size=None, digest=digest)
        finally:
            converted.unlink(missing_ok=True)


@contextlib.contextmanager
def store_lock(store: "HoldsBases", name: str, progress: Progress = ignore) -> Iterator[None]:
    """The lock over all hosts, where several of them use a store."""
    from imgbackend.driver.abilities import SharedStore

    if isinstance(store, SharedStore):
        with store.store_lock(name, progress):
            yield
    else:
        yield
