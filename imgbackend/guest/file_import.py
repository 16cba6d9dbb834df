"""A disk whose content is made as a file on this host, and then given to the disk's storage."""

import contextlib
import time
from typing import Any, Literal

from imgbackend.driver.abilities import Importable
from imgbackend.driver.contract import Disk
from imgbackend.errors import ConfigError, Error
from imgbackend.system import files
from imgbackend.system.host import SECRET_MODE
from imgbackend.types import Cached, FetchFunc, Progress, Record


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
        except BaseException:
            _undo(disk)
            raise
        finally:
            path.unlink(missing_ok=True)
        return _cached("import", disk, started)


def _remember(disk: Disk[Any]) -> None:
    backend = disk.backend
    disk.recorded = Record(
        backend=backend.name, driver=backend.driver, format=backend.traits.formats[0], way="import", time=time.time()
    )
    disk.remember(disk.recorded)


def _undo(disk: Disk[Any]) -> None:
    """What fails here must not hide why the disk was not made."""
    with contextlib.suppress(OSError, Error):
        disk.discard()
        disk.remove_image()
        disk.backend.host.records.forget(disk.id, durable=False, keep_folder=True)


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
