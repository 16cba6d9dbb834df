"""Drivers that stand in the way of others: with locks, shared names, and what they do not let go."""

import fcntl
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from oslo_config import cfg

from imgbackend import errors
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.testing import MemoryBackend
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import DiskId, Way
from kit.faults import caught


@caught({"test_new_disk_has_the_bytes_of_its_image": "inside"})
class TakesTheDisksLock(MemoryDisk):
    """To be on the safe side; the engine holds it already."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        with self.backend.host.locks.disk(self.id):
            return super().create_image(prepare_template, base, size)


_ONE_AT_A_TIME = threading.Lock()


@caught({"test_disk_does_not_wait_for_another_ones_image": "the other disk was not made meanwhile"})
class LocksTheStore(MemoryDisk):
    """One disk at a time is easily right."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        with _ONE_AT_A_TIME:
            return super().create_image(prepare_template, base, size)


@caught({"test_disks_made_at_once_share_no_temporary_name": "stopped.outcome().error is None"})
class SharesATemporaryName(MemoryDisk):
    """There is one folder, and one disk is made at a time: so it was while the driver was tried."""

    @property
    def unfinished(self) -> Path:
        return self.backend.folder / ".part"


_MAKING: set[str] = set()


@caught({"test_threads_that_make_disks_fetch_once": "made at once"})
class CountsOnOneThread(MemoryDisk):
    """What is being made is kept in a variable, and checked: there is never more than one."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        if _MAKING:
            raise errors.StorageError(f"{self.id} and {_MAKING} are made at once")
        _MAKING.add(str(self.id))
        try:
            return super().create_image(prepare_template, base, size)
        finally:
            _MAKING.clear()


@caught({"test_no_lock_is_taken_by_a_driver": "lock"})
class LocksItsFile(MemoryDisk):
    """As one does with files that others write to."""

    def resize_image(self, size: int) -> None:
        with files.open_fd(self.path, os.O_RDWR) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.ftruncate(fd, size)
            files.flush(fd)


@caught({"test_making_objects_does_no_io": "seen(make, "})
class ConnectsWhenItIsMade(MemoryBackend):
    """``__init__`` is where one connects."""

    def __init__(self, name: str, conf: cfg.ConfigOpts.GroupAttr, host: Host) -> None:
        super().__init__(name, conf, host)
        files.make_folders(self.folder)
        list(self.folder.iterdir())


@caught({"test_making_objects_does_no_io": "seen(make, "})
class LooksWhenItIsNamed(MemoryDisk):
    """A disk knows from the start whether it is there."""

    def __init__(self, backend: MemoryBackend, disk_id: DiskId) -> None:
        super().__init__(backend, disk_id)
        self.was_there = self.path.exists()


@caught({"test_nothing_is_left_in_the_process": "self._held() == before"})
class LeavesADescriptor(MemoryDisk):
    """A lock on the file, so that nobody removes it, is held as long as its descriptor is open."""

    def resize_image(self, size: int) -> None:
        super().resize_image(size)
        fcntl.flock(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC), fcntl.LOCK_SH)


_WARMING: list[subprocess.Popen[bytes]] = []


@caught({"test_nothing_is_left_in_the_process": "self._held() == before"})
class LeavesAProcess(MemoryDisk):
    """What warms the cache may go on behind the caller's back."""

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        way = super().create_image(prepare_template, base, size)
        _WARMING.append(subprocess.Popen(["sleep", "60"]))
        return way


class _Ticks(threading.Thread):
    """What a driver's thread does until it is told to end, which nobody does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.end: Callable[[float], bool] = threading.Event().wait

    def run(self) -> None:
        self.end(60.0)


@caught({"test_nothing_is_left_in_the_process": "self._held() == before"})
class LeavesAThread(MemoryBackend):
    """A thread that looks after the connection is started with it, and outlives it."""

    def open(self) -> None:
        super().open()
        _Ticks().start()
