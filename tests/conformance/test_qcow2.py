"""The driver qcow2 keeps the contract, on raw bases and on qcow2 ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend_qcow2 import Qcow2Backend


class TestQcow2(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Qcow2Backend]:
        with conforming(Qcow2Backend, tmp_path) as backend:
            yield backend


class TestQcow2OnQcow2(BackendConformance):
    """With bases that stay qcow2."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Qcow2Backend]:
        with conforming(Qcow2Backend, tmp_path, engine={"force_raw_images": False}) as backend:
            yield backend
