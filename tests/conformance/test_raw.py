"""The driver raw keeps the contract, on each kind of file system."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend_raw import RawBackend


class TestRaw(BackendConformance):
    """On the file system of the tests, ext4 or tmpfs as a rule."""

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


class TestRawOnXfs(BackendConformance):
    """By reflinks."""

    @pytest.fixture
    def backend(self, xfs: Path) -> Iterator[RawBackend]:
        with conforming(RawBackend, xfs) as backend:
            yield backend


class TestRawOnBtrfs(BackendConformance):
    """By reflinks."""

    @pytest.fixture
    def backend(self, btrfs: Path) -> Iterator[RawBackend]:
        with conforming(RawBackend, btrfs) as backend:
            yield backend
