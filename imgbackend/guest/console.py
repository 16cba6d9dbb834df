"""What a guest says on its serial port: a file in the instance's folder."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.types import Ki

NAME: Final = "console.log"
FORMER: Final = f".{NAME}.part"
"""The one of an earlier start, until it is certain that the instance starts."""
_MODE: Final = 0o640
_TAIL: Final = 4 * Ki
_LINES: Final = 10
_CHUNK: Final = 64 * Ki
_LOOK: Final = 0.05


def path_of(host: Host, instance: str) -> Path:
    """The console's file."""
    return host.instances / instance / NAME


def begin(path: Path) -> None:
    """Make an empty console for an instance that is off, and is to be started.

    A file of ours takes the place of one that is there: libvirt's daemon for logs begins
    another when one is full, which root alone reads.

    The one that was there is put aside until it is certain that the instance starts: :func:`restore`, :func:`drop`.

    :raises OSError: as renaming and opening a file do.
    """
    with contextlib.suppress(FileNotFoundError):
        path.rename(_former(path))
    try:
        with files.new_file(path, _MODE):
            pass  # it is there before anybody looks for it, and belongs to whom the folder does
    except OSError:
        restore(path)
        raise


def restore(path: Path) -> None:
    """Have the console be as it was before :func:`begin`; one that was not there goes."""
    try:
        _former(path).rename(path)
    except FileNotFoundError:
        path.unlink(missing_ok=True)


def drop(path: Path) -> None:
    """Let go of the console of an earlier start: the instance runs."""
    _former(path).unlink(missing_ok=True)


def _former(path: Path) -> Path:
    return path.with_name(FORMER)


def tail(path: Path) -> str:
    """The last lines of a console; empty where nothing was said, or it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(line.rstrip() for line in text.splitlines()[-_LINES:])


def follow(path: Path, ended: Callable[[], bool]) -> Iterator[bytes]:
    """All that was said, and what is said from now on, until ``ended`` says that nobody speaks any more.

    A file that began anew, because the instance was started again, is read from its start.
    """
    at = 0
    while True:
        over = ended()
        for chunk in _new(path, at):
            if chunk is None:
                at = 0
                continue
            at += len(chunk)
            yield chunk
        if over:
            return
        time.sleep(_LOOK)


def _new(path: Path, at: int) -> Iterator[bytes | None]:
    """What a file has after ``at``; None: it has become shorter."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < at:
            yield None
        else:
            file.seek(at)
        while chunk := file.read(_CHUNK):
            yield chunk
