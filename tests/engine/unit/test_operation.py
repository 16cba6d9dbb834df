"""A driver can tell one operation under a disk's lock from the next, and from a look without the lock."""

import threading
from pathlib import Path

from imgbackend.testing import conforming
from imgbackend.testing.memory import MemoryBackend
from imgbackend.types import DiskId


def test_turn_is_one_for_an_operation_another_for_the_next_and_none_without_the_lock(tmp_path: Path) -> None:
    with conforming(MemoryBackend, tmp_path, {"folder": str(tmp_path / "memory")}) as backend:
        disk = backend.disk(DiskId(instance="web1", name="disk"))
        assert disk.operation is None
        with disk.locked():
            first = disk.operation
            assert first is not None
            assert disk.operation is first
        assert disk.operation is None
        with disk.reading():
            assert disk.operation is None
        with disk.locked():
            assert disk.operation not in (None, first)


def test_turn_is_that_of_the_thread_that_holds_the_lock(tmp_path: Path) -> None:
    with conforming(MemoryBackend, tmp_path, {"folder": str(tmp_path / "memory")}) as backend:
        disk = backend.disk(DiskId(instance="web1", name="disk"))
        seen: list[object] = ["nothing"]
        with disk.locked():
            other = threading.Thread(target=lambda: seen.append(disk.operation))
            other.start()
            other.join()
        assert seen == ["nothing", None]
