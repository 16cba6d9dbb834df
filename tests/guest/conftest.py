"""Fixtures of the tests of instances."""

import base64
import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    with told_key(libvirt_daemon, rbd_cluster, tmp_path) as secret:
        yield make_guests(libvirt_daemon, overrides=on_pool(rbd_cluster, rbd_pool, secret))


def on_pool(cluster: Cluster, pool: str, secret: str) -> dict[str, Any]:
    """Options of an engine whose guests' disks are there."""
    return {
        "images_type": "rbd",
        "rbd.pool": pool,
        "rbd.user": cluster.user,
        "rbd.ceph_conf": str(cluster.conf),
        "rbd.secret_uuid": secret,
    }


@contextlib.contextmanager
def told_key(libvirt: Libvirt, cluster: Cluster, scratch: Path) -> Iterator[str]:
    """The secret by which a libvirtd knows the key of a cluster's user meanwhile."""
    secret = str(uuid.uuid4())
    xml = scratch / "secret.xml"
    xml.write_text(
        f"<secret ephemeral='yes'><uuid>{secret}</uuid>"
        f"<usage type='ceph'><name>imgbackend test {secret}</name></usage></secret>"
    )
    libvirt.virsh("secret-define", str(xml))
    match = re.search(r"key = (\S+)", cluster.keyring.read_text())
    assert match is not None
    assert base64.b64decode(match[1])
    key = scratch / "key"
    key.write_text(match[1])
    libvirt.virsh("secret-set-value", secret, "--file", str(key))
    yield secret
    libvirt.virsh("secret-undefine", secret)
