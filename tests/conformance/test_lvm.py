"""The driver lvm conforms, with a thin pool and without."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.types import Mi
from imgbackend_lvm import LvmBackend
from labs.lvm import Group
from labs.require import FULL


class TestLvmThin(BackendConformance):
    smallest = 4 * Mi
    advisories_count = True
    crash_sample: ClassVar[int | None] = None if FULL else 4

    @pytest.fixture
    def backend(self, lvm_group: Group, tmp_path: Path) -> Iterator[LvmBackend]:
        own = {"volume_group": lvm_group.name, "thin_pool": lvm_group.pool}
        with conforming(LvmBackend, tmp_path, own) as backend:
            yield backend


class TestLvmThick(BackendConformance):
    smallest = 4 * Mi
    advisories_count = True
    crash_sample: ClassVar[int | None] = None if FULL else 4

    @pytest.fixture
    def backend(self, lvm_group: Group, tmp_path: Path) -> Iterator[LvmBackend]:
        with conforming(LvmBackend, tmp_path, {"volume_group": lvm_group.name}) as backend:
            yield backend
