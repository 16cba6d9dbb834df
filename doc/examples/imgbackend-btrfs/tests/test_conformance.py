"""The driver keeps the contract: with its bases on the same btrfs, and with bases elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend_btrfs import BtrfsBackend


class TestBtrfs(BackendConformance):
    @pytest.fixture
    def backend(self, btrfs: Path) -> Iterator[BtrfsBackend]:
        with conforming(BtrfsBackend, btrfs) as backend:
            yield backend


class TestBtrfsWithBasesElsewhere(BackendConformance):
    @pytest.fixture
    def backend(self, btrfs: Path, tmp_path: Path) -> Iterator[BtrfsBackend]:
        with conforming(BtrfsBackend, tmp_path, {"folder": str(btrfs / "disks")}) as backend:
            yield backend
