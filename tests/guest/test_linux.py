"""A Linux that says what it was given: spawned from a real Glance, by each driver that needs no lab of its own."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imgbackend.driver.abilities import HoldsBases
from imgbackend.guest.spec import ConfigDrive, Ephemeral, InjectedFile, Label
from imgbackend.types import Mi
from labs import tinylinux
from labs.glance import Glance
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.tinylinux import TinyLinux

_ROOT = os.urandom(2 * Mi) + b"end"


@dataclass(frozen=True)
class Place:
    """Where instances are, and where their images come from."""

    guests: Guests
    glance: Glance
    label: Label = "config-2"
    """Of the config drive."""


@pytest.fixture(params=[("raw", "config-2"), ("qcow2", "cidata")], ids=["raw", "qcow2-nocloud"])
def place(
    request: pytest.FixtureRequest, make_guests: MakeGuests, libvirt_daemon: Libvirt, glance: Glance
) -> Iterator[Place]:
    images_type, label = request.param
    yield _place(make_guests(libvirt_daemon, overrides={"images_type": images_type}), glance, label)
    glance.forget()


@pytest.fixture
def rbd_place(rbd_guests: Guests, rbd_glance: Glance) -> Iterator[Place]:
    """Images and disks are in one cluster."""
    place = _place(rbd_guests, rbd_glance)
    yield place
    backend = place.guests.engine().backend("rbd")
    assert isinstance(backend, HoldsBases)
    for base in list(backend.list_bases()):
        backend.remove_base(base.name)


def _place(guests: Guests, glance: Glance, label: Label = "config-2") -> Place:
    guests.conf = f"""
[glance]
auth_type = admin_token
endpoint = {glance.url}
endpoint_override = {glance.url}
token = admin
"""
    return Place(guests, glance, label)


def _first(content: bytes, size: int) -> str:
    """The sum that a guest tells of a disk of ``size`` bytes that begins so."""
    return hashlib.sha256(content[:Mi].ljust(min(size, Mi), b"\0")).hexdigest()


def _spawned(place: Place, tiny: TinyLinux) -> dict[str, Any]:
    """Have an instance boot the kernel and the ramdisk that its image names in Glance; how its disks were made."""
    kernel = place.glance.add("kernel", tiny.kernel, disk_format="aki", container_format="aki")
    ramdisk = place.glance.add("ramdisk", tiny.ramdisk, disk_format="ari", container_format="ari")
    image = place.glance.add("root", _ROOT, kernel_id=kernel, ramdisk_id=ramdisk, os_command_line=tinylinux.CMDLINE)
    spec = place.guests.spec(
        image=f"glance:{image}",
        memory=128 * Mi,
        root_size=64 * Mi,
        ephemerals=(Ephemeral(size=32 * Mi, format="ext4"),),
        swap=16 * Mi,
        config_drive=ConfigDrive(label=place.label, user_data=b"#!/bin/sh\n\xff\n", metadata={"role": "front"}),
        files=(InjectedFile(path="/etc/motd", content=b"hello\n" * 1000),),
    )
    made = place.guests.instances().spawn(spec)
    return {name: cached.way for name, cached in made.disks.items()}


def _found_all(place: Place, tiny: TinyLinux, tmp_path: Path) -> None:
    """The guest says what it was meant to be given, byte for byte, and the host keeps what Glance gave."""
    guests = place.guests
    said = tinylinux.told(guests.until(tinylinux.DONE))
    guests.instances().stop(guests.name(), seconds=0)
    drive = tmp_path / "drive.iso"
    guests.engine().disk(guests.name(), "disk.config").extract(drive, "raw")
    config = drive.read_bytes()
    assert said.disks == {"vda": 64 * Mi, "vdb": 32 * Mi, "vdc": 16 * Mi, "sr0": len(config)}
    assert (said.sums["vda"], said.sums["sr0"]) == (_first(_ROOT, 64 * Mi), _first(config, len(config)))
    assert said.labels == {place.label: "sr0", "ephemeral0": "vdb", "swap": "vdc"}
    assert 16 * Mi < said.free["ephemeral0"] < 32 * Mi
    assert 15 * Mi < said.swap["vdc"] < 16 * Mi
    assert said.cmdline == tinylinux.CMDLINE
    assert json.loads(said.files["meta-data"])["instance-id"] == guests.spec().uuid
    told = json.loads(said.files["openstack/latest/meta_data.json"])
    assert told["uuid"] == guests.spec().uuid
    assert told["meta"] == {"role": "front"}
    [file] = told["files"]
    assert (file["path"], said.files[f"openstack{file['content_path']}"]) == ("/etc/motd", b"hello\n" * 1000)
    assert said.files["openstack/latest/user_data"] == said.files["user-data"] == b"#!/bin/sh\n\xff\n"
    folder = guests.instances_path / guests.name()
    assert (folder / "kernel").read_bytes() == tiny.kernel.read_bytes()
    assert (folder / "ramdisk").read_bytes() == tiny.ramdisk.read_bytes()


def test_guest_finds_what_it_was_given(place: Place, tiny_linux: TinyLinux, tmp_path: Path) -> None:
    ways = _spawned(place, tiny_linux)
    assert set(ways) == {"kernel", "ramdisk", "disk", "disk.eph0", "disk.swap", "disk.config"}
    _found_all(place, tiny_linux, tmp_path)
    place.guests.instances().destroy(place.guests.name())
    assert (place.guests.domains(), place.guests.left()) == (set(), set())


def test_guest_finds_what_it_was_given_in_a_pool(rbd_place: Place, tiny_linux: TinyLinux, tmp_path: Path) -> None:
    ways = _spawned(rbd_place, tiny_linux)
    assert (ways["disk"], ways["disk.config"]) == ("clone", "import")
    root = next(image for image in rbd_place.glance.call("GET", "/v2/images?name=root")["images"])
    assert rbd_place.glance.downloads(root["id"]) == 0
    _found_all(rbd_place, tiny_linux, tmp_path)
    rbd_place.guests.instances().destroy(rbd_place.guests.name())
    assert (rbd_place.guests.domains(), rbd_place.guests.left()) == (set(), set())
