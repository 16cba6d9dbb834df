"""The administrator's page on rbd: each command that it shows does what it says."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from imgbackend.types import Mi
from labs import bootsector, pages
from labs.ceph import Cluster
from labs.libvirt import Libvirt
from labs.pages import Reader

_UUID: Final = "8d1c1f4e-2d5d-4c1e-9f7c-0a9a4a4f3a11"


def test_commands_of_the_page_do_what_it_says(
    rbd_own_cluster: Callable[..., Cluster], libvirt_daemon: Libvirt, tmp_path: Path
) -> None:
    cluster = rbd_own_cluster(manager=True)
    bootsector.write_disk(tmp_path / "debian-12.qcow2", 64 * Mi, format="qcow2")
    configuration, secret = pages.blocks("admin/rbd", "ini")
    instead = {
        "/etc/ceph": str(cluster.folder),
        "pool create vms": "pool create vms 8",
        # the lab's cluster has a user of this name, with other rights
        "client.imgbackend": "client.page",
        "user = imgbackend": f"user = page\nceph_conf = {cluster.conf}\n{secret.partition('[rbd]')[2].strip()}",
        "[DEFAULT]": f"[DEFAULT]\ninstances_path = {tmp_path}/instances",
        "# apt install": "# true",
        "# ln -s": "# ls",
        "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path(\"platlib\"))')": "",
    }
    env = {"CEPH_CONF": str(cluster.conf), "LIBVIRT_DEFAULT_URI": libvirt_daemon.uri}
    reader = Reader(tmp_path, configuration, instead, env)
    pool, packages, modules, disks, key, looks, rights, room, removal, moving = pages.blocks("admin/rbd", "console")
    for block in (pool, packages, modules, key):
        reader.types(block)
    told = reader.types(disks)
    for check in ("health", "room", "writing", "locks", "qemu", "secret"):
        assert f"rbd: {check}" in told
    assert " error " not in told
    assert "web2_disk" in told
    assert '"instance": "web1"' in reader.types(looks)
    reader.types(rights)
    assert "vms" in reader.types(room)
    reader.types(removal)
    reader.types(f"# rbd create vms/{_UUID}_disk --size 8M\n")
    listed = reader.types(moving)
    assert _UUID in listed
    assert "web1" not in listed
    reader.types("# imgbackend cache prune --all\n# virsh secret-undefine 5a1f9e3c-0f0e-4c5b-9a3e-1d8c6b7a2f40\n")
