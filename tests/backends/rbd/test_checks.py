"""What doctor tells of a cluster, a pool, and the rights of a user."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from imgbackend.system.host import Host, Settings
from imgbackend.types import Finding, Gi, Verdict
from imgbackend_rbd import checks
from imgbackend_rbd.cluster import Cluster as Connection
from imgbackend_rbd.cluster import ClusterAccess
from labs.ceph import Cluster

_UUID: Final = "5a1f9e3c-0f0e-4c5b-9a3e-1d8c6b7a2f40"
_NUMBERS: Final = itertools.count(1)


@pytest.mark.parametrize(
    ("told", "verdict", "found"),
    [
        ({"status": "HEALTH_OK", "checks": {}}, "ok", "HEALTH_OK"),
        ({"status": "HEALTH_WARN", "checks": {"POOL_NEAR_FULL": {}}}, "warning", "HEALTH_WARN: POOL_NEAR_FULL"),
        ({"status": "HEALTH_ERR", "checks": {"OSD_FULL": {}, "A": {}}}, "error", "HEALTH_ERR: A, OSD_FULL"),
    ],
)
def test_health_is_told_in_cephs_own_words(told: Mapping[str, Any], verdict: Verdict, found: str) -> None:
    told_of = checks.health(told)
    assert (told_of.verdict, told_of.found) == (verdict, found)
    assert bool(told_of.advice) == (verdict != "ok")


@pytest.mark.parametrize(
    ("used", "left", "verdict"),
    [(0.1, Gi, "ok"), (0.8, Gi, "warning"), (0.95, Gi, "error"), (0.1, 0, "error")],
)
def test_a_pool_is_scarce_before_it_is_full(used: float, left: int, verdict: Verdict) -> None:
    stats = {"percent_used": used, "max_avail": left}
    told = {"stats": {"total_bytes": 9}, "pools": [{"name": "other", "stats": {}}, {"name": "vms", "stats": stats}]}
    assert checks.room(told, "vms").verdict == verdict


def test_a_cluster_without_a_manager_is_not_taken_for_empty() -> None:
    found = checks.room({"stats": {"total_bytes": 0}, "pools": []}, "vms")
    assert (found.verdict, "ceph-mgr" in found.advice) == ("warning", True)


Look = Callable[..., dict[str, Finding]]


@pytest.fixture
def look(rbd_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Look:
    """All findings by their names: ``look(pool, user="...")``."""
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", f"qemu+unix:///system?socket={tmp_path}/none")

    def found(pool: str, user: str = rbd_cluster.user, secret: str | None = None) -> dict[str, Finding]:
        access = ClusterAccess(conf=str(rbd_cluster.conf), user=user, connect_timeout=10, operation_timeout=20)
        connection = Connection(access)
        connection.open()
        with contextlib.closing(connection):
            host = Host(Settings(instances=tmp_path))
            store = checks.Store(cluster=connection, pool=pool, host=host, secret_uuid=secret)
            return {finding.check: finding for finding in checks.findings(store)}

    return found


@pytest.fixture
def user(rbd_cluster: Cluster) -> Iterator[Callable[[Sequence[str]], str]]:
    """Makes users with the rights that are given: ``user(["mon", "profile rbd"])``."""
    with contextlib.ExitStack() as undo:

        def made(caps: Sequence[str]) -> str:
            name = f"checks{next(_NUMBERS)}-{rbd_cluster.folder.name}"
            keyring = rbd_cluster.folder / f"ceph.client.{name}.keyring"
            with rbd_cluster.admin() as admin:
                [entry] = admin.ask("auth get-or-create", entity=f"client.{name}", caps=list(caps))
            undo.callback(_forget, rbd_cluster, name)
            keyring.write_text(f"[client.{name}]\n\tkey = {entry['key']}\n")
            undo.callback(keyring.unlink)
            return name

        yield made


def _forget(cluster: Cluster, name: str) -> None:
    with cluster.admin() as admin:
        admin.ask("auth del", entity=f"client.{name}")


def _objects(cluster: Cluster, pool: str) -> set[str]:
    with cluster.admin() as admin:
        return set(admin.objects(pool))


def test_a_pool_that_is_well_is_left_as_it_is(rbd_cluster: Cluster, rbd_pool: str, look: Look) -> None:
    before = _objects(rbd_cluster, rbd_pool)
    found = look(rbd_pool)
    assert {found[check].verdict for check in ("health", "writing", "locks", "qemu")} == {"ok"}
    assert "no manager" in found["room"].found
    assert _objects(rbd_cluster, rbd_pool) == before


def test_a_user_that_may_only_read_is_an_error(rbd_pool: str, look: Look, user: Callable[[Sequence[str]], str]) -> None:
    found = look(rbd_pool, user(["mon", "profile rbd", "osd", f"profile rbd-read-only pool={rbd_pool}"]))
    assert (found["writing"].verdict, found["locks"].verdict) == ("error", "ok")
    assert f"profile rbd pool={rbd_pool}" in found["writing"].advice


def test_a_user_that_cannot_shut_out_the_dead_is_an_error(
    rbd_pool: str, look: Look, user: Callable[[Sequence[str]], str]
) -> None:
    found = look(rbd_pool, user(["mon", "allow r", "osd", "allow class-read, allow rwx"]))
    assert (found["writing"].verdict, found["locks"].verdict) == ("ok", "error")


def test_a_pool_that_is_not_initialised_is_told_of_and_not_changed(rbd_cluster: Cluster, look: Look) -> None:
    with rbd_cluster.admin() as admin:
        admin.ask("osd pool create", pool="bare", pg_num=1)
    try:
        found = look("bare")
        assert found["writing"].advice == "rbd pool init bare"
        assert _objects(rbd_cluster, "bare") == set()
    finally:
        with rbd_cluster.admin() as admin:
            admin.remove_pool("bare")


def test_a_secret_is_asked_of_libvirt(rbd_pool: str, look: Look) -> None:
    assert "no secret_uuid" in look(rbd_pool)["secret"].found
    unreachable = look(rbd_pool, secret=_UUID)["secret"]
    assert unreachable.verdict == "warning"
    assert unreachable.advice
