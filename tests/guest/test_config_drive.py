"""What a guest finds on its config drive; read back by other tools than the one that writes it."""

import datetime
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from imgbackend.errors import ConfigError
from imgbackend.guest.config_drive import ConfigDriveImage
from imgbackend.guest.spec import ConfigDrive, InjectedFile, InstanceSpec
from imgbackend.types import ignore
from labs.require import require

Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def make(drive: ConfigDrive, **values: Any) -> Path:
        spec = InstanceSpec(id="web1", image="jammy", config_drive=drive, **values)
        target = tmp_path / "disk.config"
        target.touch(0o600)
        ConfigDriveImage(spec, drive)(target, ignore)
        return target

    return make


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    return found or require("libvirt", f"{name} is not installed")


def read(iso: Path, path: str) -> bytes:
    """A file, by its Rock Ridge name."""
    done = subprocess.run([tool("isoinfo"), "-R", "-i", iso, "-x", f"/{path}"], capture_output=True, check=True)
    return done.stdout


def listed(iso: Path, names: str) -> set[str]:
    done = subprocess.run([tool("isoinfo"), names, "-f", "-i", iso], capture_output=True, text=True, check=True)
    return {line.removeprefix("/") for line in done.stdout.splitlines()}


def label(iso: Path) -> str:
    done = subprocess.run([tool("blkid"), "-p", "-o", "value", "-s", "LABEL", iso], capture_output=True, text=True)
    return done.stdout.strip()


def test_openstack_files_are_there_by_both_kinds_of_names(made: Made) -> None:
    iso = made(ConfigDrive(user_data=b"#cloud-config\n"), files=(InjectedFile(path="/etc/motd", content=b"hello\n"),))
    for names in ("-R", "-J"):
        found = listed(iso, names)
        assert {
            "openstack/latest/meta_data.json",
            "openstack/latest/user_data",
            "openstack/latest/vendor_data.json",
            "openstack/content/0000",
            "meta-data",
            "user-data",
        } <= found
        assert "openstack/latest/network_data.json" not in found


def test_meta_data_tells_who_the_guest_is(made: Made) -> None:
    drive = ConfigDrive(hostname="web.example.org", metadata={"role": "front"}, public_keys={"me": "ssh-ed25519 AAAA"})
    password = "pass word"  # noqa: S105 - of nobody
    iso = made(drive, admin_password=password, files=(InjectedFile(path="/etc/motd", content=b"hello\n"),))
    told = json.loads(read(iso, "openstack/latest/meta_data.json"))
    assert (told["hostname"], told["name"], told["meta"]) == ("web.example.org", "web1", {"role": "front"})
    assert told["uuid"] == InstanceSpec(id="web1", image="x").uuid
    assert told["admin_pass"] == password
    assert told["public_keys"] == {"me": "ssh-ed25519 AAAA"}
    [file] = told["files"]
    assert file["path"] == "/etc/motd"
    assert read(iso, f"openstack{file['content_path']}") == b"hello\n"


def test_nocloud_files_are_there_too(made: Made) -> None:
    drive = ConfigDrive(
        public_keys={"me": "ssh-ed25519 AAAA"},
        user_data=b"#!/bin/sh\necho \xff\n",
        network_config={"version": 2},
        vendor_data={"timezone": "UTC"},
    )
    iso = made(drive)
    told = yaml.safe_load(read(iso, "meta-data"))
    assert told["local-hostname"] == "web1"
    assert told["public-keys"] == ["ssh-ed25519 AAAA"]
    assert told["instance-id"] == InstanceSpec(id="web1", image="x").uuid
    assert read(iso, "user-data") == read(iso, "openstack/latest/user_data") == b"#!/bin/sh\necho \xff\n"
    assert yaml.safe_load(read(iso, "network-config")) == {"version": 2}
    assert read(iso, "vendor-data").startswith(b"#cloud-config\n")


def test_metadata_cannot_say_who_the_guest_is(made: Made) -> None:
    iso = made(ConfigDrive(metadata={"instance-id": "another", "local-hostname": "another", "role": "front"}))
    told = yaml.safe_load(read(iso, "meta-data"))
    assert (told["instance-id"], told["local-hostname"]) == (InstanceSpec(id="web1", image="x").uuid, "web1")
    assert told["role"] == "front"


def test_what_json_cannot_say_is_refused(made: Made) -> None:
    """As YAML reads a date that is not in quotes."""
    with pytest.raises(ConfigError, match="date is not JSON serializable"):
        made(ConfigDrive(vendor_data={"since": datetime.date(2024, 1, 1)}))


@pytest.mark.parametrize("told", ["config-2", "cidata"])
def test_label_is_what_guests_look_for(made: Made, told: Any) -> None:
    assert label(made(ConfigDrive(label=told))) == told


def test_network_data_is_kept_as_it_is(made: Made) -> None:
    network = {"links": [{"id": "eth0"}], "networks": [], "services": []}
    assert json.loads(read(made(ConfigDrive(network_data=network)), "openstack/latest/network_data.json")) == network


def test_many_and_large_files_are_whole(made: Made) -> None:
    files = tuple(InjectedFile(path=f"/srv/{number}", content=bytes([number]) * 70_000) for number in range(40))
    iso = made(ConfigDrive(), files=files)
    for number, file in enumerate(files):
        assert read(iso, f"openstack/content/{number:04}") == file.content
