"""Instances whose disks are in a Ceph pool: cloned, booted over the network, taken away."""

from imgbackend import Engine
from imgbackend.driver.abilities import HoldsBases
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
