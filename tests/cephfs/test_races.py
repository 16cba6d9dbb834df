"""The races of :mod:`shares.races` on CephFS."""

import pytest

from labs.shares import Share
from shares.races import Races


@pytest.fixture
def share(cephfs_share: Share) -> Share:
    return cephfs_share


class TestOnCephFs(Races):
    """Two clients, ceph-fuse both."""
