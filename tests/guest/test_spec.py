"""What an instance may be asked to be."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from imgbackend.errors import ConfigError
from imgbackend.guest.spec import ConfigDrive, Ephemeral, InjectedFile, InstanceSpec, IoLimits, Nic, Volume
from imgbackend.types import BlockSource, Gi


def spec(**values: Any) -> InstanceSpec:
    return InstanceSpec(**{"id": "web1", "image": "jammy", **values})


def test_uuid_is_always_the_same_of_an_instance() -> None:
    assert spec().uuid == spec().uuid
    assert spec().uuid != spec(id="web2").uuid
    assert uuid.UUID(spec().uuid).version == 5


def test_id_that_is_a_uuid_is_the_uuid() -> None:
    told = str(uuid.uuid4())
    assert spec(id=told).uuid == told
    assert spec(uuid=told.upper()).uuid == told


def test_secrets_are_not_shown() -> None:
    secret = "hunter2"  # noqa: S105 - of nobody
    found = spec(
        config_drive=ConfigDrive(user_data=secret.encode()),
        admin_password=secret,
        files=(InjectedFile(path="/etc/key", content=secret.encode()),),
    )
    assert secret not in repr(found)


BOOTING = Volume(source=BlockSource(path=Path("/dev/vg/root")), boot=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id": "a_b"}, "not a name for an instance"),
        ({"id": "locks"}, "not a name for an instance"),
        ({"uuid": "xyz"}, "uuid: 'xyz' is none"),
        ({"memory": 0}, "memory: 0"),
        ({"memory": 2048}, "memory: 2048 bytes are too few .*2048M"),
        ({"vcpus": -1}, "vcpus: -1"),
        ({"root_size": 0}, "root_size: 0"),
        ({"swap": 0}, "swap: 0"),
        ({"image": None}, "give one, or a volume to boot from"),
        ({"volumes": (BOOTING,)}, "not both"),
        ({"image": None, "volumes": (BOOTING, BOOTING)}, "one volume at most"),
        ({"ramdisk": "initrd"}, "needs a kernel"),
        ({"cmdline": "a\nb"}, "one line"),
        ({"files": (InjectedFile(path="/a", content=b""),)}, "files: only a config drive"),
        ({"admin_password": "x"}, "admin_password: only a config drive"),
        ({"config_drive": ConfigDrive(), "files": (InjectedFile(path="/a", content=b""),) * 2}, "the same path"),
        ({"suffix": "rescue"}, "suffix|not a name"),
        ({"suffix": ".log"}, "not a name for a disk"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(**values)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Ephemeral, {"size": 0}, "size: 0"),
        (Ephemeral, {"size": Gi, "format": "ext4; rm"}, "characters"),
        (Nic, {"kind": "tap", "name": "x"}, "no kind"),
        (Nic, {"kind": "bridge"}, "needs a name"),
        (Nic, {"kind": "user", "name": "x"}, "user takes no name"),
        (Nic, {"kind": "bridge", "name": "br0'/>"}, "characters"),
        (Nic, {"kind": "user", "mac": "52:54:00:XX:00:00"}, "mac"),
        (IoLimits, {"total_iops_sec": 5, "read_iops_sec": 5}, "not both"),
        (IoLimits, {"read_bytes_sec": 0}, "read_bytes_sec: 0"),
        (InjectedFile, {"path": "etc/motd", "content": b""}, "no absolute path"),
        (InjectedFile, {"path": "/etc/../motd", "content": b""}, "no absolute path"),
    ],
)
def test_parts_are_checked_too(kind: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)
