"""The reference backend keeps the contract."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, MemoryBackend, conforming


class TestMemory(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[MemoryBackend]:
        with conforming(MemoryBackend, tmp_path, {"folder": str(tmp_path / "memory")}) as backend:
            yield backend
