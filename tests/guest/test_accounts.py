"""Who needs which rights: guests that run as a user of their own, and imgbackend as an account that is not root.

Nothing here is of this machine but the users and groups that libvirt's packages make.
"""

import grp
import hashlib
import json
import os
import pwd
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from cli.harness import Cli, Done, assert_one_line
from imgbackend.state import folder_marker
from imgbackend.types import Mi
from labs import bootsector
from labs.libvirt import Guests, Libvirt
from labs.require import require

_ACCOUNT: Final = "daemon"
"""A user that every Debian has, and that owns nothing here."""
_QEMU: Final = "libvirt-qemu"
"""The user of guests on Debian, and their group; those who may use libvirt are in the group ``libvirt``."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that other users reach, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="imgbackend-accounts-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@dataclass
class Account:
    """imgbackend's command as one user, with some groups."""

    cli: Cli
    uid: int
    groups: tuple[str, ...]

    def __call__(self, *words: str | Path, groups: tuple[str, ...] | None = None) -> Done:
        return self.cli.run([*as_user(self.uid, self.groups if groups is None else groups), *self.cli.argv(*words)])


def as_user(uid: int, groups: tuple[str, ...]) -> list[str]:
    """What runs a command so."""
    numbers = [str(grp.getgrnam(name).gr_gid) for name in groups]
    more = f"--groups={','.join(numbers)}" if numbers else "--clear-groups"
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", more] if uid else []


@pytest.fixture
def lab(place: Path, libvirt_own_daemon: Callable[..., Libvirt]) -> Libvirt:
    """libvirt as Debian has it: guests run as a user of their own, and a group may use it."""
    try:
        pwd.getpwnam(_QEMU), grp.getgrnam(_QEMU)
    except KeyError:
        require("libvirt", f"this machine has no user {_QEMU}, as Debian has it")
    return libvirt_own_daemon(place, user=_QEMU, group="libvirt")


def _command(user: str, place: Path, lab: Libvirt) -> Account:
    """imgbackend as a user who has a folder of instances, and is in the groups that the documentation names."""
    uid = pwd.getpwnam(user).pw_uid
    cli = Cli(place / "home", place / "home/cache")
    for folder in (cli.root, cli.images, cli.instances):
        folder.mkdir(mode=0o711)
        os.chown(folder, uid, uid)
    bootsector.write_disk(cli.images / "boots.qcow2", 16 * Mi, format="qcow2")
    (cli.images / "boots.qcow2").chmod(0o644)
    cli.env = {
        "OS_DEFAULT__HYPERVISOR_GROUP": _QEMU,
        "OS_LIBVIRT__CONNECTION_URI": lab.uri,
        "OS_LIBVIRT__VIRT_TYPE": "qemu",
        "OS_IMAGE_CACHE__REMOVE_UNUSED_ORIGINAL_MINIMUM_AGE_SECONDS": "0",
        "OS_IMAGE_CACHE__LEASE_SECONDS": "0",
    }
    made = Account(cli, uid, (_QEMU, "libvirt") if uid else ())
    if subprocess.run([*as_user(uid, ()), *cli.argv("--version")], capture_output=True, timeout=60).returncode:
        require("libvirt", f"{user} cannot run the Python of this environment")
    return made


@pytest.fixture(params=["root", _ACCOUNT])
def anybody(request: pytest.FixtureRequest, place: Path, lab: Libvirt) -> Account:
    return _command(request.param, place, lab)


@pytest.fixture
def account(place: Path, lab: Libvirt) -> Account:
    """One that is not root."""
    return _command(_ACCOUNT, place, lab)


def _spawn(account: Account, lab: Libvirt, label: str, *more: str | Path) -> dict[str, Any]:
    """Spawn an instance and see that it boots from its own disk; how that was made."""
    words = ("instance", "spawn", f"vm-{label}", "--image", "boots.qcow2", "--root-size", "64M", "--memory", "64M")
    made = account(*words, *more, "-f", "json").json()
    guests = Guests(lab=lab, instances_path=account.cli.instances, image=Path(), word="vm")
    assert guests.sectors(label) == 64 * Mi // 512
    disk: dict[str, Any] = made["disks"][0]
    return disk


def _shown(path: Path) -> tuple[str, str, int]:
    """Owner, group and mode."""
    found = path.stat()
    return pwd.getpwuid(found.st_uid).pw_name, grp.getgrgid(found.st_gid).gr_name, found.st_mode & 0o7777


def _allowed(user: str, groups: tuple[str, ...], *command: str | Path) -> bool:
    """Whether a command succeeds as a user."""
    line = [*as_user(pwd.getpwnam(user).pw_uid, groups), *command]
    return subprocess.run(line, capture_output=True, timeout=60, check=False).returncode == 0


