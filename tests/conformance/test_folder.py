"""The shortest driver of the documentation keeps the contract."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from imgbackend.driver.contract import Backend
from imgbackend.testing import BackendConformance, conforming
from imgbackend.testing.trial import Trial
from labs import away
from labs.require import FULL

_FILE = Path(__file__).parents[2] / "doc/examples/folder.py"


def _driver() -> Any:
    spec = importlib.util.spec_from_file_location("folder_driver", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FolderBackend


class TestFolder(BackendConformance):
    advisories_count = True

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        with conforming(_driver(), tmp_path, {"folder": str(tmp_path / "disks")}) as backend:
            yield backend


class TestFolderOnItsOwnFileSystem(BackendConformance):
    """Which may not be mounted."""

    advisories_count = True
    crash_sample: ClassVar[int | None] = None if FULL else 12

    @pytest.fixture
    def backend(self, xfs: Path, tmp_path: Path) -> Iterator[Backend]:
        with (
            away.bound(xfs, tmp_path / "disks") as folder,
            conforming(_driver(), tmp_path, {"folder": str(folder)}) as backend,
        ):
            self.mounted = xfs
            yield backend

    def without_store(self, trial: Trial) -> contextlib.AbstractContextManager[None]:
        return away.unmounted(self.mounted, Path(trial.backend.conf.folder))
