"""What exists is not silently taken for what was asked for: both values are told, or what is applied is reported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbackend import errors
from imgbackend.guest.spec import ConfigDrive, Nic
from imgbackend.types import Mi
from labs import bootsector
from labs.engines import make_engine, qcow2_content, raw_content, raw_image
from labs.libvirt import Guests
from labs.templates import Template

__all__ = ["make_engine", "qcow2_content", "raw_content", "raw_image"]

SECRET = "correct horse"  # noqa: S105 - of nobody
DRIVE = ConfigDrive(user_data=b"#cloud-config\n", public_keys={"me": "ssh-ed25519 AAAA"})


@pytest.fixture
def running(guests: Guests) -> Iterator[Guests]:
    guests.instances().spawn(spec_of(guests))
    yield guests
    guests.instances().destroy(guests.name())


def spec_of(guests: Guests, **values: Any) -> Any:
    told = {"config_drive": DRIVE, "admin_password": SECRET, "nics": (Nic(kind="user"),), **values}
    return guests.spec(**told)


def other_image(guests: Guests) -> str:
    path = guests.image.with_name("other.qcow2")
    bootsector.write_disk(path, 16 * Mi, format="qcow2", marker="OTHER")
    return str(path)


def test_spawn_of_one_that_runs_as_asked_is_no_error(running: Guests) -> None:
    assert running.instances().spawn(spec_of(running)).existed
    assert running.instances().spawn(running.spec(nics=(Nic(kind="user"),))).existed, "nothing is asked of the drive"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory": 128 * Mi}, "memory 64M, not 128M"),
        ({"vcpus": 2}, "vcpus 1, not 2"),
        ({"nics": ()}, "nics user, not none"),
        ({"config_drive": ConfigDrive(user_data=b"#!/bin/sh\nexit")}, r"other user data \(14 bytes\) .*\(14 bytes\)"),
        ({"config_drive": ConfigDrive(public_keys={"you": "ssh-rsa B"})}, r"ssh keys .*AAAA.*, not .*ssh-rsa B"),
        ({"admin_password": "battery staple"}, "another password than the one given"),
    ],
    ids=["memory", "vcpus", "nics", "user-data", "ssh-keys", "password"],
)
def test_spawn_of_one_that_runs_otherwise_tells_both_values(
    running: Guests, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.InstanceError, match=message) as caught:
        running.instances().spawn(spec_of(running, **values))
    assert SECRET not in str(caught.value)
    assert "battery" not in str(caught.value)


@pytest.mark.parametrize("state", ["running", "off"])
def test_spawn_of_one_with_another_image_tells_both(running: Guests, state: str) -> None:
    if state == "off":
        running.instances().stop(running.name(), seconds=0)
    with pytest.raises(errors.InstanceError, match=r"disk of the image .*tiny\.qcow2.*, not .*other\.qcow2"):
        running.instances().spawn(spec_of(running, image=other_image(running)))


def test_spawn_of_one_that_is_off_applies_what_it_can_and_reports_it(running: Guests) -> None:
    running.instances().stop(running.name(), seconds=0)
    done = running.instances().spawn(spec_of(running, memory=96 * Mi, vcpus=2))
    assert done.changed == ("memory 96M, before 64M", "vcpus 2, before 1")
    assert "<vcpu placement='static'>2</vcpu>" in running.instances().xml(running.name())


def test_spawn_of_one_that_is_off_refuses_another_config_drive(running: Guests) -> None:
    running.instances().stop(running.name(), seconds=0)
    with pytest.raises(errors.InstanceError, match="another password"):
        running.instances().spawn(spec_of(running, admin_password="battery staple"))  # noqa: S106 - of nobody


def test_disk_of_another_image_is_refused_with_both(make_engine: Any, raw_image: Template, raw_content: Path) -> None:
    engine = make_engine({"images_type": "qcow2"})
    made = engine.disk("web1")
    made.cache(raw_image, raw_image.name)
    other = Template(content=raw_content, image_id="other-image", format="raw")
    with pytest.raises(errors.DiskError, match=r"of the image raw-image, and other-image was asked for.*delete"):
        engine.disk("web1").cache(other, other.name)
    assert engine.disk("web1").cache(raw_image, raw_image.name).way == "exists"


def test_image_whose_id_nobody_knows_is_no_other_image(make_engine: Any, raw_image: Template) -> None:
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    fetch = lambda target, progress: raw_image(target, progress)  # noqa: E731 - a callable without declared
    assert engine.disk("web1").cache(fetch, raw_image.name).way == "exists"
