"""The driver lvm conforms, with a thin pool and without."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.testing.trial import Trial
from imgbackend.types import Mi
from imgbackend_lvm import LvmBackend
from labs.lvm import Group, MakeGroup
from labs.require import FULL


class TestLvmThin(BackendConformance):
    smallest = 4 * Mi
    advisories_count = True
    crash_sample: ClassVar[int | None] = None if FULL else 4

    @pytest.fixture
    def backend(self, lvm_group: Group, lvm_make_group: MakeGroup, tmp_path: Path) -> Iterator[LvmBackend]:
        self._make_group = lvm_make_group
        own = {"volume_group": lvm_group.name, "thin_pool": lvm_group.pool}
        with conforming(LvmBackend, tmp_path, own) as backend:
            yield backend

    def other_store(self, trial: Trial) -> contextlib.AbstractContextManager[LvmBackend]:
        """Another group, with a pool."""
        group = self._make_group(64 * Mi, pool_size=32 * Mi)
        own = {"volume_group": group.name, "thin_pool": group.pool}
        return conforming(LvmBackend, trial.backend.host.instances.parent, own)


class TestLvmThick(BackendConformance):
    smallest = 4 * Mi
    advisories_count = True
    crash_sample: ClassVar[int | None] = None if FULL else 4

    @pytest.fixture
    def backend(self, lvm_group: Group, lvm_make_group: MakeGroup, tmp_path: Path) -> Iterator[LvmBackend]:
        self._make_group = lvm_make_group
        with conforming(LvmBackend, tmp_path, {"volume_group": lvm_group.name}) as backend:
            yield backend

    def other_store(self, trial: Trial) -> contextlib.AbstractContextManager[LvmBackend]:
        """Another group, with nothing in it."""
        own = {"volume_group": self._make_group(64 * Mi).name}
        return conforming(LvmBackend, trial.backend.host.instances.parent, own)
