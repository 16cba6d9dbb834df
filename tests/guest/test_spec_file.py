"""A spec as a file: what it may say, and what is said of what it may not."""

import json
from pathlib import Path

import pytest

from imgbackend.errors import ConfigError
from imgbackend.guest import spec_file
from imgbackend.guest.spec import ConfigDrive, Ephemeral, Hardware, InjectedFile, InstanceSpec, IoLimits, Nic, Volume
from imgbackend.types import BlockSource, FileSource, Gi, Mi, NetworkSource

WHOLE = """
id: web1
image: glance:jammy
memory: 2G
vcpus: 2
root_size: 20 GiB
local: {size: 1G}
ephemerals:
  - {size: 10G, format: ext4}
  - size: 1073741824
swap: 512M
config_drive:
  hostname: web
  metadata: {role: front}
  public_keys: {me: ssh-ed25519 AAAA}
  user_data: {file: cloud.cfg}
  network_data: {links: [], networks: []}
files:
  - {path: /etc/motd, content: "hello\\n"}
admin_password: "0000"
nics: [{kind: bridge, name: br0}, {kind: user, mac: "52:54:00:00:00:01"}]
boot_order: [disk]
io_limits: {total_bytes_sec: 100M, total_iops_sec: 500}
hardware: {machine: q35, firmware: uefi, rng: false}
volumes:
  - {source: {file: /srv/data.qcow2, format: qcow2}, serial: data}
  - {source: {block: /dev/vg/data}, bus: scsi}
  - {source: {rbd: vms/data, user: me, secret_uuid: 0-1}}
images_type: qcow2
"""


def test_yaml_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "cloud.cfg").write_bytes(b"#cloud-config\n\xff")
    path = tmp_path / "web1.yaml"
    path.write_text(WHOLE)
    assert spec_file.read(path) == InstanceSpec(
        id="web1",
        image="glance:jammy",
        memory=2 * Gi,
        vcpus=2,
        root_size=20 * Gi,
        local=Ephemeral(size=Gi),
        ephemerals=(Ephemeral(size=10 * Gi, format="ext4"), Ephemeral(size=Gi)),
        swap=512 * Mi,
        config_drive=ConfigDrive(
            hostname="web",
            metadata={"role": "front"},
            public_keys={"me": "ssh-ed25519 AAAA"},
            user_data=b"#cloud-config\n\xff",
            network_data={"links": [], "networks": []},
        ),
        files=(InjectedFile(path="/etc/motd", content=b"hello\n"),),
        admin_password="0000",  # noqa: S106 - of nobody
        nics=(Nic(kind="bridge", name="br0"), Nic(kind="user", mac="52:54:00:00:00:01")),
        boot_order=("disk",),
        io_limits=IoLimits(total_bytes_sec=100 * Mi, total_iops_sec=500),
        hardware=Hardware(machine="q35", firmware="uefi", rng=False),
        volumes=(
            Volume(source=FileSource(path=Path("/srv/data.qcow2"), format="qcow2"), serial="data"),
            Volume(source=BlockSource(path=Path("/dev/vg/data")), bus="scsi"),
            Volume(source=NetworkSource(protocol="rbd", name="vms/data", user="me", secret_uuid="0-1")),  # noqa: S106 - a name
        ),
        images_type="qcow2",
    )


def test_json_file_is_read_and_overridden(tmp_path: Path) -> None:
    path = tmp_path / "web1.json"
    path.write_text(json.dumps({"id": "web1", "image": "jammy", "swap": "1G"}))
    assert spec_file.read(path, {"id": "web2", "memory": "1G"}) == InstanceSpec(
        id="web2", image="jammy", swap=Gi, memory=Gi
    )


def test_part_that_is_overridden_keeps_the_rest_of_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "web1.yaml"
    path.write_text("id: web1\nimage: x\nconfig_drive: {hostname: web, label: cidata}\nlocal: {size: 1G}\n")
    (tmp_path / "cloud.cfg").write_bytes(b"#cloud-config\n")
    told = {"config_drive": {"user_data": {"file": "cloud.cfg"}}, "local": None}
    assert spec_file.read(path, told) == InstanceSpec(
        id="web1",
        image="x",
        config_drive=ConfigDrive(hostname="web", label="cidata", user_data=b"#cloud-config\n"),
    )
    assert spec_file.read(path, {"config_drive": {}}).hostname == "web"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id: web1\nimage: x\nrot_size: 1G\n", "there is no rot_size; there are id, image"),
        ("id: web1\nimage: x\nephemerals: [{sise: 1G}]\n", r"ephemerals\[0\]: there is no sise"),
        ("id: web1\nimage: x\nephemerals: [{format: ext4}]\n", r"ephemerals\[0\]: size is missing"),
        ("id: web1\nimage: x\nephemerals: 10G\n", "ephemerals: a list is wanted"),
        ("id: web1\nimage: x\nmemory: lots\n", "memory: not a size"),
        ("id: web1\nimage: x\nvcpus: two\n", "vcpus: a whole number"),
        ("id: 7\nimage: x\n", "id: text is wanted here, not 7"),
        ("image: x\n", "id is missing"),
        ("id: web1\nimage: x\nhardware: {rng: maybe}\n", "hardware.rng: true or false"),
        ("id: web1\nimage: x\nhardware: {firmware: coreboot}\n", "firmware 'coreboot'"),
        ("id: web1\nimage: x\nconfig_drive: {user_data: {file: gone}}\n", "config_drive.user_data: cannot read"),
        ("id: web1\nimage: x\nvolumes: [{source: {file: /a}}]\n", "format is missing; it is never guessed"),
        ("id: web1\nimage: x\nvolumes: [{source: {nfs: /a}}]\n", "give file and format, block, or rbd"),
        ("- id: web1\n", "names with values are wanted here, not a list"),
        ("id: [\n", "is no YAML"),
        ("id: !!python/object/apply:os.system [true]\n", "is no YAML"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "web1.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        spec_file.read(path)


def test_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*gone"):
        spec_file.read(tmp_path / "gone.yaml")


def test_file_that_is_no_spec_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "disk.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="is larger than"):
        spec_file.read(path)
