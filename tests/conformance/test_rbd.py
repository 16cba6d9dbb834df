"""The driver rbd keeps the contract, on a pool of a real Ceph."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from imgbackend.testing import BackendConformance, conforming
from imgbackend.testing.trial import Trial
from imgbackend.types import Gi, Location
from imgbackend_rbd import RbdBackend
from imgbackend_rbd.images import fill
from imgbackend_rbd.locations import ImagePlace
from labs.ceph import Cluster, new_pool
from labs.ceph_admin import CephError
from labs.require import FULL, require

_UNTOLD = "the cluster that tests share has no manager, and without one Ceph tells no sizes"


class TestRbd(BackendConformance):
    """On a pool of the test's own; the images that are cloned are in another."""

    libraries: ClassVar[tuple[str, ...]] = ("rbd", "rados")
    crash_sample: ClassVar[int | None] = None if FULL else 6
    advisories_count = True
    known_deviations: ClassVar[dict[str, str]] = {
        "test_capacity_is_plausible": _UNTOLD,
        "test_full_store_is_told": _UNTOLD,
    }

    @pytest.fixture
    def backend(self, rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path) -> Iterator[RbdBackend]:
        self._cluster = rbd_cluster
        with conforming(RbdBackend, tmp_path, _options(rbd_cluster, rbd_pool)) as backend:
            yield backend

    @pytest.fixture
    def location(self, trial: Trial, backend: RbdBackend, rbd_cluster: Cluster) -> Iterator[Location]:
        """A protected snapshot in a pool of its own, as Glance keeps an image."""
        with rbd_cluster.pool(f"{backend.pool}-glance") as pool:
            yield Location(url=_uploaded(backend, pool, trial.image().content).url, format="raw")
            trial.clear()

    @contextlib.contextmanager
    def other_store(self, trial: Trial) -> Iterator[RbdBackend]:
        """Another pool of the cluster."""
        cluster, folder = self._cluster, trial.backend.host.instances.parent
        with new_pool(cluster) as pool, conforming(RbdBackend, folder, _options(cluster, pool)) as other:
            yield other


@pytest.mark.skipif(not FULL, reason="it takes long; ./dev test-full has it")
class TestRbdOnDisk(BackendConformance):
    """On OSDs that keep their data on disk, with a manager."""

    libraries: ClassVar[tuple[str, ...]] = ("rbd", "rados")
    crash_sample: ClassVar[int | None] = 6
    advisories_count = True

    @pytest.fixture
    def backend(self, rbd_on_disk: Cluster, tmp_path: Path) -> Iterator[RbdBackend]:
        with (
            new_pool(rbd_on_disk) as pool,
            rbd_on_disk.admin() as admin,
            conforming(RbdBackend, tmp_path, _options(rbd_on_disk, pool)) as backend,
        ):
            admin.await_statistics(len(admin.rados.list_pools()))
            yield backend

    @pytest.fixture
    def location(self, trial: Trial, backend: RbdBackend, rbd_on_disk: Cluster) -> Iterator[Location]:
        with rbd_on_disk.pool(f"{backend.pool}-glance") as pool:
            yield Location(url=_uploaded(backend, pool, trial.image().content).url, format="raw")
            trial.clear()


@pytest.fixture(scope="module")
def rbd_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    lab = Cluster(tmp_path_factory.mktemp("ceph"), store="bluestore", size=4 * Gi, manager=True)
    try:
        lab.start()
    except CephError as exc:
        require("rbd", str(exc))
    yield lab
    lab.stop()


def _options(cluster: Cluster, pool: str) -> dict[str, object]:
    return {
        "pool": pool,
        "user": cluster.user,
        "ceph_conf": str(cluster.conf),
        "destroy_volume_retries": 20,
        "destroy_volume_retry_interval": 0.5,
    }


def _uploaded(backend: RbdBackend, pool: str, path: Path) -> ImagePlace:
    cluster, size = backend.cluster, path.stat().st_size
    place = ImagePlace(fsid=cluster.fsid, pool=pool, image="2b0f6a4c-4d6b-4c0e-9c5d-5d3b1c0e7a11", snapshot="snap")
    with cluster.asked("uploading", pool):
        cluster.rbd().create(cluster.pool(pool), place.image, size, old_format=False)
        with cluster.image(pool, place.image) as image, path.open("rb") as file:
            fill(image, file.fileno(), size, lambda *_: None)
            image.create_snap(place.snapshot)
            image.protect_snap(place.snapshot)
    return place
