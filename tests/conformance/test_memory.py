"""The reference backend keeps the contract."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, MemoryBackend, conforming
from imgbackend.testing.trial import Trial
from labs import away


class TestMemory(BackendConformance):
    advisories_count = True

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[MemoryBackend]:
        with conforming(MemoryBackend, tmp_path, {"folder": str(tmp_path / "memory")}) as backend:
            yield backend

    def without_store(self, trial: Trial) -> contextlib.AbstractContextManager[None]:
        return away.renamed(Path(trial.backend.conf.folder))
