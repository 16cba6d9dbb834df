"""Where snapshots of instances are while they are worked on: folders that nobody else looks into.

A folder is locked (flock(2)) as long as its maker lives, so that whoever comes next on the same host knows
what a killed process left, and takes it away.  On a file system that hosts share the lock may not reach the others
(NFS locks no folders): the name tells whose it is, the host's name and a digest of its machine id, for two hosts may
have one name.  Nova's own folders there are left alone.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from imgbackend.errors import ConfigError
from imgbackend.system.host import Host
from imgbackend.system.locks import Held
from imgbackend.system.process_identity import boot_id, machine_id
from imgbackend.types import Progress

_NAME: Final = re.compile(r"imgbackend-[A-Za-z0-9.-]{1,63}@(?P<host>[^@]+)@(?P<machine>[0-9a-f]{8})[0-9a-f]{8}\Z")
_MODE: Final = 0o700
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_POLL: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One of them."""

    path: Path
    host: str
    """The name of the host whose process made it."""
    machine: str
    """What tells that host from another of the name."""

    def is_of(self, host: str) -> bool:
        """Whether a process of this machine made it, under that name of its host."""
        return (self.host, self.machine) == (host, _machine())

    @contextlib.contextmanager
    def held(self, progress: Progress, /) -> Iterator[Held]:
        """Hold its lock; who waits for its maker calls ``progress``, and lets what that raises through."""
        fd = os.open(self.path, _FLAGS)
        try:
            while not _locked(fd):
                progress("wait", 0, None)
                time.sleep(_POLL)
            yield Held(self.path)
        finally:
            os.close(fd)


def folder_of(host: Host, told: str) -> Path:
    """``[libvirt] snapshots_directory``.

    :raises ConfigError: if it could be taken for the folder of an instance, or of the bases.
    """
    folder = Path(os.path.abspath(told))
    if folder in (host.instances, host.bases) or (folder.parent == host.instances and folder.name != "snapshots"):
        raise ConfigError(
            f"[libvirt] snapshots_directory: {folder} is among the instances; use {host.instances}/snapshots, "
            "or a folder elsewhere"
        )
    return folder


@contextlib.contextmanager
def room(folder: Path, instance: str, host: str) -> Iterator[Path]:
    """A context manager: an empty folder in ``folder``, readable by this user alone; it goes with all that is in it.

    What killed processes of this host, whose name is ``host``, left goes first.
    """
    folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
    sweep(folder, host)
    path, fd = _new(folder, f"imgbackend-{instance}@{quote(host, safe='')}")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(fd)


def sweep(folder: Path, host: str) -> None:
    """Take away what killed processes of this host left in ``folder``, which need not be there."""
    for found in rooms(folder):
        if not found.is_of(host):
            continue
        with contextlib.suppress(OSError):  # it has just gone
            fd = os.open(found.path, _FLAGS)
            try:
                if _locked(fd):
                    shutil.rmtree(found.path)
            finally:
                os.close(fd)


def rooms(folder: Path) -> list[Room]:
    """Those of this user, by name, of whichever host; none where there is no such folder.

    :raises OSError: if it cannot be listed.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    matches = [match for match in map(_NAME.match, names) if match is not None]
    return [
        Room(path=folder / match[0], host=unquote(match["host"]), machine=match["machine"])
        for match in matches
        if _is_mine(folder / match[0])
    ]


@functools.cache
def _machine() -> str:
    """Of this installation; where that has no id of its own, of this start of its kernel."""
    return hashlib.sha256((machine_id() or boot_id()).encode()).hexdigest()[:8]


def _is_mine(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and os.geteuid() in (0, found.st_uid)


def _locked(fd: int) -> bool:
    """Whether the lock of a folder could be had; its maker has it as long as it lives."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _new(folder: Path, begin: str) -> tuple[Path, int]:
    """A new folder, and the descriptor that locks it."""
    while True:
        path = folder / f"{begin}@{_machine()}{os.urandom(4).hex()}"
        path.mkdir(mode=_MODE)
        try:
            fd = os.open(path, _FLAGS)
        except FileNotFoundError:
            continue  # who sweeps was faster
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return path, fd
        os.close(fd)
