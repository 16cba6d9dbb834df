"""Instances whose disks are in a Ceph pool: cloned, booted over the network, taken away."""

from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.driver.abilities import HoldsBases
from imgbackend.guest.hypervisor import DomainState
from imgbackend.guest.spec import ConfigDrive
from imgbackend.types import Gi, Mi
from labs.ceph import Cluster
from labs.libvirt import Guests


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


def test_instance_goes_to_a_host_with_another_folder_and_another_libvirtd_by_its_pool(
    rbd_guests: Guests, rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path
) -> None:
    """One libvirtd stands for both: it knows the pool's key, and the domain is gone from it between the two."""
    name, giver = rbd_guests.name(), rbd_guests.instances()
    giver.spawn(rbd_guests.spec(root_size=Gi, swap=16 * Mi, config_drive=ConfigDrive()))
    giver.stop(name, seconds=0)
    giver.release(name)
    assert (rbd_guests.domains(), rbd_guests.left()) == (set(), set())
    folder = tmp_path / "folder-of-b"
    folder.mkdir(mode=0o711)
    with Engine.from_config([], rbd_guests.options() | {"instances_path": str(folder), "host": "b"}) as engine:
        with pytest.raises(errors.DiskElsewhere, match="nobody's"):
            engine.disk(name).remove()
        taker = engine.instances
        taker.take(name)
        assert set(engine.host.records.all(name)) == {"disk", "disk.swap", "disk.config"}
        taker.start(name)
        assert taker.show(name).state is DomainState.RUNNING
        with pytest.raises(errors.InstanceElsewhere, match="the host b"):
            giver.take(name)
        taker.destroy(name)
    assert images(rbd_cluster, rbd_pool) == set()
    clear(rbd_guests.engine())


def clear(engine: Engine) -> None:
    """Take away the bases that the pool keeps."""
    backend = engine.backend("rbd")
    assert isinstance(backend, HoldsBases)
    for base in list(backend.list_bases()):
        backend.remove_base(base.name)


def test_disk_that_nova_made_and_was_taken_over_goes_with_its_instance(
    rbd_guests: Guests, rbd_cluster: Cluster, rbd_pool: str
) -> None:
    import rbd

    engine, name = rbd_guests.engine(), rbd_guests.name()
    with rbd_cluster.admin() as admin, admin.pool(rbd_pool) as ioctx:
        rbd.RBD().create(ioctx, f"{name}_disk", 32 * Mi, old_format=False)
    image = engine.image(str(rbd_guests.image))
    assert engine.disk(name).cache(image, image.filename).way == "exists"
    engine.instances.destroy(name)
    assert images(rbd_cluster, rbd_pool) == set()
    assert rbd_guests.left() == set()
    clear(engine)


def test_disk_in_a_pool_is_grown_under_its_guest(rbd_guests: Guests) -> None:
    engine, name = rbd_guests.engine(), rbd_guests.name()
    engine.instances.spawn(rbd_guests.spec())
    rbd_guests.until("BOOT OK")
    engine.instances.grow(name, 64 * Mi)
    assert f"Capacity:       {64 * Mi}" in rbd_guests.lab.virsh("domblkinfo", name, "vda")
    assert engine.disk(name).info().size == 64 * Mi
    engine.instances.stop(name, seconds=0)
    engine.instances.grow(name, 96 * Mi)
    engine.instances.start(name)
    assert rbd_guests.sectors() == 96 * Mi // 512
    engine.instances.destroy(name)
    clear(engine)
