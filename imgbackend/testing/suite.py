"""The kit's class for a backend of this host's configuration; run by ``imgbackend-conformance``.

Its ``backend`` is given by the plugin object of :mod:`imgbackend.testing.installed`.
"""

import pytest

from imgbackend.testing.conformance import BackendConformance
from imgbackend.types import Location


class TestInstalled(BackendConformance):
    """All of the kit."""

    @pytest.fixture
    def location(self) -> Location:
        """Nobody told where the sources of this host keep images, and nothing is put there."""
        pytest.skip("not applicable: the places of this host's sources are not touched")
