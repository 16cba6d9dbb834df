"""The doctor's look at an ``instances_path`` that other hosts may share."""

import os
from collections.abc import Iterator
from pathlib import Path

from imgbackend import errors
from imgbackend.system import shared_storage
from imgbackend.types import Finding


def shared_storage_findings(instances: Path, bases: Path, *, lease: float) -> Iterator[Finding]:
    """What matters only on a file system of a server; of a local one nothing is said."""
    try:
        shared_storage.expect_locks_shared(bases.resolve())
    except errors.ConfigError as exc:
        yield Finding(
            "locks of bases", "error", str(exc), "until then no disk is made from a base, and none is removed"
        )
    kinds = [shared_storage.file_system(folder) for folder in (instances, bases)]
    shared = [kind for kind in kinds if shared_storage.is_shared(kind)]
    if not shared:
        return
    yield _lease(shared[0], lease, shared_storage.LEAST_LEASE)
    if shared_storage.is_shared(kinds[0]) and instances.is_dir() and os.access(instances, os.W_OK | os.X_OK):
        yield from _owner(instances)


def _lease(kind: str, lease: float, least: int) -> Finding:
    check = "lease_seconds"
    if lease < least:
        found = f"{lease:g}, and on {kind} a host may see {shared_storage.NEWS} s late what another did"
        return Finding(check, "error", found, f"make it {least} or more: no pass is made so")
    return Finding(check, "ok", f"{lease:g}: long enough for hosts that share {kind}")


def _owner(instances: Path) -> Iterator[Finding]:
    """Whether a new file is this user's own: a server may take root for somebody else."""
    check, ours = "owner of new files", os.geteuid()
    try:
        owner = shared_storage.user_of_new_files(instances)
    except OSError as exc:
        yield Finding(check, "error", f"{instances}: {exc.strerror}", "see to the file system, and its export")
        return
    if owner == ours:
        yield Finding(check, "ok", f"this user, uid {ours}")
    else:
        found = f"uid {owner}, and this user is uid {ours}: the server takes it for another (root_squash)"
        advice = "export the folder with no_root_squash: disks cannot be given to hypervisor_group otherwise"
        yield Finding(check, "warning", found, advice)
