"""The driver raw keeps the contract, on each kind of file system."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.testing.trial import Trial
from imgbackend_raw import RawBackend
from labs import away
from labs.require import FULL


class TestRaw(BackendConformance):
    """On the file system of the tests, ext4 or tmpfs as a rule."""

    advisories_count = True

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[RawBackend]:
        with conforming(RawBackend, tmp_path) as backend:
            yield backend


class TestRawFlatQcow2(BackendConformance):
    """With bases, and so disks, that stay qcow2."""

    advisories_count = True
    crash_sample: ClassVar[int | None] = None if FULL else 12

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[RawBackend]:
        with conforming(RawBackend, tmp_path, engine={"force_raw_images": False}) as backend:
            yield backend


class TestRawPreallocated(BackendConformance):
    """Each disk takes all its room when it is made."""

    advisories_count = True
    crash_sample = 3

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[RawBackend]:
        with conforming(RawBackend, tmp_path, engine={"preallocate_images": "space"}) as backend:
            yield backend


class TestRawOnXfs(BackendConformance):
    """By reflinks; on a file system that may not be mounted."""

    advisories_count = True
    crash_sample: ClassVar[int | None] = None if FULL else 12

    @pytest.fixture
    def backend(self, xfs: Path, tmp_path: Path) -> Iterator[RawBackend]:
        with away.bound(xfs, tmp_path / "instances"), conforming(RawBackend, tmp_path) as backend:
            self.mounted = xfs
            yield backend

    def without_store(self, trial: Trial) -> contextlib.AbstractContextManager[None]:
        return away.unmounted(self.mounted, trial.backend.host.instances)


class TestRawOnBtrfs(BackendConformance):
    """By reflinks."""

    advisories_count = True
    crash_sample: ClassVar[int | None] = None if FULL else 12

    @pytest.fixture
    def backend(self, btrfs: Path) -> Iterator[RawBackend]:
        with conforming(RawBackend, btrfs) as backend:
            yield backend
