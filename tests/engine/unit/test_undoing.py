"""A creation that fails is undone, wherever in the driver it failed."""

from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.testing import conforming
from imgbackend.testing.memory import MemoryBackend, MemoryDisk
from imgbackend.types import DiskId, Mi, Progress, Way, base_name


class _FailingAtTheEnd(MemoryDisk):
    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        super().create_image(prepare_template, base, size)
        raise errors.StorageUnavailable("the folder's new name could not be flushed")


class _Failing(MemoryBackend):
    disk_type = _FailingAtTheEnd


def _fetch(target: Path, _progress: Progress) -> None:
    target.write_bytes(b"x" * Mi)


def test_disk_that_was_published_before_the_error_is_taken_away(tmp_path: Path) -> None:
    with conforming(_Failing, tmp_path, {"folder": str(tmp_path / "memory")}) as backend:
        disk = backend.disk(DiskId(instance="web1", name="disk"))
        with pytest.raises(errors.StorageUnavailable):
            disk.cache(_fetch, base_name("image"))
        assert not disk.exists()
        assert list((tmp_path / "memory").iterdir()) == []
        assert list(backend.list_disks()) == []
