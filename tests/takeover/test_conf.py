"""A real nova.conf is understood as it is; and the options of imgbackend's own."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Gi, Mi
from labs.images import sparse_raw
from labs.nova import Nova
from takeover.conftest import Host, MakeEngine

_SETTINGS: dict[str, dict[str, str]] = {
    "DEFAULT": {
        "state_path": "{root}",
        "instances_path": "$state_path/instances",
        "my_ip": "192.0.2.7",
        "use_cow_images": "false",
        "force_raw_images": "false",
        "preallocate_images": "space",
        "default_ephemeral_format": "ext4",
        "virt_mkfs": "windows=mkfs.ntfs --force %(target)s",
        "compute_driver": "libvirt.LibvirtDriver",
        "remove_unused_base_images": "false",
        "transport_url": "rabbit://openstack:p$$ss@192.0.2.1:5672//",
    },
    "libvirt": {
        "images_type": "flat",
        "images_cpu_time_limit": "45",
        "images_address_space_limit": "3",
        "virt_type": "kvm",
        "remove_unused_resized_minimum_age_seconds": "1800",
        "images_volume_group": "cinder-volumes",
    },
    "image_cache": {
        "subdirectory_name": "_base_$my_ip",
        "remove_unused_original_minimum_age_seconds": "7200",
    },
    "glance": {"num_retries": "7", "valid_interfaces": "internal", "timeout": "12", "region_name": "RegionOne"},
    "compute": {"vmdk_allowed_types": "streamOptimized"},
    "oslo_messaging_notifications": {"driver": "messagingv2"},
    "quota": {"driver": "nova.quota.DbQuotaDriver"},
    "key_manager": {"backend": "barbican"},
    "placement": {"auth_type": "password", "auth_url": "http://192.0.2.1:5000/v3"},
}

_SAME = [
    ("DEFAULT", "instances_path"),
    ("DEFAULT", "my_ip"),
    ("DEFAULT", "use_cow_images"),
    ("DEFAULT", "force_raw_images"),
    ("DEFAULT", "preallocate_images"),
    ("libvirt", "images_type"),
    ("libvirt", "images_cpu_time_limit"),
    ("libvirt", "images_address_space_limit"),
    ("image_cache", "subdirectory_name"),
    ("image_cache", "remove_unused_base_images"),
    ("image_cache", "remove_unused_original_minimum_age_seconds"),
    ("image_cache", "remove_unused_resized_minimum_age_seconds"),
    ("glance", "num_retries"),
    ("glance", "valid_interfaces"),
    ("glance", "region_name"),
    ("compute", "vmdk_allowed_types"),
]
"""Nova's options that imgbackend has too."""

_OURS = {
    ("libvirt", "images_type"): ("DEFAULT", "images_type"),
    ("libvirt", "images_cpu_time_limit"): ("DEFAULT", "qemu_img_cpu_seconds"),
    ("libvirt", "images_address_space_limit"): ("DEFAULT", "qemu_img_address_space"),
    ("glance", "num_retries"): ("sources", "num_retries"),
    ("compute", "vmdk_allowed_types"): ("DEFAULT", "vmdk_allowed_types"),
}
"""Where they are not under their own name."""


def _written(sample: Path, target: Path, settings: dict[str, dict[str, str]], **words: str) -> Path:
    """Nova's sample with all defaults written out, as many tools for deployment do, and some settings."""
    lines, section = [], ""
    for line in sample.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            lines += [line, *(f"{key} = {value.format(**words)}" for key, value in settings.get(section, {}).items())]
        elif (match := re.match(r"#([a-z][a-z0-9_]*) = (?!<)(.*)", line)) and match[1] not in settings.get(section, {}):
            lines.append(f"{match[1]} = {match[2]}")
        else:
            lines.append(line)
    for name in settings.keys() - {line.strip("[]") for line in lines if line.startswith("[")}:
        lines += [f"[{name}]", *(f"{key} = {value.format(**words)}" for key, value in settings[name].items())]
    target.write_text("\n".join(lines) + "\n")
    return target


def _read(engine: Engine, group: str, name: str) -> Any:
    group, name = _OURS.get((group, name), (group, name))
    return getattr(engine.conf if group == "DEFAULT" else engine.conf[group], name)


@pytest.fixture
def nova_conf(nova: Nova, tmp_path: Path) -> Path:
    return _written(nova.sample, tmp_path / "nova.conf", _SETTINGS, root=str(tmp_path))


