"""What the system says where a backend is opened reaches the caller as an error of ours."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.testing import MemoryBackend, conforming

_MEANT: Mapping[int, type[errors.Error]] = {
    errno.EIO: errors.StorageUnavailable,
    errno.EACCES: errors.ConfigError,
    errno.ENOSPC: errors.StorageFull,
}


@pytest.mark.parametrize("code", _MEANT)
def test_error_of_the_system_while_opening_is_translated(code: int, tmp_path: Path) -> None:
    class Broken(MemoryBackend):
        def open(self) -> None:
            raise OSError(code, os.strerror(code))

    with pytest.raises(_MEANT[code]) as caught, conforming(Broken, tmp_path, {"folder": str(tmp_path)}):
        pass
    assert isinstance(caught.value.__cause__, OSError)


def test_records_of_a_backend_are_listed_without_any(tmp_path: Path) -> None:
    with conforming(MemoryBackend, tmp_path, {"folder": str(tmp_path / "memory")}) as backend:
        assert list(backend.host.records.kept_by(backend.name)) == []


def test_records_that_cannot_be_listed_are_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "instances").write_bytes(b"a file where the folder should be")
    with (
        conforming(MemoryBackend, tmp_path, {"folder": str(tmp_path / "memory")}) as backend,
        pytest.raises(errors.StorageError),
    ):
        list(backend.host.records.kept_by(backend.name))
