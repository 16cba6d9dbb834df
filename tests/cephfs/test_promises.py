"""The promises of :mod:`shares.promises` on CephFS."""

from typing import ClassVar

import pytest

from labs.shares import Share
from shares.promises import Promises, bases_alone, engine_on, sparse_image

__all__ = ["bases_alone", "engine_on", "sparse_image"]


@pytest.fixture
def share(cephfs_share: Share) -> Share:
    return cephfs_share


class TestOnCephFs(Promises):
    kind: ClassVar[str] = "fuse.ceph-fuse"
    removed_stays_open: ClassVar[bool] = True
