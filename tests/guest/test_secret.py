"""The administrator's password is on the config drive, and nowhere else: not while it is made, not after a kill."""

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.harness import Cli
from imgbackend import Engine
from imgbackend.guest.config_drive import ConfigDriveImage
from imgbackend.guest.file_import import import_file
from imgbackend.guest.spec import ConfigDrive, InstanceSpec
from imgbackend.testing import children
from imgbackend.types import ignore
from labs.ceph import Cluster
from labs.libvirt import Guests, Libvirt
from labs.require import FULL

_PASSWORD = "correct horse battery"  # noqa: S105 - of nobody
_SECONDS = 120


@pytest.fixture
def cli(guests: Guests) -> Cli:
    """The command, on the instances of ``guests``."""
    root = guests.instances_path.parent
    made = Cli(root, root / "cache")
    made.env = {
        "OS_LIBVIRT__CONNECTION_URI": guests.lab.uri,
        "OS_LIBVIRT__VIRT_TYPE": "qemu",
        "OS_SOURCES__FOLDER_PATH": str(guests.image.parent),
    }
    (root / "password").write_text(_PASSWORD + "\n")
    (root / "password").chmod(0o600)
    return made


def _words(guests: Guests, cli: Cli, *more: str) -> list[str]:
    """A spawn with a password, that says all it can say."""
    told = ["--image", guests.image.name, "--config-drive", "--password-file", str(cli.root / "password")]
    return ["-vv", "--debug", "instance", "spawn", guests.name(), "--memory", "64M", *told, *more]


def _lines() -> str:
    """The command lines of all processes."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended
    return "\n".join(found)


def _holders(folder: Path, secret: str = _PASSWORD) -> set[Path]:
    """Files that have a secret in them."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {path for path in files if secret.encode() in path.read_bytes()}


def test_password_is_told_to_nobody_but_the_guest(guests: Guests, cli: Cli, libvirt_daemon: Libvirt) -> None:
    lines = []
    with cli.start(*_words(guests, cli)) as command:
        end = time.monotonic() + _SECONDS
        while command.poll() is None:
            lines.append(_lines())
            assert time.monotonic() < end
            time.sleep(0.01)
        assert command.stdout is not None
        assert command.stderr is not None
        out, err = command.stdout.read(), command.stderr.read()
    lines.append(_lines())
    assert command.returncode == 0, err
    assert any(guests.name() in each for each in lines), "the command and its guest were seen"
    assert not [each for each in lines if _PASSWORD in each]
    assert "spawned successfully" in err, "it logs"
    drive = guests.instances_path / guests.name() / "disk.config"
    assert _holders(cli.root) == {drive, cli.root / "password"}
    assert drive.stat().st_mode & 0o777 == 0o600
    assert _holders(libvirt_daemon.folder) == set()
    shown = cli("-vv", "instance", "show", guests.name(), "-f", "json")
    domain = libvirt_daemon.virsh("dumpxml", "--security-info", guests.name())
    assert guests.name() in domain
    assert not [text for text in (out, err, shown.out, shown.err, domain) if _PASSWORD in text]
    guests.instances().destroy(guests.name())


@pytest.mark.parametrize("more", [["--memory", "4194304T"], ["--nic", "bridge:nosuchbr"]], ids=["libvirt", "nic"])
def test_failed_spawn_tells_no_password_and_leaves_none(guests: Guests, cli: Cli, more: list[str]) -> None:
    done = cli(*_words(guests, cli, *more))
    assert done.status == 1
    assert "Traceback" in done.err, "--debug tells all that there is"
    assert _PASSWORD not in done.out + done.err
    assert _holders(cli.root) == {cli.root / "password"}


def test_spec_that_is_wrong_tells_no_password(guests: Guests, cli: Cli) -> None:
    """An unquoted number is no text, as the error says; the number may well be the password."""
    file = cli.root / "spec.yaml"
    file.write_text(f"image: {guests.image.name}\nadmin_password: 40571923\nconfig_drive: {{}}\n")
    file.chmod(0o600)
    done = cli("-vv", "instance", "spawn", guests.name(), "--spec", file)
    assert done.status == 1
    assert "admin_password" in done.err
    assert "40571923" not in done.out + done.err


def test_spec_shows_no_password() -> None:
    assert _PASSWORD not in repr(_spec("a"))


# Kills


def _spec(name: str) -> InstanceSpec:
    return InstanceSpec(id=name, image="x", config_drive=ConfigDrive(), admin_password=_PASSWORD)


def _make(options: dict[str, Any], name: str) -> None:
    """Make a config drive, as a spawn does."""
    with Engine.from_config([], options) as engine:
        spec = _spec(name)
        assert spec.config_drive is not None
        disk, template = engine.disk(name, "disk.config"), ConfigDriveImage(spec, spec.config_drive)
        if engine.backend(None).traits.shared:
            engine.host.make_folder(engine.host.instances / name)
            import_file(disk, template, ignore)
        else:
            disk.cache(template, "", None)


def _killed_throughout(options: dict[str, Any], folder: Path, *, libraries: tuple[str, ...], kept: set[str]) -> None:
    """Kill the making of a config drive at its steps; ``kept`` are the files that have the secret at the end."""
    make = functools.partial(_make, options)
    make("first")  # the marker of the folder, and a list in the pool, are made once
    count = len(children.seen(functools.partial(make, "whole"), libraries=libraries))
    assert count > 10
    for point in range(count - 1, -1, -1 if FULL else -(count // 8)):
        name = f"k{point}"
        killed = children.run(functools.partial(make, name), point, libraries=libraries)
        assert killed.killed or point > count * 0.9, (point, count, killed.error)
        assert {path.stat().st_mode & 0o777 for path in _holders(folder / name)} <= {0o600}
        assert not (folder / "_base").exists() or _holders(folder / "_base") == set()
        make(name)
        assert {path.name for path in _holders(folder / name)} == kept, f"killed before {killed.steps[-1:]}"


def test_killed_config_drive_is_nobody_elses_and_is_made_anew(instances: Path) -> None:
    options = {"instances_path": str(instances), "images_type": "raw"}
    _killed_throughout(options, instances, libraries=(), kept={"disk.config"})


@pytest.fixture
def rbd_options(rbd_cluster: Cluster, rbd_pool: str, instances: Path) -> Iterator[dict[str, Any]]:
    told = {"rbd.pool": rbd_pool, "rbd.user": rbd_cluster.user, "rbd.ceph_conf": str(rbd_cluster.conf)}
    told |= {"instances_path": str(instances), "images_type": "rbd"}
    yield told
    with Engine.from_config([], told) as engine:
        for disk in list(engine.disks()):
            disk.remove()


def test_killed_config_drive_in_a_pool_leaves_its_file_to_no_one(rbd_options: dict[str, Any], instances: Path) -> None:
    """The next call takes the file away; so does what ends the instance, whose folder it is in."""
    _killed_throughout(rbd_options, instances, libraries=("rbd", "rados"), kept=set())
