"""Fixtures of the tests of instances."""

import base64
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from labs.ceph import Cluster
from labs.engines import engine, images_type, make_engine
from labs.glance import glance
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.tinylinux import tiny_linux

__all__ = ["engine", "glance", "images_type", "make_engine", "tiny_linux"]


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