def test_base_that_libvirt_gave_to_guests_is_used_again_and_stays_as_it_is(anybody: Account, lab: Libvirt) -> None:
    first = _spawn(anybody, lab, "a")
    base = anybody.cli.instances / "_base" / first["base"]
    content = hashlib.sha256(base.read_bytes()).digest()
    assert _shown(base) == (_QEMU, _QEMU, 0o440)
    assert _allowed(_QEMU, (_QEMU,), "cat", base)
    assert not _allowed(_QEMU, (_QEMU,), "truncate", "--size=0", base)
    assert not _allowed(_QEMU, (_QEMU,), "rm", "-f", base)
    further = _spawn(anybody, lab, "b")
    assert (further["way"], further["base"], further["fetched"]) == ("overlay", first["base"], False)
    assert hashlib.sha256(base.read_bytes()).digest() == content
    for label in ("a", "b"):
        assert anybody("instance", "destroy", f"vm-{label}").status == 0
    assert anybody("cache", "prune").status == 0
    registered = {"compute_nodes", "imgbackend_hosts.json", folder_marker.NAME}
    assert set(anybody.cli.files()) <= registered


def test_account_does_everything_that_root_does(account: Account, lab: Libvirt) -> None:
    _spawn(account, lab, "a")
    disk = account.cli.instances / "vm-a/disk"
    assert _shown(disk) == (_QEMU, _QEMU, 0o640)
    for name in ("libvirt.xml", "console.log"):
        assert _shown(disk.with_name(name)) == (_ACCOUNT, _ACCOUNT, 0o640)
    assert account("disk", "show", "vm-a", "-f", "json").json()["size"] == 64 * Mi
    assert account("instance", "show", "vm-a", "-f", "json").json()["state"] == "running"
    assert "BOOT OK" in account("instance", "console", "vm-a").out
    assert account("instance", "stop", "vm-a", "--timeout", "0").status == 0
    assert _shown(disk) == (_ACCOUNT, _QEMU, 0o640), "libvirt remembers whose it was"
    assert account("disk", "resize", "vm-a", "128M").status == 0
    assert account("disk", "export", "vm-a", account.cli.root / "out.raw", "--disk-format", "raw").status == 0
    assert (account.cli.root / "out.raw").read_bytes()[510:512] == b"\x55\xaa"
    assert account("instance", "start", "vm-a").status == 0
    assert account("instance", "destroy", "vm-a").status == 0
    assert not (account.cli.instances / "vm-a").exists()


def test_console_that_was_full_is_the_accounts_own_again_after_a_start(account: Account, lab: Libvirt) -> None:
    """libvirt's daemon for logs begins another file after 2 MiB, which root alone reads."""
    _spawn(account, lab, "a")
    console = account.cli.instances / "vm-a/console.log"
    assert _shown(console) == (_ACCOUNT, _ACCOUNT, 0o640)
    assert account("instance", "stop", "vm-a", "--timeout", "0").status == 0
    console.write_bytes(b"x" * 2 * Mi)
    lab.virsh("start", "vm-a")
    guests = Guests(lab=lab, instances_path=account.cli.instances, image=Path(), word="vm")
    guests.until("BOOT OK")
    assert _shown(console) == ("root", "root", 0o600)
    assert_one_line(account("instance", "console", "vm-a"), 1, "console.log")
    assert account("instance", "stop", "vm-a", "--timeout", "0").status == 0
    assert account("instance", "start", "vm-a").status == 0
    guests.until("BOOT OK")
    assert _shown(console) == (_ACCOUNT, _ACCOUNT, 0o640)
    assert account("instance", "console", "vm-a").status == 0
    assert account("instance", "destroy", "vm-a").status == 0


def test_config_drive_is_for_the_guest_and_nobody_else(account: Account, lab: Libvirt) -> None:
    _spawn(account, lab, "a", "--config-drive")
    drive = account.cli.instances / "vm-a/disk.config"
    assert _shown(drive) == (_QEMU, _QEMU, 0o600)
    assert account("instance", "stop", "vm-a", "--timeout", "0").status == 0
    assert _shown(drive) == (_QEMU, _QEMU, 0o600), "libvirt gives back what guests write to"
    assert _allowed(_QEMU, (_QEMU,), "cat", drive)
    assert not _allowed("nobody", (_QEMU, "libvirt"), "cat", drive)
    assert account("instance", "destroy", "vm-a").status == 0


def test_account_that_may_not_use_libvirt_is_told_the_group(account: Account) -> None:
    done = account("--quiet", "instance", "spawn", "vm-a", "--image", "boots.qcow2", groups=(_QEMU,))
    assert_one_line(done, 1, "group libvirt")
    assert not (account.cli.instances / "vm-a").exists()


def test_account_that_is_not_in_the_hypervisors_group_is_told_so(account: Account) -> None:
    done = account("--quiet", "instance", "spawn", "vm-a", "--image", "boots.qcow2", groups=("libvirt",))
    assert_one_line(done, 1, "hypervisor_group", _QEMU)
    [found] = [
        each
        for each in json.loads(account("doctor", "-f", "json", groups=("libvirt",)).out)
        if each["check"] == "hypervisor_group"
    ]
    assert (found["verdict"], "not in it" in found["found"]) == ("error", True)
    assert not (account.cli.instances / "vm-a").exists()
