"""Disks of images that Glance keeps in the same cluster: by the command, as an operator's host has it."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.harness import Cli
from imgbackend import Engine
from imgbackend.driver.abilities import HoldsBases
from imgbackend.types import Mi
from imgbackend_rbd.disk import RbdDisk
from labs import bootsector
from labs.ceph import Cluster
from labs.glance import Glance
from labs.images import qcow2

_SIZE = 64 * Mi
_MACHINE = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "32", "-nodefaults", "-no-reboot"]


class Host:
    """A host whose disks are in a pool, and whose images come from Glance."""

    def __init__(self, cli: Cli, cluster: Cluster, pool: str, lab: Glance) -> None:
        self.cli, self.cluster, self.pool, self.glance = cli, cluster, pool, lab
        self._conf = cli.root / "imgbackend.conf"
        self._conf.write_text(f"""
[DEFAULT]
images_type = rbd
[rbd]
pool = {pool}
user = {cluster.user}
ceph_conf = {cluster.conf}
[glance]
auth_type = admin_token
endpoint = {lab.url}
endpoint_override = {lab.url}
token = admin
""")

    def create(self, instance: str, image_id: str, *more: str) -> dict[str, Any]:
        """What ``imgbackend disk create`` tells."""
        words = ["disk", "create", instance, "--image", f"glance:{image_id}", "--size", str(_SIZE)]
        done = self.cli("--config-file", self._conf, *words, *more, "-f", "json")
        made: dict[str, Any] = done.json()
        return made

    def engine(self) -> Engine:
        """The same by the library."""
        return Engine.from_config([self._conf], {"instances_path": str(self.cli.instances)})

    def rbd(self, *words: str) -> Any:
        """What Ceph's own command prints."""
        command = ["rbd", "-c", str(self.cluster.conf), "--id", self.cluster.user, "--format", "json", *words]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)

    def images(self) -> set[str]:
        """What is in the pool."""
        return set(self.rbd("ls", self.pool))

    def parent(self, instance: str) -> str:
        """The snapshot that a disk is a clone of."""
        told = self.rbd("info", f"{self.pool}/{instance}_disk")["parent"]
        return f"{told['pool']}/{told['image']}@{told['snapshot']}"

    def drive(self, instance: str) -> str:
        """A disk, as QEMU opens it."""
        return f"rbd:{self.pool}/{instance}_disk:id={self.cluster.user}:conf={self.cluster.conf}"

    def boot(self, instance: str) -> str:
        """What the guest writes on its console."""
        drive = f"file={self.drive(instance)},format=raw,if=virtio"
        command = [*_MACHINE, "-display", "none", "-serial", "stdio", "-drive", drive]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    def clear(self) -> None:
        """Delete all disks, then the bases that nothing hangs on any more."""
        with self.engine() as engine:
            for disk in list(engine.disks()):
                disk.remove()
            backend = engine.backend("rbd")
            assert isinstance(backend, HoldsBases)
            for base in list(backend.list_bases()):
                backend.remove_base(base.name)
        assert self.images() == set()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    tmp_path.chmod(0o755)
    made = Cli(tmp_path, tmp_path / "cache")
    made.images.mkdir(mode=0o755)
    return made


@pytest.fixture
def host(cli: Cli, rbd_glance: Glance, rbd_cluster: Cluster, rbd_pool: str) -> Host:
    return Host(cli, rbd_cluster, rbd_pool, rbd_glance)


@pytest.fixture
def bootable(tmp_path: Path) -> Path:
    path = tmp_path / "bootable.raw"
    bootsector.write_disk(path, 4 * Mi, marker="FROM THE CLONE", end="poweroff")
    return path


def _bases(host: Host) -> list[str]:
    return [path.name for path in host.cli.instances.glob("_base/*")]


def test_image_of_glance_is_cloned_and_boots_and_nothing_is_downloaded(host: Host, bootable: Path) -> None:
    image_id = host.glance.add("bootable", bootable)
    made = host.create("vm", image_id)
    assert (made["way"], made["reason"], made["fetched"], made["size"]) == ("clone", "", False, _SIZE)
    assert host.images() == {"vm_disk"}
    assert host.parent("vm") == f"images/{image_id}@snap"
    console = host.boot("vm")
    assert "FROM THE CLONE" in console
    assert bootsector.sectors_in(console) == _SIZE // bootsector.SECTOR
    assert (host.glance.downloads(image_id), _bases(host)) == (0, [])
    host.clear()


