"""The driver rbd keeps the contract, on a pool of a real Ceph."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.testing.trial import Trial
from imgbackend.types import Location
from imgbackend_rbd import RbdBackend
from imgbackend_rbd.images import fill
from imgbackend_rbd.locations import Place
from labs.ceph import Cluster
from labs.require import FULL


class TestRbd(BackendConformance):
    """On a pool of the test's own; the images that are cloned are in another."""

    libraries: ClassVar[tuple[str, ...]] = ("rbd", "rados")
    crash_sample: ClassVar[int | None] = None if FULL else 6
    advisories_count = True

    @pytest.fixture
    def backend(self, rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path) -> Iterator[RbdBackend]:
        own = {
            "pool": rbd_pool,
            "user": rbd_cluster.user,
            "ceph_conf": str(rbd_cluster.conf),
            "destroy_volume_retries": 20,
            "destroy_volume_retry_interval": 0.5,
        }
        with conforming(RbdBackend, tmp_path, own) as backend:
            yield backend

    @pytest.fixture
    def location(self, trial: Trial, backend: RbdBackend, rbd_cluster: Cluster) -> Iterator[Location]:
        """A protected snapshot in a pool of its own, as Glance keeps an image."""
        path = trial.image().content
        with rbd_cluster.pool(f"{backend.pool}-glance") as pool:
            yield Location(url=_uploaded(backend, pool, path).url, format="raw")
            trial.clear()


def _uploaded(backend: RbdBackend, pool: str, path: Path) -> Place:
    cluster, size = backend.cluster, path.stat().st_size
    place = Place(fsid=cluster.fsid, pool=pool, image="2b0f6a4c-4d6b-4c0e-9c5d-5d3b1c0e7a11", snapshot="snap")
    with cluster.asked("uploading", pool):
        cluster.rbd().create(cluster.pool(pool), place.image, size, old_format=False)
        with cluster.image(pool, place.image) as image, path.open("rb") as file:
            fill(image, file.fileno(), size, lambda *_: None)
            image.create_snap(place.snapshot)
            image.protect_snap(place.snapshot)
    return place
