"""The shortest driver of the documentation keeps the contract."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbackend.backend import Backend
from imgbackend.testing import BackendConformance, conforming

_FILE = Path(__file__).parents[2] / "doc/examples/folder.py"


def _driver() -> Any:
    spec = importlib.util.spec_from_file_location("folder_driver", _FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FolderBackend


class TestFolder(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        with conforming(_driver(), tmp_path, {"folder": str(tmp_path / "disks")}) as backend:
            yield backend
