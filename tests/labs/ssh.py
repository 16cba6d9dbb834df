"""Another host that is reached by ssh: an sshd that ``ssh-lab.sh`` in this folder has, and keys for it."""

import os
import pwd
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from labs.require import installed

_SCRIPT: Final = Path(__file__).with_name("ssh-lab.sh")
_TIMEOUT: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """A host that ssh calls ``there``, and that is this one."""

    config: Path
    """For ``ssh -F``."""
    known_hosts: Path
    """Without it, the host is a stranger."""


@pytest.fixture
def ssh_host(tmp_path: Path) -> Ssh:
    """With keys of its own; each connection has a server of its own, which needs no port."""
    installed("ssh", _SCRIPT, _TIMEOUT)
    folder = tmp_path / "ssh"
    folder.mkdir()
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True, timeout=60, stdin=subprocess.DEVNULL)
    found = Ssh(config=folder / "ssh_config", known_hosts=folder / "known_hosts")
    found.known_hosts.write_text(f"there {(folder / 'host.pub').read_text()}")
    server = folder / "sshd_config"
    server.write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\nLogLevel ERROR\n"
    )
    found.config.write_text(
        f"Host there\nHostName 127.0.0.1\nHostKeyAlias there\nIdentityFile {folder}/user\nIdentitiesOnly yes\n"
        f"User {pwd.getpwuid(os.geteuid()).pw_name}\nUserKnownHostsFile {found.known_hosts}\n"
        f"GlobalKnownHostsFile /dev/null\nProxyCommand {shlex.quote(str(_SCRIPT))} serve {shlex.quote(str(server))}\n"
    )
    return found
