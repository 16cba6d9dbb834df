"""The driver raw keeps the contract, on each kind of file system."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend_raw import RawBackend


class TestRaw(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[RawBackend]:
        with conforming(RawBackend, tmp_path) as backend:
            yield backend


class TestRawFlatQcow2(BackendConformance):
    """With bases, and so disks, that stay qcow2."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[RawBackend]:
        with conforming(RawBackend, tmp_path, engine={"force_raw_images": False}) as backend:
            yield backend
