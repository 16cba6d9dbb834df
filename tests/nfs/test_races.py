"""The races of :mod:`shares.races` on NFS."""

import pytest

from labs.shares import Share
from shares.races import Races


@pytest.fixture
def share(nfs_share: Share) -> Share:
    return nfs_share


class TestOnNfs(Races):
    """Two clients and a server."""