def test_prefetch_imports_once_what_cannot_be_cloned_and_nothing_else(host: Host, bootable: Path) -> None:
    image_id = host.glance.add("bootable", bootable)
    beside = host.cli.images / "beside.raw"
    beside.write_bytes(bootable.read_bytes())
    with host.engine() as engine:
        refs = [f"glance:{image_id}", str(beside)]
        done = engine.cache.prefetch(refs, at_once=2)
        assert [each.status for each in done] == ["not needed", "cached"]
        assert image_id in done[0].reason
        assert (done[0].store, done[1].store) == (None, "rbd")
        assert [each.status for each in engine.cache.prefetch(refs)] == ["not needed", "existing"]
        assert [base.name for base in engine.cache.bases().bases] == [done[1].base]
        wanted = engine.image(str(beside))
        made = engine.disk("vm").cache(wanted, wanted.filename)
    assert (made.way, made.fetched) == ("clone", False)
    assert (host.glance.downloads(image_id), _bases(host)) == (0, [])
    host.clear()


def test_stale_local_base_does_not_prevent_a_clone(host: Host, bootable: Path) -> None:
    image_id = host.glance.add("bootable", bootable)
    assert host.create("local", image_id, "--images-type", "qcow2")["way"] == "overlay"
    assert host.glance.downloads(image_id) == 1
    made = host.create("vm", image_id)
    assert (made["way"], made["fetched"], host.parent("vm")) == ("clone", False, f"images/{image_id}@snap")
    assert (host.images(), host.glance.downloads(image_id)) == ({"vm_disk"}, 1)
    host.clear()


def test_image_that_is_no_raw_is_imported_once_and_boots(host: Host, bootable: Path, tmp_path: Path) -> None:
    """Its bytes in Ceph are those of a container: a clone of them would be no disk."""
    container = qcow2(tmp_path / "bootable.qcow2", 4 * Mi, content=bootable)
    image_id = host.glance.add("bootable", container, disk_format="qcow2")
    planned = host.create("vm", image_id, "--explain")
    assert "the image is qcow2" in planned["reason"]
    assert "imported once" in planned["reason"]
    assert host.images() == set()
    first, second = host.create("vm", image_id), host.create("other", image_id)
    assert (first["way"], first["fetched"]) == ("clone", True)
    assert (second["way"], second["fetched"]) == ("clone", False)
    assert host.parent("vm") == host.parent("other")
    assert host.glance.downloads(image_id) == 1
    assert "FROM THE CLONE" in host.boot("other")
    host.clear()


def test_image_in_another_cluster_is_imported_once(
    cli: Cli, rbd_glance: Glance, rbd_own_cluster: Callable[..., Cluster], bootable: Path
) -> None:
    cluster = rbd_own_cluster(pools="vms", size=256 * Mi)
    host = Host(cli, cluster, "vms", rbd_glance)
    image_id = rbd_glance.add("bootable", bootable)
    planned = host.create("vm", image_id, "--explain")
    assert "another Ceph cluster" in planned["reason"]
    assert "imported once" in planned["reason"]
    assert (host.create("vm", image_id)["fetched"], host.create("other", image_id)["fetched"]) == (True, False)
    assert rbd_glance.downloads(image_id) == 1
    assert "FROM THE CLONE" in host.boot("other")
    host.clear()


def test_image_made_of_a_disk_in_the_cluster_is_glances_own(host: Host, bootable: Path, tmp_path: Path) -> None:
    """Its bytes never leave the cluster; the guest's disk may go before it, and the next guest boots from it."""
    first, snapshot = host.glance.add("bootable", bootable), host.glance.add("snapshot", None)
    host.create("vm", first)
    write = ["qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", host.drive("vm")]
    subprocess.run(write, check=True, capture_output=True, timeout=60)
    with host.engine() as engine:
        disk = engine.disk("vm")
        assert isinstance(disk, RbdDisk)
        disk.extract(tmp_path / "seen", "raw")
        location = disk.to_image(snapshot)
        disk.remove()
    assert location.url == f"rbd://{host.cluster.fsid}/images/{snapshot}/snap"
    host.glance.place(snapshot, location.url)
    record = host.glance.call("GET", f"/v2/images/{snapshot}")
    assert (record["status"], record["size"]) == ("active", _SIZE)
    assert host.glance.call("GET", f"/v2/images/{snapshot}/file") == (tmp_path / "seen").read_bytes()
    made = host.create("other", snapshot)
    assert (made["way"], made["fetched"], host.parent("other")) == ("clone", False, f"images/{snapshot}@snap")
    assert "FROM THE CLONE" in host.boot("other")
    host.clear()
