"""Which file systems other hosts may share, and what that means: old news, and a server that may know no root."""

import os
import tempfile
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import files

NEWS: Final = 60
"""Seconds after which a client looks anew at a folder that another host changed: NFS' acdirmax, if nobody set it."""
LEAST_LEASE: Final = 2 * NEWS
"""Seconds that a base has to be unused at least before a pass removes it: what hangs on it may be seen so late."""
_SHARED: Final = frozenset({"nfs", "nfs4", "ceph", "cifs", "smb3", "9p", "virtiofs", "fuse"})


def file_system(path: Path) -> str:
    """The type of the file system that ``path`` is on, or will be, as the kernel names it.

    Source: proc_pid_mountinfo(5); the mount whose device is the path's.
    """
    device = os.stat(files.nearest(path.absolute())).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "unknown"


def is_shared(kind: str) -> bool:
    """Whether hosts can share a file system of this type, each with caches of its own; ``fuse.ceph-fuse`` is one."""
    return kind.partition(".")[0] in _SHARED


def least_lease(path: Path) -> int:
    """Seconds that ``lease_seconds`` has to be at least, where bases are below ``path``."""
    return LEAST_LEASE if is_shared(file_system(path)) else 0


def expect_locks_shared(bases: Path) -> None:
    """See that hosts which share the folder of the bases share the one that it lies in too, where their locks are.

    :raises ConfigError: if the bases are mounted from a server alone: no lock would hold between its hosts.
    """
    beside = bases.parent
    try:
        alone = bases.stat().st_dev != beside.stat().st_dev
    except FileNotFoundError:
        return
    kind = file_system(bases)
    if alone and is_shared(kind) and not is_shared(file_system(beside)):
        raise errors.ConfigError(
            f"{bases} is mounted from a server by {kind}, and {beside} is this host's own: no lock of a base would "
            f"hold between hosts; mount the folder above it, such as at /shared, and make {bases} a link to "
            f"/shared/{bases.name}"
        )


def user_of_new_files(folder: Path) -> int:
    """The user that a file belongs to which this process makes; another than its own where a server squashes root.

    The file has no name, or loses it at once.

    :raises OSError: if none can be made.
    """
    with tempfile.TemporaryFile(dir=folder, prefix=".doctor-") as file:
        return os.fstat(file.fileno()).st_uid
