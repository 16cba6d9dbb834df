"""The driver ``qcow2``."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from imgbackend import errors
from imgbackend.driver import overlay_chain
from imgbackend.driver.abilities import Backed, Flattenable, Snapshottable
from imgbackend.driver.file_disk import FileBackend, FileDisk
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files, qcow2, qemu_img
from imgbackend.types import Declared, ImageInfo, Plan, Progress, SnapshotInfo, Traits, Way
from imgbackend_qcow2.empty import empty_overlay, largest


class Qcow2Disk(FileDisk["Qcow2Backend"], Backed, Snapshottable, Flattenable):
    """An overlay: what the guest wrote, on a base that it does not change."""

    def virtual_size(self, _length: int) -> int:
        """As the header says."""
        return overlay_chain.header_of(self.path).virtual_size

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        """An overlay, always."""
        preallocated = self.backend.host.settings.preallocate
        whole = size or (base.virtual_size if base else template.virtual_size) or 0
        return Plan(way="overlay", writes=1 << 18, needs=whole if preallocated else 1 << 18)

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """The few pages of an empty overlay, in a file of the right length."""
        info = prepare_template(base)
        assert base.path is not None  # noqa: S101 - this backend's store keeps no bases
        wanted = size or info.virtual_size
        if wanted > largest(info.cluster_size):
            raise errors.DiskError(
                f"a qcow2 with clusters of {info.cluster_size} bytes, as the image has, "
                f"holds {largest(info.cluster_size)} bytes at most, and {wanted} are asked for"
            )
        length, pages = empty_overlay(self.backend.host, base.path, info, wanted)
        with files.new_file(self.unfinished) as target:
            os.ftruncate(target, length)
            for at, page in pages:
                os.pwrite(target, page, at)
            self.backend.host.preallocate(target, wanted)
            self.publish(target, base)
        return "overlay"

    def backing(self) -> tuple[Path, str] | None:
        """Only what is directly in the base folder is ever a backing file."""
        return overlay_chain.backing_of(self.backend.host, self.path)

    def resize_image(self, size: int) -> None:
        """By qemu-img; the base is not opened."""
        host = self.backend.host
        self.backing()
        with files.open_fd(self.path, os.O_RDWR) as fd:
            qemu_img.resize(host, [(fd, "qcow2")], size)
            host.preallocate(fd, size)
            if host.settings.durable:
                files.flush(fd)

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        """Overlay and base, as the guest sees them."""
        size = self.found().size
        with self._layers(os.O_RDONLY) as layers, files.open_fd(target, os.O_RDWR) as out:
            qemu_img.convert(
                self.backend.host, layers, out, format, size=size, compress=compress, progress=progress, phase="extract"
            )

    def flatten_image(self, progress: Progress) -> None:
        """qemu-img copies into the overlay what it lacks, then changes its header."""
        if self.backing() is None:
            return
        if any(self.image_snaps()):  # what they take from the base is not copied
            raise errors.DiskError(f"{self.id} has snapshots, which need its base; delete them first")
        with self._layers(os.O_RDWR) as layers:
            qemu_img.rebase_to_nothing(self.backend.host, layers, self.found().size, progress)
            files.flush(layers[0][0])

    def create_image_snap(self, name: str) -> None:
        """An internal snapshot; where it is made and then something fails, it goes again."""
        try:
            self._snapshot("-c", name)
        except BaseException:
            with contextlib.suppress(errors.Error, OSError):
                if any(snap.name == name for snap in self.image_snaps()):
                    self._snapshot("-d", name)
            raise

    def rollback_image_snap(self, name: str) -> None:
        """Its size comes back too."""
        self._snapshot("-a", name)

    def remove_image_snap(self, name: str) -> None:
        """Its clusters are free again."""
        self._snapshot("-d", name)

    def image_snaps(self) -> Iterator[SnapshotInfo]:
        """Read from the file's own table."""
        with files.open_fd(self.path, os.O_RDONLY) as fd:
            yield from qcow2.snapshots(fd, str(self.path))

    def _snapshot(self, action: str, name: str) -> None:
        with self._layers(os.O_RDWR) as layers:
            qemu_img.snapshot(self.backend.host, layers, action, name)
            files.flush(layers[0][0])

    def _layers(self, flags: int) -> contextlib.AbstractContextManager[list[qemu_img.Layer]]:
        return overlay_chain.opened(self.backend.host, self.path, flags, recorded=self.recorded is not None)


class Qcow2Backend(FileBackend):
    """Overlays in the folders of the instances."""

    disk_type = Qcow2Disk
    traits = Traits(formats=("qcow2",), files=True)
