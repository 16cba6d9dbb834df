"""Whose a disk is: the record decides, not today's configuration.

A record binds nobody without the disk.  disks.json wins; where only Nova's disk.info
speaks, the backend that ``images_type`` names is used if it keeps that format in files (an
overlay: with its base), else raw for raw and qcow2 for qcow2.  Without any record: the driver's own format.
"""

from collections.abc import Callable
from typing import Any

from imgbackend import errors
from imgbackend.disks import record_stores
from imgbackend.driver.abilities import Backed
from imgbackend.driver.contract import Backend, Disk
from imgbackend.system import qcow2
from imgbackend.system.host import Host
from imgbackend.types import DiskId, Record


class Binding:
    """Finds the backend of a disk."""

    def __init__(
        self, host: Host, backend: Callable[[str | None], Backend], resolved: Callable[[str | None], str]
    ) -> None:
        """``backend`` opens one by name; ``resolved`` is the name that one goes by."""
        self._host, self._backend, self._resolved = host, backend, resolved

    def disk(self, disk_id: DiskId, images_type: str | None) -> Disk[Any]:
        """The disk, with the backend that keeps it, or that would make it.

        :raises DiskError: if ``images_type`` names another backend than the one that keeps it.
        :raises ConfigError: if the backend that keeps it is not configured.
        """
        kept = self._kept(disk_id, self._host.records.of(disk_id))
        if kept is None:
            return self._backend(images_type).disk(disk_id)
        disk, record = kept
        if images_type is not None and self._resolved(images_type) != disk.backend.name:
            if record.way or not self._keeps(self._backend(images_type), disk_id, record.format):
                raise _elsewhere(disk_id, record, disk.backend.name, self._resolved(images_type))
            disk = self._backend(images_type).disk(disk_id)
        disk.recorded = record
        return disk

    def record_of(self, disk: Disk[Any]) -> Record | None:
        """The record that binds a disk, for its backend.

        :raises DiskError: if another backend keeps it, or this one cannot keep its format.
        :raises WrongStore: if the backend has another store than the one that the disk was made in.
        :raises DiskElsewhere: the same, of a disk that is another host's.
        """
        if disk.given_record is not None:
            record_stores.expect_same(disk, disk.given_record)
            return disk.given_record
        record = self._host.records.of(disk.id)
        if record is not None and record.backend == disk.backend.name:
            if record.format not in disk.backend.traits.formats:
                raise errors.DiskError(
                    f"{disk.id} is recorded as {record.format}, which {record.backend} does not keep"
                )
            record_stores.expect_same(disk, record)
            return record
        if record is None and not disk.backend.traits.files:
            return None
        kept = self._kept(disk.id, record)
        if kept is None:
            return None
        found, record = kept
        if record.way or not self._keeps(disk.backend, disk.id, record.format):
            raise _elsewhere(disk.id, record, found.backend.name, disk.backend.name)
        return record

    def _kept(self, disk_id: DiskId, record: Record | None) -> tuple[Disk[Any], Record] | None:
        """The disk that is there and on record (``record`` is disks.json's), with its record.

        One that was made in another store than its backend has now counts as there: that store may come back.
        """
        if record is not None:
            try:
                disk = self._backend(record.backend).disk(disk_id)
            except errors.ConfigError as exc:
                raise errors.ConfigError(
                    f"{disk_id} was made on the backend {record.backend} (driver {record.driver}), "
                    f"which is not usable now: {exc}"
                ) from exc
            disk.recorded = record
            is_kept = record_stores.is_other(disk.backend, record) or disk.may_be_there()
            return (disk, record) if is_kept else None
        stated = self._host.records.nova_format(disk_id)
        if stated is None or not self._host.path(disk_id).exists():
            return None
        backend = self._novas(disk_id, stated)
        return backend.disk(disk_id), Record(
            backend=backend.name, driver=backend.driver, format=stated, way="", time=0.0
        )

    def _novas(self, disk_id: DiskId, format: str) -> Backend:
        default = self._backend(None)
        if self._keeps(default, disk_id, format):
            return default
        if format not in {"raw", "qcow2"}:
            raise errors.DiskError(f"disk.info says that {disk_id} is {format}, which no backend here keeps")
        return self._backend(format)

    def _keeps(self, backend: Backend, disk_id: DiskId, format: str) -> bool:
        """Whether a backend can keep a file of Nova's: an overlay only where disks may have a base."""
        if not backend.traits.files or format not in backend.traits.formats:
            return False
        if format != "qcow2" or issubclass(backend.disk_type, Backed):
            return True
        return qcow2.read(self._host.path(disk_id)).backing_file is None


def _elsewhere(disk_id: DiskId, record: Record, kept_by: str, asked: str) -> errors.DiskError:
    return errors.DiskError(
        f"{disk_id} is kept by the backend {kept_by} as {record.format}, and {asked} was asked for; "
        "leave images_type out, or remove the disk first"
    )
