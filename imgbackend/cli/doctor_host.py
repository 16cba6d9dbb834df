"""The doctor's look at the machine: commands, and the users and groups that are named."""

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from imgbackend.cli.findings import TOOL_SECONDS
from imgbackend.system.runner import PACKAGES
from imgbackend.types import Finding

if TYPE_CHECKING:
    from oslo_config import cfg

_TOOLS: Final = ("qemu-img", "prlimit", "setpriv")


def tools() -> Iterator[Finding]:
    """The commands that the engine starts."""
    for name in _TOOLS:
        path = shutil.which(name)
        if path is None:
            yield Finding(name, "error", "not installed", f"install the package {PACKAGES[name]}")
            continue
        try:
            done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=TOOL_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as exc:
            yield Finding(name, "error", f"{path} cannot be run: {exc}", f"reinstall the package {PACKAGES[name]}")
            continue
        if done.returncode:
            said = " ".join(done.stderr.split())
            yield Finding(name, "error", f"{path} fails: {said}", f"reinstall the package {PACKAGES[name]}")
        else:
            yield Finding(name, "ok", f"{path}: {done.stdout.splitlines()[0]}")


def identities(conf: "cfg.ConfigOpts") -> Iterator[Finding]:
    """The user that foreign images are read as, and the group that disks are given to."""
    yield _user(conf.unprivileged_user)
    if conf.hypervisor_group is not None:
        yield _group(conf.hypervisor_group)


def _user(name: str) -> Finding:
    check = "unprivileged_user"
    if os.geteuid() != 0:
        return Finding(check, "ok", f"not needed: this process is not root but uid {os.geteuid()}")
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return Finding(check, "error", f"there is no user {name}", "create it, or name another one")
    if uid == 0:
        return Finding(check, "error", f"{name} is root", "name a user without privileges, such as nobody")
    return Finding(check, "ok", f"{name}, uid {uid}")


def _group(name: str) -> Finding:
    check = "hypervisor_group"
    try:
        gid = grp.getgrnam(name).gr_gid
    except KeyError:
        return Finding(check, "error", f"there is no group {name}", "create it, or name the group that qemu runs in")
    if os.geteuid() != 0 and gid not in {os.getegid(), *os.getgroups()}:
        advice = f"add this user to the group {name}: files cannot be given to it otherwise"
        return Finding(check, "error", f"{name}, gid {gid}, and this user is not in it", advice)
    return Finding(check, "ok", f"{name}, gid {gid}")
