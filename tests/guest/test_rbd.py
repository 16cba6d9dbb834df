"""Instances whose disks are in a Ceph pool: cloned, booted over the network, taken away."""

import base64
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbackend import Engine
from imgbackend.abilities import HoldsBases
from imgbackend.guest.spec import ConfigDrive
from imgbackend.types import Gi, Mi
from labs.ceph import Cluster
from labs.libvirt import Guests, Libvirt, MakeGuests


@pytest.fixture
def rbd_guests(
    rbd_cluster: Cluster, rbd_pool: str, libvirt_daemon: Libvirt, make_guests: MakeGuests, tmp_path: Path
) -> Iterator[Guests]:
    """Instances on a pool, whose user's key libvirt knows."""
    secret = str(uuid.uuid4())
    xml = tmp_path / "secret.xml"
    xml.write_text(
        f"<secret ephemeral='yes'><uuid>{secret}</uuid>"
        f"<usage type='ceph'><name>imgbackend test {secret}</name></usage></secret>"
    )
    libvirt_daemon.virsh("secret-define", str(xml))
    match = re.search(r"key = (\S+)", rbd_cluster.keyring.read_text())
    assert match is not None
    assert base64.b64decode(match[1])
    key = tmp_path / "key"
    key.write_text(match[1])
    libvirt_daemon.virsh("secret-set-value", secret, "--file", str(key))
    yield make_guests(
        libvirt_daemon,
        overrides={
            "images_type": "rbd",
            "rbd.pool": rbd_pool,
            "rbd.user": rbd_cluster.user,
            "rbd.ceph_conf": str(rbd_cluster.conf),
            "rbd.secret_uuid": secret,
        },
    )
    libvirt_daemon.virsh("secret-undefine", secret)


def images(cluster: Cluster, pool: str) -> set[str]:
    import rbd

    with cluster.admin() as admin, admin.pool(pool) as ioctx:
        return {name for image in rbd.RBD().list2(ioctx) if "_disk" in (name := image["name"])}


def test_instance_boots_from_a_clone_and_leaves_nothing(
    rbd_guests: Guests, rbd_cluster: Cluster, rbd_pool: str
) -> None:
    engine = rbd_guests.engine()
    instances = rbd_guests.instances(engine)
    for label in ("a", "b"):
        spawned = instances.spawn(rbd_guests.spec(label, root_size=Gi, swap=16 * Mi, config_drive=ConfigDrive()))
        ways = {name: cached.way for name, cached in spawned.disks.items()}
        assert ways == {"disk": "clone", "disk.swap": "clone", "disk.config": "import"}
        assert rbd_guests.sectors(label) == Gi // 512
    assert spawned.disks["disk"].fetched is False
    kept = images(rbd_cluster, rbd_pool)
    assert kept == {f"{rbd_guests.name(x)}_{disk}" for x in "ab" for disk in ("disk", "disk.swap", "disk.config")}
    local = [path for path in rbd_guests.instances_path.rglob("disk*") if not path.name.startswith("disks.json")]
    assert local == [], "the config drive is a secret, and the instance's disks are elsewhere"
    for label in ("a", "b"):
        instances.destroy(rbd_guests.name(label))
    assert images(rbd_cluster, rbd_pool) == set()
    assert (rbd_guests.domains(), rbd_guests.left()) == (set(), set())
    clear(engine)


def test_disks_whose_folder_is_gone_are_found_in_the_pool(
    rbd_guests: Guests, rbd_cluster: Cluster, rbd_pool: str
) -> None:
    engine = rbd_guests.engine()
    instances = rbd_guests.instances(engine)
    instances.spawn(rbd_guests.spec())
    folder = rbd_guests.instances_path / rbd_guests.name()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    instances.destroy(rbd_guests.name())
    assert images(rbd_cluster, rbd_pool) == set()
    clear(engine)


def clear(engine: Engine) -> None:
    """Take away the bases that the pool keeps."""
    backend = engine.backend("rbd")
    assert isinstance(backend, HoldsBases)
    for base in list(backend.list_bases()):
        backend.remove_base(base.name)
