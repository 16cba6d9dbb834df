"""What ``imgbackend doctor`` tells of a cluster, a pool, and the rights of a user.

Whether a user may do something is tried with a change that cannot be made: to make an object
that is there already, to shut out a client whose address is none.  Without the right the
answer is that it is not allowed; with it, that it cannot be done.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from imgbackend import errors
from imgbackend.system.host import Host
from imgbackend.system.runner import CommandLimits
from imgbackend.types import Finding, Gi, Verdict
from imgbackend_rbd.cluster import Cluster

_INITIALISED: Final = "rbd_info"
"""The object that ``rbd pool init`` makes in a pool."""
_EXCLUSIVE: Final = 1
"""LIBRADOS_CREATE_EXCLUSIVE."""
_SCARCE: Final = 0.80
_LAST: Final = 0.95
_LIMITS: Final = CommandLimits(cpu_seconds=10, address_space=4 << 30, stall_seconds=15)
_NO_IMAGE: Final = "imgbackend.no-image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """What is looked at."""

    cluster: Cluster
    pool: str
    host: Host
    secret_uuid: str | None

    @property
    def user(self) -> str:
        """As Ceph writes it."""
        return self.cluster.access.who


def findings(store: Store) -> Iterator[Finding]:
    """All that is to be said of them.

    :raises Error: if the cluster does not answer.
    """
    yield health(store.cluster.monitor("health"))
    yield room(store.cluster.monitor("df"), store.pool)
    yield from _rights(store)
    yield _qemu(store)
    yield _secret(store)


def health(told: Mapping[str, Any]) -> Finding:
    """What the monitors say of the cluster as a whole."""
    status, names = str(told.get("status", "unknown")), ", ".join(sorted(told.get("checks", {})))
    verdict: Verdict = {"HEALTH_OK": "ok", "HEALTH_WARN": "warning"}.get(status, "error")  # type: ignore[assignment]  # mypy does not see Verdict in the dict
    found = f"{status}: {names}" if names else status
    return Finding("health", verdict, found, "" if verdict == "ok" else "ceph health detail")


def room(told: Mapping[str, Any], pool: str) -> Finding:
    """How full the pool is; only a manager knows."""
    if not told.get("stats", {}).get("total_bytes"):
        advice = "start a ceph-mgr; until then no capacity can be told, and a full pool is noticed when it is full"
        return Finding("room", "warning", "no manager reports what is used", advice)
    stats: Mapping[str, Any] = next((each["stats"] for each in told.get("pools", []) if each.get("name") == pool), {})
    used, left = float(stats.get("percent_used", 0.0)), int(stats.get("max_avail", 0))
    verdict: Verdict = "error" if used >= _LAST or not left else "warning" if used >= _SCARCE else "ok"
    found = f"{used * 100:.1f} % of {pool} in use, {left / Gi:.1f} GiB left"
    return Finding("room", verdict, found, "" if verdict == "ok" else "add OSDs, or remove disks, snapshots and bases")


def _rights(store: Store) -> Iterator[Finding]:
    needed = f"mon 'profile rbd' and osd 'profile rbd pool={store.pool}'"
    caps = f"give it {needed}; ceph auth caps replaces all that ceph auth get {store.user} shows"
    try:
        _write(store)
    except errors.ConfigError:
        yield Finding("writing", "error", f"{store.user} may not write to {store.pool}", caps)
    except errors.DiskNotFound:
        yield Finding("writing", "warning", f"{store.pool} is not initialised", f"rbd pool init {store.pool}")
    else:
        yield Finding("writing", "ok", f"{store.user} may write to {store.pool}")
    if store.cluster.allows({"prefix": "osd blocklist", "blocklistop": "add", "addr": "nobody/0"}):
        yield Finding("locks", "ok", f"{store.user} may take over the locks of clients that died")
    else:
        told = f"{store.user} may not shut out a client that died: what it had open stays locked"
        yield Finding("locks", "error", told, caps)


def _write(store: Store) -> None:
    """Make an object that is there.

    :raises ConfigError: if that is not allowed.
    :raises DiskNotFound: if it is not there; it is not made.
    """
    with store.cluster.asked("looking for rights", store.pool):
        ioctx = store.cluster.pool(store.pool)
        op = ioctx.create_write_op()
        try:
            ioctx.stat(_INITIALISED)
            op.new(_EXCLUSIVE)
            ioctx.operate_write_op(op, _INITIALISED)
        except store.cluster.absent as exc:
            raise errors.DiskNotFound(f"there is no {_INITIALISED} in {store.pool}") from exc
        except store.cluster.taken:
            return
        finally:
            ioctx.release_write_op(op)


def _qemu(store: Store) -> Finding:
    """Whether QEMU can reach the pool: its own driver, its own connection."""
    access = store.cluster.access
    told = {"driver": "rbd", "pool": store.pool, "image": _NO_IMAGE}
    told |= {"conf": access.conf} if access.conf else {}
    told |= {"user": access.user} if access.user else {}
    spec = json.dumps({"driver": "raw", "file": told})
    try:
        store.host.run(["qemu-img", "info", f"json:{spec}"], limits=_LIMITS)
    except errors.CommandFailed as exc:
        said = exc.output.strip().splitlines()[-1:] or [str(exc)]
        if "No such file" in said[0]:
            return Finding("qemu", "ok", "reaches the pool")
        if "Unknown driver" in said[0] or "Unknown protocol" in said[0]:
            return Finding("qemu", "error", "knows no rbd", "install qemu-block-extra")
        return Finding("qemu", "warning", said[0][-200:], "see that its own user can read ceph.conf and the key")
    except errors.Error as exc:
        return Finding("qemu", "warning", str(exc), "install qemu-utils")
    return Finding("qemu", "ok", "reaches the pool")


def _secret(store: Store) -> Finding:
    """Whether libvirt has the key that it hands to QEMU."""
    uuid, caps = store.secret_uuid, "virsh secret-define, then virsh secret-set-value"
    uri = os.environ.get("LIBVIRT_DEFAULT_URI", "qemu:///system")
    if not uuid:
        told = "no secret_uuid: guests that libvirt starts cannot log in to the cluster"
        return Finding("secret", "warning", told, f"{caps}, and name its uuid; nothing to do without cephx or libvirt")
    try:
        told = store.host.run(["virsh", "-q", "-c", uri, "secret-dumpxml", uuid], limits=_LIMITS)
    except errors.CommandFailed as exc:
        said = " ".join(exc.output.split())[-200:]
        missing = "ecret not found" in said or "failed to get secret" in said
        return Finding("secret", "error" if missing else "warning", said, caps if missing else "see to libvirt")
    except errors.Error as exc:
        return Finding("secret", "warning", f"cannot be looked at: {exc}", "install libvirt-clients")
    kind = "type='ceph'" in told
    return (
        Finding("secret", "ok", "libvirt has it") if kind else Finding("secret", "error", "is not of type ceph", caps)
    )
