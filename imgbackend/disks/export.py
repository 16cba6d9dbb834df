"""Writing a whole disk to a file of the caller's."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imgbackend import errors
from imgbackend.system import files
from imgbackend.types import Progress

if TYPE_CHECKING:
    from imgbackend.driver.contract import Disk

FORMATS: Final = ("raw", "qcow2")


def extract(disk: "Disk[Any]", target: Path, format: str, *, compress: bool, progress: Progress) -> None:
    """See :meth:`imgbackend.driver.contract.Disk.extract`; the disk's lock is held."""
    if format not in FORMATS:
        raise errors.DiskError(f"{format!r} is no format to export to; use {' or '.join(FORMATS)}")
    if compress and format != "qcow2":
        raise errors.DiskError("only qcow2 can be compressed")
    unfinished = target.with_name(f".{target.name}.part")
    if os.path.lexists(target):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(unfinished), os.lstat(target)):
                unfinished.unlink()  # of an export that was killed between its last two steps
        raise _there(target)
    if not target.parent.is_dir():
        raise errors.DiskError(f"{target.parent} is no folder; make it first")
    disk.found()
    try:
        with files.new_file(unfinished, 0o640) as fd:
            disk.extract_image(unfinished, format, compress=compress, progress=progress)
            files.flush(fd)
        files.publish_new(unfinished, target)
    except FileExistsError as exc:
        raise _there(target) from exc
    finally:
        unfinished.unlink(missing_ok=True)


def _there(target: Path) -> errors.DiskError:
    return errors.DiskError(f"{target} is there already; remove it, or name another file")
