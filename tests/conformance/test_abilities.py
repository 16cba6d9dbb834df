"""The kit tries what few drivers can do: clone, import, keep bases in the store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.testing.trial import Trial
from imgbackend.types import Location
from labs.able import SCHEME, AbleBackend


class TestAble(BackendConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[AbleBackend]:
        with conforming(AbleBackend, tmp_path, {"folder": str(tmp_path / "able")}) as backend:
            yield backend

    @pytest.fixture
    def location(self, trial: Trial) -> Location:
        return Location(url=f"{SCHEME}{trial.image().content}")
