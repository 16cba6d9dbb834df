"""The promises of :mod:`shares.promises` on NFS."""

from typing import ClassVar

import pytest

from labs.shares import Share
from shares.promises import Promises, bases_alone, engine_on, sparse_image

__all__ = ["bases_alone", "engine_on", "sparse_image"]


@pytest.fixture
def share(nfs_share: Share) -> Share:
    return nfs_share


class TestOnNfs(Promises):
    kind: ClassVar[str] = "nfs4"
    removed_stays_open: ClassVar[bool] = False
