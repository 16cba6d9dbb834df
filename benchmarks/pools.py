"""Disks in a pool of a real Ceph, against Nova's driver rbd, and against librbd's own calls."""

import contextlib
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Call, Taken, ratio, take_turns
from benchmarks.peer import Peer, running
from benchmarks.results import Case, Skipped, at_most
from benchmarks.sizes import against_nova, compared
from benchmarks.workshop import Workshop
from imgbackend.types import Declared, Gi, Location, Mi, Progress, base_name
from imgbackend_rbd.images import fill
from labs.ceph import Cluster
from labs.ceph_admin import Admin, CephError

_LINK: Final = Path(__file__).parents[1] / "tests" / "labs" / "ceph-lab.sh"
_POOL, _GLANCES = "vms", "images"
_SNAPSHOT: Final = "snap"
_MORE: Final = 256 * Mi
"""What a disk is larger than its image."""
_ROOM: Final = 16 * Gi
_NOVA: Final = "Nova 34"


def further(shop: Workshop, peer: Peer | None, sizes: Sequence[int]) -> Case:
    """A further disk of an image that the cluster does not have: ours of the base that the pool keeps."""
    with _cluster(shop.folder) as cluster, _nova(cluster, shop, peer) as nova, shop.engine(_ours(cluster)) as engine:
        calls: list[tuple[str, Call]] = []
        for size in sizes:
            source, told = shop.source(size=size), f"{size // Mi} MiB"
            image = engine.image(str(source))
            calls.append((f"imgbackend, flushed, {told}", shop.disk(engine, image, image.filename, size + _MORE)))
            if nova is not None:
                made = nova.disk("rbd", source, base_name(f"image of {size}"), size + _MORE)
                calls.append((f"{_NOVA}: qemu-img info, rbd import, {told}", made))
        series = take_turns(calls, shop.size.few)
    return Case(
        title="further rbd disk of an image from outside the cluster",
        series=series,
        targets=against_nova(series, sizes, 40),
        notes=[
            "The image is in the cache on both sides, raw: whatever it was delivered as was converted before.",
            *compared(series, sizes),
        ],
    )


def clones(shop: Workshop, peer: Peer | None) -> Case:
    """A disk of a raw image that is in the cluster: ours, Nova's, and the two calls that it cannot do without."""
    size = shop.size.image * 4
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(_cluster(shop.folder))
        nova = stack.enter_context(_nova(cluster, shop, peer))
        admin = stack.enter_context(cluster.admin())
        url = _uploaded(admin, cluster, shop.source())
        image, name = _InTheCluster(url), base_name(url)
        flushed = stack.enter_context(shop.engine(_ours(cluster)))
        plain = stack.enter_context(shop.engine({**_ours(cluster), "durable_disks": False}))
        calls: list[tuple[str, Call]] = [
            ("imgbackend, flushed", shop.disk(flushed, image, name, size)),
            ("imgbackend, durable_disks = false", shop.disk(plain, image, name, size)),
            ("librbd: clone, open, resize, close", _bare(shop, stack, admin, url, size)),
        ]
        if nova is not None:
            calls.append((_NOVA, nova.disk("clone", url, name, size)))
        series = take_turns(calls, shop.size.repeats, warm_ups=3)
    notes = [
        f"Of the minima {series[0].best / series[2].best:.2f} x; without flushing {ratio(series[1], series[2]):.2f} x."
    ]
    if nova is not None:
        notes.append(f"Nova, which makes a connection for each step, takes {ratio(series[3], series[0]):.1f} x ours.")
    return Case(
        title="rbd disk of a raw image in the same cluster",
        series=series,
        targets=[at_most("flushed: at most 1.25 x librbd's calls alone", ratio(series[0], series[2]), 1.25, "x")],
        notes=notes,
    )


class _InTheCluster:
    """A raw image that Glance keeps in the same cluster; nobody asks for its bytes."""

    def __init__(self, url: str) -> None:
        self.declared = Declared(image_id=url, source=url, format="raw", locations=(Location(url=url, format="raw"),))

    def __call__(self, target: Path, _progress: Progress, /) -> None:
        raise AssertionError(f"a clone needs no bytes, and they were to be put at {target}")


def _bare(shop: Workshop, stack: contextlib.ExitStack, admin: Admin, url: str, size: int) -> Call:
    """Over a connection that is kept."""
    import rbd

    image, snapshot = url.split("/")[-2:]
    images, disks = (stack.enter_context(admin.pool(name)) for name in (_GLANCES, _POOL))

    def call() -> Taken:
        name = shop.instance()
        with shop.timer():
            rbd.RBD().clone(images, image, snapshot, disks, name)
            with rbd.Image(disks, name) as disk:
                disk.resize(size)
        rbd.RBD().remove(disks, name)
        return shop.timer.taken

    return call


def _uploaded(admin: Admin, cluster: Cluster, source: Path) -> str:
    """The location of a new image with the bytes of ``source``, as Glance keeps one."""
    import rbd

    image, size = str(uuid.uuid4()), source.stat().st_size
    with admin.pool(_GLANCES) as pool, source.open("rb") as file:
        rbd.RBD().create(pool, image, size)
        with rbd.Image(pool, image) as made:
            fill(made, file.fileno(), size, lambda *_: None)
            made.create_snap(_SNAPSHOT)
            made.protect_snap(_SNAPSHOT)
    return f"rbd://{cluster.fsid}/{_GLANCES}/{image}/{_SNAPSHOT}"


def _ours(cluster: Cluster) -> dict[str, Any]:
    return {"images_type": "rbd", "rbd.pool": _POOL, "rbd.user": cluster.user, "rbd.ceph_conf": str(cluster.conf)}


@contextlib.contextmanager
def _nova(cluster: Cluster, shop: Workshop, peer: Peer | None) -> Iterator[Peer | None]:
    """Nova on the same pool; None where there is none, or where its Python is not the one that rbd fits."""
    if peer is None or subprocess.run([_LINK, "link", peer.python.parents[1]], check=False, timeout=60).returncode:
        yield None
        return
    settings = {"images_rbd_pool": _POOL, "rbd_user": cluster.user, "images_rbd_ceph_conf": str(cluster.conf)}
    with running(peer.python, shop.folder, settings) as nova:
        yield nova


@contextlib.contextmanager
def _cluster(folder: Path) -> Iterator[Cluster]:
    if find_spec("rados") is None or find_spec("rbd") is None:
        raise Skipped("rados and rbd are not there for this Python; run tests/labs/ceph-lab.sh link .venv")
    with tempfile.TemporaryDirectory(dir=folder, prefix="ceph-") as place:
        cluster = Cluster(Path(place), size=_ROOM, pools=f"{_GLANCES} {_POOL}")
        try:
            cluster.start()
        except CephError as exc:
            raise Skipped(f"no Ceph could be started: {exc}") from exc
        try:
            yield cluster
        finally:
            cluster.stop()
