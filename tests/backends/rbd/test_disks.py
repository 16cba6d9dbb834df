"""Disks in a pool: whose they are, what hangs on them, and what other programs and hosts do with it."""

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, read
from imgbackend import Engine, errors
from imgbackend.driver.abilities import abilities
from imgbackend.testing import oracle
from imgbackend.types import DiskId, DiskInfo, Mark, Mi, NetworkSource, Owner
from imgbackend_rbd import RbdBackend, headers, images, marks
from imgbackend_rbd.images import Patience
from imgbackend_rbd.marks import MARK
from labs.ceph import Cluster, new_pool
from labs.images import same_for_guest
from labs.templates import Template

_AT_ONCE = Patience(retries=0, interval=0)


@pytest.fixture
def made(engine: Engine, raw_image: Template) -> Iterator[Engine]:
    """An engine with the disk ``web1``; what is in its pool goes in the end."""
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    yield engine
    backend = backend_of(engine)
    for disk in list(backend.list_disks()):
        backend.disk(disk).remove()
    for base in list(backend.list_bases()):
        backend.remove_base(base.name)


def test_driver_has_all_abilities_but_backed() -> None:
    assert set(abilities(RbdBackend.disk_type) + abilities(RbdBackend)) == {
        "Cloneable",
        "Importable",
        "Marked",
        "CarriesHandover",
        "Snapshottable",
        "TellsOpen",
        "Flattenable",
        "HoldsBases",
        "ChecksBases",
        "SharedStore",
        "IdentifiesStore",
        "Checkable",
        "TellsLeftovers",
    }


def test_disk_is_named_as_novas_and_its_metadata_say_whose_it_is(made: Engine, raw_image: Template) -> None:
    backend = backend_of(made)
    header = headers.read(backend.ioctx, headers.identity(backend.ioctx, "web1_disk"), (MARK,))
    mark = json.loads(header.metadata[MARK])
    assert (mark["backend"], mark["instance"], mark["disk"]) == ("rbd", "web1", "disk")
    assert (mark["record"]["way"], mark["record"]["base"]) == ("clone", raw_image.name)
    assert mark["image"] == header.id


def test_source_has_what_a_hypervisor_needs(hosts: Hosts, rbd_cluster: Cluster, rbd_pool: str) -> None:
    uuid = "5a1f9e3c-0f0e-4c5b-9a3e-1d8c6b7a2f40"
    source = disk_of(hosts(secret_uuid=uuid), "web1").source()
    assert isinstance(source, NetworkSource)
    assert (source.protocol, source.name, source.format) == ("rbd", f"{rbd_pool}/web1_disk", "raw")
    assert (source.user, source.secret_uuid, source.conf) == (rbd_cluster.user, uuid, str(rbd_cluster.conf))
    [(host, port)] = source.hosts
    assert f"{host}:{port}" in rbd_cluster.conf.read_text()


def test_two_pools_are_blind_to_each_other(made: Engine, hosts: Hosts, rbd_cluster: Cluster) -> None:
    with new_pool(rbd_cluster) as pool:
        other = hosts("one", pool)
        assert list(backend_of(other).list_disks()) == []
        assert list(backend_of(other).list_bases()) == []
        assert not backend_of(other).disk(DiskId(instance="web2", name="disk")).exists()
        with pytest.raises(errors.DiskNotFound):
            backend_of(other).disk(DiskId(instance="web2", name="disk")).info()
        assert disk_of(made, "web1").exists()


def test_two_backends_of_one_driver_keep_disks_side_by_side(
    made: Engine, rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path, raw_image: Template
) -> None:
    with new_pool(rbd_cluster) as pool:
        own = {"driver": "rbd", "user": rbd_cluster.user, "ceph_conf": str(rbd_cluster.conf)}
        conf = tmp_path / "imgbackend.conf"
        lines = [f"[DEFAULT]\ninstances_path = {tmp_path / 'one'}\nimages_type = fast\n"]
        for name, where in (("fast", rbd_pool), ("cheap", pool)):
            lines.append(f"[{name}]\npool = {where}\n" + "".join(f"{key} = {value}\n" for key, value in own.items()))
        conf.write_text("".join(lines))
        with Engine.from_config([conf]) as engine:
            cheap = engine.disk("web7", images_type="cheap")
            cheap.cache(raw_image, raw_image.name)
            assert engine.disk("web7").backend.name == "cheap"
            assert list(engine.backend("cheap").list_disks()) == [cheap.id]
            assert list(engine.backend("fast").list_disks()) == []  # web1 is of a section of another name
            with pytest.raises(errors.DiskError, match="cheap"):
                engine.disk("web7", images_type="fast")
            cheap.remove()


