"""The driver qcow2 keeps the contract, on raw bases and on qcow2 ones."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.testing.trial import Trial
from imgbackend_qcow2 import Qcow2Backend
from labs import away
from labs.require import FULL


class TestQcow2(BackendConformance):
    advisories_count = True

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Qcow2Backend]:
        (tmp_path / "instances").mkdir()
        with conforming(Qcow2Backend, tmp_path) as backend:
            yield backend

    def without_store(self, trial: Trial) -> contextlib.AbstractContextManager[None]:
        return away.renamed(trial.backend.host.instances)


class TestQcow2OnQcow2(BackendConformance):
    """With bases that stay qcow2."""

    advisories_count = True
    crash_sample: ClassVar[int | None] = None if FULL else 12

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Qcow2Backend]:
        with conforming(Qcow2Backend, tmp_path, engine={"force_raw_images": False}) as backend:
            yield backend
