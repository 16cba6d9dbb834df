"""A disk whose content is made as a file on this host, and then given to the disk's storage."""

import time
from typing import Any, Literal

from imgbackend.disks import new_record
from imgbackend.disks.create import undo
from imgbackend.driver.abilities import Importable
from imgbackend.driver.contract import Disk
from imgbackend.errors import ConfigError
from imgbackend.system import files
from imgbackend.system.host import SECRET_MODE
from imgbackend.types import Cached, FetchFunc, Progress


def import_file(disk: Disk[Any], template: FetchFunc, progress: Progress) -> Cached:
    """Make ``disk`` of what ``template`` puts into a file that nobody else can read, and that goes at once.

    The record is written before the disk is there, as ever; a disk that exists stays.

    :raises ConfigError: if the disk's storage takes no files.
    """
    started = time.monotonic()
    if not isinstance(disk, Importable):
        raise ConfigError(f"{disk.backend.name} takes no finished files")
    with disk.locked(progress) as watched:
        path = disk.backend.host.unfinished(disk.id)
        path.unlink(missing_ok=True)  # of a call that was killed, maybe when the disk was there already
        if disk.find() is not None:
            return _cached("exists", disk, started)
        disk.discard()
        try:
            with files.new_file(path, SECRET_MODE):
                pass  # it is nobody else's from the first byte, whoever writes it
            template(path, watched)
            _remember(disk)
            disk.import_image(path)
        except BaseException as failure:
            undo(disk, failure)
            raise
        finally:
            path.unlink(missing_ok=True)
        return _cached("import", disk, started)


def _remember(disk: Disk[Any]) -> None:
    own, identity = disk.backend.traits.formats[0], new_record.new_identity(disk)
    disk.recorded = new_record.of(disk, format=own, way="import", identity=identity)
    disk.remember(disk.recorded)


def _cached(way: Literal["exists", "import"], disk: Disk[Any], started: float) -> Cached:
    return Cached(
        way=way,
        reason="",
        base=None,
        fetched=way != "exists",
        grown=False,
        size=disk.found().size,
        seconds=time.monotonic() - started,
    )
