"""The races of :mod:`shares.races` on NFS."""

from typing import ClassVar

import pytest

from labs.require import FULL
from labs.shares import Share
from shares.races import Races


@pytest.fixture
def share(nfs_share: Share) -> Share:
    return nfs_share


class TestOnNfs(Races):
    """Two clients and a server, in a machine that takes five times as long for anything."""

    rounds: ClassVar[int] = 12 if FULL else 6