def test_other_hosts_see_a_disk_and_change_nothing_of_it(
    made: Engine, hosts: Hosts, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    there, here = disk_of(hosts("two"), "web1"), disk_of(made, "web1")
    here.create_snap("kept")
    assert there.exists()
    assert there.info() == here.info()
    for change in (
        lambda: there.cache(raw_image, raw_image.name, 9 * Mi),
        there.remove,
        lambda: there.resize(9 * Mi),
        there.flatten,
        lambda: there.create_snap("theirs"),
        lambda: there.rollback_to_snap("kept"),
        lambda: there.remove_snap("kept"),
    ):
        with pytest.raises(errors.DiskElsewhere):
            change()
    assert [snap.name for snap in here.snaps()] == ["kept"]
    assert read(here, tmp_path) == raw_content.read_bytes()
    here.remove_snap("kept")


def test_mark_of_an_older_version_is_believed_where_host_and_path_are_ours(
    made: Engine, hosts: Hosts, raw_image: Template
) -> None:
    disk, backend = disk_of(made, "web1"), backend_of(made)
    image_id = headers.identity(backend.ioctx, "web1_disk")
    note = headers.note(headers.read(backend.ioctx, image_id, (MARK,)), MARK)
    del note["owner"], note["identity"]
    headers.set_metadata(backend.ioctx, image_id, MARK, json.dumps(note))
    with pytest.raises(errors.DiskElsewhere, match=str(made.host.instances)):
        disk_of(hosts("two"), "web1").cache(raw_image, raw_image.name)
    records = made.host.instances / "web1" / "disks.json"
    content = json.loads(records.read_text())
    del content["owner"], content["identities"]
    records.write_text(json.dumps(content))
    disk.resize(9 * Mi)
    records.unlink()
    assert disk_of(made, "web1").cache(raw_image, raw_image.name).way == "exists"


def test_disk_is_taken_over_by_one_of_two_hosts(made: Engine, hosts: Hosts, raw_image: Template) -> None:
    disk = disk_of(made, "web1")
    with disk.reading():
        before = disk.mark()
    assert before is not None
    one, two = (disk_of(hosts(name), "web1") for name in ("two", "three"))
    one.set_mark(before, Owner(host="two", folder="2" * 32))
    with pytest.raises(errors.DiskElsewhere, match="another owner"):
        two.set_mark(before, Owner(host="three", folder="3" * 32))
    with pytest.raises(errors.DiskElsewhere, match="the host two"):
        disk.remove()
    with disk.reading():
        now = disk.mark()
    assert now == Mark(owner=Owner(host="two", folder="2" * 32), identity=before.identity)
    disk.set_mark(now, before.owner or made.owners.me())
    disk.remove()


def test_image_that_another_program_made_is_used_by_its_name_and_removed_when_it_is_on_record(
    made: Engine, raw_image: Template, tmp_path: Path
) -> None:
    """As Nova leaves them: without our metadata.  It is not listed, for its name alone proves nothing."""
    backend = backend_of(made)
    backend.cluster.rbd().create(backend.ioctx, "nova1_disk", 4 * Mi, old_format=False)
    disk = disk_of(made, "nova1")
    oracle.write(disk.source(), 0, 4096, 0x41)
    assert disk.info() == DiskInfo(format="raw", size=4 * Mi, allocated=4 * Mi)
    with disk.locked(changing=False):
        disk.discard()  # it is not unfinished, and not ours to clear
    with pytest.raises(errors.DiskElsewhere, match="does not tell whose it is"):
        disk.remove()
    assert disk.id not in set(backend.list_disks())
    fetches = raw_image.fetches
    assert disk_of(made, "nova1").cache(raw_image, raw_image.name).way == "exists"
    assert raw_image.fetches == fetches
    assert disk.id in set(backend.list_disks())
    assert read(disk, tmp_path) == b"\x41" * 4096 + bytes(4 * Mi - 4096)
    disk.remove()
    assert not disk.exists()


def test_disk_that_another_host_is_making_is_neither_made_nor_removed(
    made: Engine, hosts: Hosts, raw_image: Template
) -> None:
    theirs = backend_of(hosts("two"))
    disk = disk_of(made, "web2")
    with theirs.unfinished.working("web2_disk") as work:
        theirs.cluster.rbd().create(theirs.ioctx, "web2_disk", Mi, old_format=False)
        assert not disk.exists()
        with pytest.raises(errors.DiskBusy, match="host"):
            disk.cache(raw_image, raw_image.name)
        with pytest.raises(errors.DiskBusy, match="host"):
            disk.remove()
        headers.identity(theirs.ioctx, "web2_disk")
        work.drop()
    assert disk.info().size == Mi
    images.purge(theirs.cluster, theirs.pool, "web2_disk", _AT_ONCE)


@pytest.mark.parametrize("clones", ["1", "2"])
def test_disk_with_clones_is_not_removed_and_is_told_which(
    made: Engine, raw_content: Path, tmp_path: Path, clones: str
) -> None:
    backend, disk = backend_of(made), disk_of(made, "web1")
    backend.cluster.set("rbd_default_clone_format", clones)
    disk.create_snap("kept")
    with backend.cluster.image(backend.pool, "web1_disk") as image:
        image.protect_snap("kept")
    backend.cluster.rbd().clone(backend.ioctx, "web1_disk", "kept", backend.ioctx, "child")
    with pytest.raises(errors.DiskBusy, match=f"{backend.pool}/child"):
        disk.remove()
    assert [snap.name for snap in disk.snaps()] == ["kept"]
    assert read(disk, tmp_path) == raw_content.read_bytes()
    backend.cluster.rbd().trash_move(backend.ioctx, "child", 0)
    with pytest.raises(errors.DiskBusy, match="in the trash"):
        disk.remove()
    [trashed] = backend.cluster.rbd().trash_list(backend.ioctx)
    backend.cluster.rbd().trash_remove(backend.ioctx, trashed["id"])
    disk.remove()
    assert not disk.exists()


def test_disk_that_is_open_is_busy_and_then_removed(hosts: Hosts, made: Engine) -> None:
    busy = disk_of(hosts("one", destroy_volume_retries=1, destroy_volume_retry_interval=0.1), "web1")
    backend = backend_of(made)
    with backend.cluster.image(backend.pool, "web1_disk"):
        with pytest.raises(errors.DiskBusy, match="open at"):
            busy.remove()
        assert busy.exists()
    busy.remove()
    assert not busy.exists()


def test_removal_waits_for_who_lets_go(hosts: Hosts, made: Engine) -> None:
    backend = backend_of(made)
    with contextlib.ExitStack() as opened:
        opened.enter_context(backend.cluster.image(backend.pool, "web1_disk"))
        patient = hosts("one", destroy_volume_retries=2000, destroy_volume_retry_interval=0.01)
        real = images.time.sleep  # type: ignore[attr-defined]  # what it waits with

        def let_go(seconds: float) -> None:
            opened.close()
            real(seconds)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(images.time, "sleep", let_go)  # type: ignore[attr-defined]  # as above
            disk_of(patient, "web1").remove()
    assert not disk_of(made, "web1").exists()


def test_image_without_an_object_map_tells_what_it_takes(made: Engine) -> None:
    backend = backend_of(made)
    layering = 1
    backend.cluster.rbd().create(backend.ioctx, "web3_disk", 64 * Mi, old_format=False, features=layering)
    disk = disk_of(made, "web3")
    assert disk.info().allocated == 0
    oracle.write(disk.source(), 8 * Mi, 4096, 0x42)
    assert disk.info().allocated == 4 * Mi
    images.purge(backend.cluster, backend.pool, "web3_disk", _AT_ONCE)


def test_secret_is_an_image_of_its_own_and_in_no_base(made: Engine, raw_content: Path, tmp_path: Path) -> None:
    secret = Template(content=raw_content, image_id="", role="private")
    disk = disk_of(made, "web1", "disk.config")
    done = disk.cache(secret, "")
    assert (done.way, done.base) == ("import", None)
    assert read(disk, tmp_path) == raw_content.read_bytes()
    assert len(list(backend_of(made).list_bases())) == 1
    assert [path.name for path in made.host.folder(disk.id).iterdir()] == ["disks.json"]


def test_image_of_a_disk_is_independent_and_can_be_cloned(
    made: Engine, rbd_cluster: Cluster, raw_content: Path, tmp_path: Path
) -> None:
    disk, backend = disk_of(made, "web1"), backend_of(made)
    oracle.write(disk.source(), 0, Mi, 0x77)
    wanted = b"\x77" * Mi + raw_content.read_bytes()[Mi:]
    with new_pool(rbd_cluster) as glance:
        place = disk.to_image("4f2d1f0e-8a3b-4a9c-8f57-0c7c9f6a1b22", glance)
        assert place.url == f"rbd://{rbd_cluster.fsid}/{glance}/4f2d1f0e-8a3b-4a9c-8f57-0c7c9f6a1b22/snap"
        assert (place.format, place.virtual_size) == ("raw", 8 * Mi)
        assert disk.snaps() == []
        with pytest.raises(errors.DiskError, match="already"):
            disk.to_image("4f2d1f0e-8a3b-4a9c-8f57-0c7c9f6a1b22", glance)
        disk.remove()  # the image does not hang on it
        found = Template(content=raw_content, image_id="placed", format="raw", locations=(place,))
        done = disk_of(made, "web2").cache(found, found.name)
        assert (done.way, done.fetched, done.reason) == ("clone", False, "")
        assert read(disk_of(made, "web2"), tmp_path) == wanted
        copy = disk_of(made, "web2").to_image("copy")  # beside the image that it is a clone of
        assert copy.url.split("/")[3] == glance
        disk_of(made, "web2").remove()
        assert [image["name"] for image in backend.cluster.rbd().list2(backend.cluster.pool(glance))] == sorted(
            ["4f2d1f0e-8a3b-4a9c-8f57-0c7c9f6a1b22", "copy"]
        )


def test_failed_image_of_a_disk_leaves_nothing(made: Engine, rbd_cluster: Cluster) -> None:
    class CancelledError(Exception):
        pass

    def cancel(_phase: str, done: int, _total: int | None) -> None:
        if done:
            raise CancelledError

    disk, backend = disk_of(made, "web1"), backend_of(made)
    with new_pool(rbd_cluster) as glance:
        with pytest.raises(CancelledError):
            disk.to_image("copy", glance, progress=cancel)
        assert list(backend.cluster.rbd().list2(backend.cluster.pool(glance))) == []
        with backend.cluster.image(backend.pool, "web1_disk", read_only=True) as image:
            assert images.snapshots(image) == []
        for wrong in ("a/b", "", "web1_disk"):
            with pytest.raises(errors.DiskError):
                disk.to_image(wrong, glance)
    with pytest.raises(errors.ConfigError, match="no pool"):
        disk.to_image("copy", "nowhere")


def test_snapshot_tells_its_time_wherever_the_host_is(made: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceph's module returns UTC that does not say so."""
    disk = disk_of(made, "web1")
    try:
        with monkeypatch.context() as patched:
            patched.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            disk.create_snap("before")
            [snap] = disk.snaps()
    finally:
        time.tzset()
    disk.remove_snap("before")
    assert abs(snap.time - time.time()) < 3600


def test_disk_is_exported_as_qcow2_to_a_file_system_that_knows_no_file_without_a_name(
    made: Engine, raw_image: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS and CephFS answer so to O_TMPFILE."""
    real = os.open

    def no_nameless(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", no_nameless)
    (tmp_path / "exports").mkdir()
    disk_of(made, "web1").extract(tmp_path / "exports/web1.qcow2", "qcow2")
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["web1.qcow2"]
    assert same_for_guest(raw_image.content, "raw", tmp_path / "exports/web1.qcow2", "qcow2")


@pytest.mark.parametrize(
    "owner", ["x", 5, {}, {"host": "a"}, {"host": 5, "folder": "f"}, {"host": "\x1b", "folder": "f"}], ids=repr
)
def test_mark_that_is_not_what_imgbackend_writes_is_somebody_elses(made: Engine, owner: object) -> None:
    disk = disk_of(made, "web1")
    header = disk._whole_header()
    assert header is not None
    assert marks.replaced(disk.backend, header, {"owner": owner, "identity": 5})
    mark = disk.mark()
    assert mark is not None
    assert (str(mark.owner), mark.identity) == ("the host (unknown) (folder unknown)", header.id)
    assert disk.id in list(disk.backend.list_disks())
    assert list(backend_of(made).made_here()) == []
    with pytest.raises(errors.DiskElsewhere):
        disk.remove()
    header = disk._whole_header()
    assert header is not None
    me, record = made.owners.me(), disk.recorded
    assert record is not None
    assert marks.replaced(
        disk.backend, header, {"owner": {"host": me.host, "folder": me.folder}, "identity": record.identity}
    )
