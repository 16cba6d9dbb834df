"""Fresh file systems and swap areas: made by the real tools, each base for one content."""

import shutil
import subprocess
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.guest import fresh_disks
from imgbackend.state import folder_marker
from imgbackend.types import Mi
from labs.engines import MakeEngine


def seen(path: Path) -> tuple[str, str]:
    """Type and label, as blkid tells them."""
    blkid = shutil.which("blkid") or "/usr/sbin/blkid"
    done = subprocess.run([blkid, "-p", "-o", "export", path], capture_output=True, text=True, timeout=60, check=True)
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return told["TYPE"], told.get("LABEL", "")


@pytest.mark.parametrize(
    ("format", "os_type", "size", "wanted"),
    [
        (None, None, 16 * Mi, "ext4"),
        (None, "linux", 16 * Mi, "ext4"),
        (None, "freebsd", 16 * Mi, "vfat"),
        ("ext2", "windows", 16 * Mi, "ext2"),
        ("ext3", None, 16 * Mi, "ext3"),
        ("xfs", None, 320 * Mi, "xfs"),
        ("btrfs", None, 128 * Mi, "btrfs"),
    ],
)
def test_file_system_is_the_one_that_was_asked_for(
    engine: Engine, format: str | None, os_type: str | None, size: int, wanted: str
) -> None:
    template = fresh_disks.ephemeral(engine.host, size, 3, format, os_type=os_type, commands={})
    tool = f"mkfs.{wanted}"
    if shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        pytest.skip(f"{tool} is not installed")
    disk = engine.disk("web1", "disk.eph3", "raw")
    disk.cache(template, template.filename, size)
    path = engine.host.path(disk.id)
    assert seen(path) == (wanted, "ephemeral3")
    assert path.stat().st_size == size


def test_swap_area_has_a_label(engine: Engine) -> None:
    template = fresh_disks.swap(engine.host, 16 * Mi)
    disk = engine.disk("web1", "disk.swap", "raw")
    disk.cache(template, template.filename, 16 * Mi)
    assert seen(engine.host.path(disk.id)) == ("swap", "swap")


def test_further_disk_is_made_from_the_base(make_engine: MakeEngine) -> None:
    engine = make_engine({"images_type": "qcow2"})
    for instance, fetched in (("web1", True), ("web2", False)):
        template = fresh_disks.swap(engine.host, 16 * Mi)
        disk = engine.disk(instance, "disk.swap")
        assert disk.cache(template, template.filename, 16 * Mi).fetched is fetched
        assert disk.info().size == 16 * Mi


def test_whatever_differs_has_a_base_of_its_own(engine: Engine) -> None:
    def name(size: int = Mi, number: int = 0, filesystem: str | None = None, command: str = "") -> str:
        commands = {"default": command} if command else {}
        return fresh_disks.ephemeral(engine.host, size, number, filesystem, os_type=None, commands=commands).filename

    mine = "mkfs.ext4 -L %(fs_label)s %(target)s"
    names = [name(), name(size=2 * Mi), name(number=1), name(filesystem="vfat"), name(command=mine)]
    names += [name(command=f"{mine} 100"), fresh_disks.swap(engine.host, Mi).filename]
    assert len(set(names)) == len(names)
    assert name() == name()


def test_operators_own_command_is_run_without_a_shell(engine: Engine, tmp_path: Path) -> None:
    commands = fresh_disks.mkfs_commands(["linux = mkfs.ext4 -q -F -L '%(fs_label)s;x' -- %(target)s"])
    template = fresh_disks.ephemeral(engine.host, 16 * Mi, 0, None, os_type="linux", commands=commands)
    target = tmp_path / "a target; with $(words)"
    template(target, lambda *_: None)
    assert seen(target) == ("ext4", "ephemeral0;x")


@pytest.mark.parametrize("told", ["mkfs.ext4 %(target)s", "linux=mkfs.ext4", "=mkfs.ext4 %(target)s"])
def test_entry_of_another_form_is_refused(told: str) -> None:
    with pytest.raises(errors.ConfigError, match="virt_mkfs"):
        fresh_disks.mkfs_commands([told])


def test_missing_tool_is_named(engine: Engine) -> None:
    commands = {"default": "mkfs.not-there %(target)s"}
    template = fresh_disks.ephemeral(engine.host, 16 * Mi, 0, None, os_type=None, commands=commands)
    with pytest.raises(errors.ConfigError, match=r"mkfs\.not-there is not installed"):
        engine.disk("web1", "disk.eph0").cache(template, template.filename, 16 * Mi)


def test_unknown_file_system_is_refused(engine: Engine) -> None:
    with pytest.raises(errors.ConfigError, match="there is no way to make zfs here; there are ext2"):
        fresh_disks.ephemeral(engine.host, Mi, 0, "zfs", os_type=None, commands={})


def test_size_that_is_too_small_leaves_nothing(engine: Engine, instances: Path) -> None:
    template = fresh_disks.ephemeral(engine.host, 4096, 0, "ext4", os_type=None, commands={})
    with pytest.raises(errors.CommandFailed, match=r"mkfs\.ext4 .*4096 bytes may be too few"):
        engine.disk("web1", "disk.eph0").cache(template, template.filename, 4096)
    assert not engine.disk("web1", "disk.eph0").exists()
    assert [
        path
        for path in instances.rglob("*")
        if path.is_file() and "locks" not in path.parts and path.name != folder_marker.NAME
    ] == []


def test_tool_that_tells_how_it_is_used_is_quoted_without_that(engine: Engine, tmp_path: Path) -> None:
    """As mkfs.xfs does where the size is too small: its reason would be cut off."""
    tool = tmp_path / "mkfs.wordy"
    tool.write_text("#!/bin/sh\necho 'it is too small' >&2\necho 'Usage: mkfs.wordy' >&2\nseq 1000 >&2\nexit 1\n")
    tool.chmod(0o755)
    commands = {"default": f"{tool} %(target)s"}
    template = fresh_disks.ephemeral(engine.host, Mi, 0, None, os_type=None, commands=commands)
    with pytest.raises(errors.CommandFailed, match="it is too small; ") as caught:
        template(tmp_path / "target", lambda *_: None)
    assert "Usage" not in str(caught.value)