def test_each_option_reads_as_in_nova(nova: Nova, nova_conf: Path) -> None:
    with Engine.from_config([nova_conf]) as engine:
        engine.source("glance")
        ours = [_read(engine, group, name) for group, name in _SAME]
        assert ours == nova.do("options", file=str(nova_conf), names=_SAME)
        assert engine.host.instances == nova_conf.parent / "instances"
        assert engine.host.bases.name == "_base_192.0.2.7"
        assert engine.conf.sources.num_retries == 7
        assert engine.conf.glance.timeout == 12


def test_each_default_is_nova_s(nova: Nova, tmp_path: Path) -> None:
    (tmp_path / "empty.conf").write_text("[DEFAULT]\n")
    file = str(tmp_path / "empty.conf")
    names = [name for name in _SAME if name[1] != "instances_path"]  # where Nova is installed
    with Engine.from_config([file]) as engine:
        engine.source("glance")
        assert [_read(engine, group, name) for group, name in names] == nova.do("options", file=file, names=names)


def test_defaults_written_out_change_nothing(nova: Nova, tmp_path: Path) -> None:
    here = {"DEFAULT": {"state_path": str(tmp_path)}}  # Nova's own refers to where Nova is installed
    plain = _written(nova.sample, tmp_path / "nova.conf", here)
    with Engine.from_config([plain]) as engine, Engine.from_config([]) as other:
        for group, name in _SAME[2:]:
            engine.source("glance"), other.source("glance")
            assert _read(engine, group, name) == _read(other, group, name)
        assert engine.backend_names() == other.backend_names()


def test_foreign_drivers_make_no_backends(nova_conf: Path) -> None:
    with Engine.from_config([nova_conf]) as engine, Engine.from_config([]) as plain:
        assert engine.backend_names() == plain.backend_names()
        assert engine.backend().name == "raw"
        with pytest.raises(errors.ConfigError, match="driver messagingv2"):
            engine.backend("oslo_messaging_notifications")


def test_folder_and_file_of_nova_by_the_command(host: Host, nova: Nova, tmp_path: Path) -> None:
    settings = {**_SETTINGS, "image_cache": {"subdirectory_name": "_base"}, "libvirt": {"images_type": "qcow2"}}
    file = _written(nova.sample, tmp_path / "nova.conf", settings, root=str(host.instances.parent))
    listed = _command("disk", "list", "--config-file", str(file), "-f", "value", "-c", "instance", "-c", "name")
    assert {line.replace(" ", "/") for line in listed.splitlines()} == set(host.disks)
    instance, _, _ = next(iter(host.disks)).partition("/")
    assert "qcow2" in _command("disk", "show", instance, "--config-file", str(file), "-f", "json")


