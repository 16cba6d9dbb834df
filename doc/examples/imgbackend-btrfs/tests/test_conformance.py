"""The driver keeps the contract: with its bases on the same btrfs, and with bases elsewhere."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.testing.trial import Trial
from imgbackend_btrfs import BtrfsBackend


class TestBtrfs(BackendConformance):
    advisories_count = True

    @pytest.fixture
    def backend(self, btrfs: Path) -> Iterator[BtrfsBackend]:
        with conforming(BtrfsBackend, btrfs) as backend:
            yield backend


class TestBtrfsWithBasesElsewhere(BackendConformance):
    """And the folder of the disks is one that may not be there: the kit takes it away."""

    advisories_count = True

    @pytest.fixture
    def backend(self, btrfs: Path, tmp_path: Path) -> Iterator[BtrfsBackend]:
        (btrfs / "disks").mkdir()
        with conforming(BtrfsBackend, tmp_path, {"folder": str(btrfs / "disks")}) as backend:
            yield backend

    @contextlib.contextmanager
    def without_store(self, trial: Trial) -> Iterator[None]:
        folder = Path(trial.backend.conf.folder)
        aside = folder.rename(folder.with_name("aside"))
        try:
            yield
        finally:
            aside.rename(folder)
