"""The races of :mod:`shares.races` on a folder of this machine."""

import pytest

from labs.shares import Share, local_share
from shares.races import Races

__all__ = ["local_share"]

pytestmark = pytest.mark.slow


@pytest.fixture
def share(local_share: Share) -> Share:
    return local_share


class TestOnThisMachine(Races):
    """Two containers, or two hosts on a cluster's file system without caches of its own."""

    rounds = 5 * Races.rounds  # here a creation takes milliseconds, and fewer are over before a pass has removed a base
