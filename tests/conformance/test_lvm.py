"""The driver lvm conforms, with a thin pool and without."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.types import Mi
from imgbackend_lvm import LvmBackend


@pytest.fixture
def lvm_group() -> str:
    return os.environ["LVM_LAB_VG"]


class TestLvmThin(BackendConformance):
    smallest = 4 * Mi

    @pytest.fixture
    def backend(self, lvm_group: str, tmp_path: Path) -> Iterator[LvmBackend]:
        own = {"volume_group": lvm_group, "thin_pool": "thinpool"}
        with conforming(LvmBackend, tmp_path, own) as backend:
            yield backend


class TestLvmThick(BackendConformance):
    smallest = 4 * Mi

    @pytest.fixture
    def backend(self, lvm_group: str, tmp_path: Path) -> Iterator[LvmBackend]:
        with conforming(LvmBackend, tmp_path, {"volume_group": lvm_group}) as backend:
            yield backend
