"""The kit tries what few drivers can do: clone, import, keep bases in the store."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.testing.trial import Trial
from imgbackend.types import Location
from labs import away
from labs.able import SCHEME, AbleBackend


class TestAble(BackendConformance):
    advisories_count = True

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[AbleBackend]:
        with conforming(AbleBackend, tmp_path, {"folder": str(tmp_path / "able")}) as backend:
            yield backend

    @pytest.fixture
    def location(self, trial: Trial) -> Location:
        return Location(url=f"{SCHEME}{trial.image().content}")

    def without_store(self, trial: Trial) -> contextlib.AbstractContextManager[None]:
        return away.renamed(Path(trial.backend.conf.folder))

    def other_store(self, trial: Trial) -> contextlib.AbstractContextManager[AbleBackend]:
        folder = trial.backend.host.instances.parent
        return conforming(AbleBackend, folder, {"folder": str(folder / "another")})