def _command(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "imgbackend.cli", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Sections of one's own


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return sparse_raw(tmp_path / "image.raw", Mi, data={0: b"begin"})


def _engine(tmp_path: Path, text: str, **overrides: object) -> Engine:
    (tmp_path / "imgbackend.conf").write_text(text)
    told = {"instances_path": str(tmp_path / "instances"), **overrides}
    return Engine.from_config([tmp_path / "imgbackend.conf"], told)


def test_two_sections_may_have_one_driver(image: Path, tmp_path: Path) -> None:
    text = "[DEFAULT]\nimages_type = fast\n[fast]\ndriver = raw\n[slow]\ndriver = raw\n[thin]\ndriver = qcow2\n"
    with _engine(tmp_path, text) as engine:
        assert {"fast", "slow", "thin", "raw", "qcow2"} <= set(engine.backend_names())
        found = engine.image(str(image))
        engine.disk("web1").cache(found, found.filename)
        engine.disk("web2", images_type="slow").cache(found, found.filename)
        engine.disk("web3", images_type="thin").cache(found, found.filename)
        told = {str(disk.id): (disk.backend.name, disk.backend.driver) for disk in engine.disks()}
        assert told == {"web1/disk": ("fast", "raw"), "web2/disk": ("slow", "raw"), "web3/disk": ("thin", "qcow2")}
        with pytest.raises(errors.DiskError, match=r"fast .* slow"):
            engine.disk("web1", images_type="slow")
        assert [str(disk) for disk in engine.backend("slow").list_disks()] == ["web2/disk"]


def test_section_by_overrides_alone(image: Path, tmp_path: Path) -> None:
    with _engine(tmp_path, "", images_type="fast", **{"fast.driver": "raw"}) as engine:
        assert "fast" in engine.backend_names()
        found = engine.image(str(image))
        engine.disk("web1").cache(found, found.filename)
        [disk] = engine.disks()
        assert (disk.backend.name, disk.backend.driver) == ("fast", "raw")


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    with _engine(tmp_path, "[DEFAULT]\nimages_type = raw\n[image_cache]\nsubdirectory_name = a\n") as engine:
        assert (engine.backend().name, engine.host.bases.name) == ("raw", "a")
    overrides = {"image_cache.subdirectory_name": "b"}
    with _engine(tmp_path, "[image_cache]\nsubdirectory_name = a\n", images_type="qcow2", **overrides) as engine:
        assert (engine.backend().name, engine.host.bases.name) == ("qcow2", "b")


@pytest.mark.parametrize("name", ["DEFAULT", "libvirt", "glance", "image_cache", "sources", "compute"])
def test_own_section_is_no_backend(name: str, tmp_path: Path) -> None:
    with _engine(tmp_path, "") as engine, pytest.raises(errors.ConfigError, match="not a backend"):
        engine.backend(name)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("no_such_option", "1"),
        ("image_cache.no_such_option", "1"),
        ("max_image_virtual_size", "a lot"),
        ("max_image_virtual_size", "-1"),
        ("qemu_img_cpu_seconds", "0"),
        ("preallocate_images", "metadata"),
        ("force_raw_images", "perhaps"),
    ],
)
def test_bad_option_is_one_line(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=key.rpartition(".")[2]) as caught:
        _engine(tmp_path, "", **{key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["no section", "[DEFAULT]\nqemu_img_cpu_seconds = many\n", "[DEFAULT]\nx\n", "[a\n"])
def test_broken_file_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        _engine(tmp_path, text).backend()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[DEFAULT]\nstate_path = $pybasedir\n", "pybasedir"),
        ("[DEFAULT]\nimages_type = $nowhere\n", r"images_type.*nowhere"),
        ("[sources]\nnum_retries = often\n", "num_retries.*often"),
        ("[image_cache]\nsubdirectory_name = _base_$nowhere\n", r"subdirectory_name.*nowhere"),
    ],
)
def test_value_that_cannot_be_read_names_its_option(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "imgbackend.conf").write_text(text)
    with pytest.raises(errors.ConfigError, match=told):
        Engine.from_config([tmp_path / "imgbackend.conf"])


def test_value_of_a_source_that_cannot_be_read_names_its_option(tmp_path: Path) -> None:
    text = "[glance]\ntimeout = long\n"
    with _engine(tmp_path, text) as engine, pytest.raises(errors.ConfigError, match="timeout"):
        engine.image("glance:x")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="nowhere"):
        Engine.from_config([tmp_path / "nowhere.conf"])


def test_environment_sets_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_DEFAULT__MAX_IMAGE_VIRTUAL_SIZE", str(Gi))
    monkeypatch.setenv("OS_IMAGE_CACHE__SUBDIRECTORY_NAME", "of_the_environment")
    with _engine(tmp_path, "") as engine:
        assert engine.host.settings.max_virtual_size == Gi
        assert engine.host.bases.name == "of_the_environment"
    told = _command("backend", "list", "-f", "value", OS_DEFAULT__IMAGES_TYPE="raw", HOME=str(tmp_path))
    assert "raw" in told


def test_sample_is_whole_and_reads_back(tmp_path: Path) -> None:
    sample = tmp_path / "sample.conf"
    command = ["--namespace", "imgbackend", "--output-file", str(sample)]
    subprocess.run(
        [Path(sys.executable).with_name("oslo-config-generator"), *command],
        check=True,
        timeout=60,
        capture_output=True,
    )
    text = sample.read_text()
    for name in (
        "images_type",
        "instances_path",
        "max_unpack_ratio",
        "subdirectory_name",
        "folder_path",
        "endpoint_override",
    ):
        assert f"#{name} =" in text
    assert {"[DEFAULT]", "[glance]", "[image_cache]", "[qcow2]", "[raw]", "[sources]"} <= set(text.splitlines())
    assert str(Path.home()) not in text
    written = _written(sample, tmp_path / "all.conf", {"DEFAULT": {"state_path": str(tmp_path)}})
    with Engine.from_config([written]) as engine, Engine.from_config([]) as plain:
        assert engine.backend_names() == plain.backend_names()
        assert engine.backend().name == "qcow2"
        assert engine.host.instances == tmp_path / "instances"
        assert engine.host.settings.max_virtual_size == plain.host.settings.max_virtual_size


def test_engine_of_nova_s_folder_needs_no_file(host: Host, make_engine: MakeEngine) -> None:
    assert len(list(make_engine().disks())) == len(host.disks)
