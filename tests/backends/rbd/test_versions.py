"""The format of a pool, and hosts with an older version that use it: real images, with the marks that those wrote."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of
from imgbackend import Engine, errors
from imgbackend.types import Finding
from imgbackend_rbd import headers, older_hosts
from imgbackend_rbd.marks import MARK
from imgbackend_rbd.unfinished import FORMAT, OBJECT
from labs.ceph import Cluster
from labs.engines import raw_content, raw_image
from labs.templates import Template

__all__ = ["raw_content", "raw_image"]

_NEWER: Final = json.dumps({"format": FORMAT + 1, "more": "of it"}).encode()


@pytest.fixture(autouse=True)
def _emptied(engine: Engine) -> Iterator[None]:
    """What is in the pool goes in the end, whoever seems to have made it."""
    yield
    backend = backend_of(engine)
    for name in [image["name"] for image in backend.cluster.rbd().list2(backend.ioctx)]:
        if not name.startswith("imgbackend-base."):
            backend.cluster.rbd().remove(backend.ioctx, name)
    for base in list(backend.list_bases()):
        backend.remove_base(base.name)


def make(engine: Engine, instance: str, image: Template) -> None:
    engine.disk(instance).cache(image, image.name)


def objects(cluster: Cluster, pool: str) -> set[str]:
    with cluster.admin() as admin:
        return set(admin.objects(pool))


def listed(engine: Engine) -> set[str]:
    return set(backend_of(engine).unfinished.all())


# The format


def test_first_disk_notes_the_format_and_no_other_writes_it_again(
    engine: Engine, hosts: Hosts, raw_image: Template
) -> None:
    ioctx = backend_of(engine).ioctx
    make(engine, "web1", raw_image)
    assert json.loads(ioctx.read(OBJECT)) == {"format": FORMAT}
    marked = ioctx.read(OBJECT) + b"\n"
    ioctx.write_full(OBJECT, marked)  # whoever writes it again leaves the line's end out
    make(engine, "web2", raw_image)
    make(hosts("two"), "web3", raw_image)
    engine.disk("web1").remove()
    assert ioctx.read(OBJECT) == marked
    assert listed(engine) == set()


def test_format_is_noted_in_a_pool_of_an_older_version(engine: Engine, raw_image: Template) -> None:
    """It made the list, and no content."""
    ioctx = backend_of(engine).ioctx
    op = ioctx.create_write_op()
    op.new(0)
    ioctx.operate_write_op(op, OBJECT)
    ioctx.release_write_op(op)
    assert ioctx.read(OBJECT) == b""
    make(engine, "web1", raw_image)
    assert json.loads(ioctx.read(OBJECT)) == {"format": FORMAT}


@pytest.mark.parametrize(
    ("content", "told"),
    [(_NEWER, f"has format {FORMAT + 1}.*use a newer one"), (b"{", "is broken"), (b"[]", "is broken")],
)
def test_newer_format_refuses_whatever_would_open_the_pool(
    engine: Engine, hosts: Hosts, rbd_cluster: Cluster, rbd_pool: str, raw_image: Template, content: bytes, told: str
) -> None:
    backend_of(engine).ioctx.write_full(OBJECT, content)
    before = objects(rbd_cluster, rbd_pool)
    late = hosts("late")
    with pytest.raises(errors.ConfigError, match=told):
        make(late, "web1", raw_image)
    assert objects(rbd_cluster, rbd_pool) == before
    assert not (late.host.instances / "web1").exists()


def test_newer_format_that_comes_while_a_pool_is_open_stops_what_would_change_disks(
    engine: Engine, rbd_cluster: Cluster, rbd_pool: str, raw_image: Template
) -> None:
    make(engine, "web1", raw_image)
    backend_of(engine).ioctx.write_full(OBJECT, _NEWER)
    before = objects(rbd_cluster, rbd_pool)
    with pytest.raises(errors.ConfigError, match="use a newer one"):
        make(engine, "web2", raw_image)
    with pytest.raises(errors.ConfigError, match="use a newer one"):
        engine.disk("web1").remove()
    assert objects(rbd_cluster, rbd_pool) == before
    assert listed(engine) == set()
    assert not (engine.host.instances / "web2" / "disks.json").exists()
    assert engine.disk("web1").exists()


def test_what_was_begun_before_a_newer_format_came_is_finished(engine: Engine, raw_image: Template) -> None:
    make(engine, "web1", raw_image)
    unfinished = backend_of(engine).unfinished
    with unfinished.working("web2_disk") as work:
        backend_of(engine).ioctx.write_full(OBJECT, _NEWER)
        work.drop()
    assert listed(engine) == set()


# Hosts with an older version


def marked_as_by_older(engine: Engine, instance: str, host: str, folder: str) -> None:
    """Give a disk the mark of imgbackend of format 1, key for key, and take it off this host's records."""
    ioctx = backend_of(engine).ioctx
    image_id = headers.identity(ioctx, f"{instance}_disk")
    note = {"image": image_id, "backend": "rbd", "instance": instance, "disk": "disk"}
    note |= {"host": host, "instances": folder}
    headers.set_metadata(ioctx, image_id, MARK, json.dumps({**note, "record": None}))
    (engine.host.instances / instance / "disks.json").unlink()


def versions(engine: Engine) -> Finding:
    return older_hosts.finding(backend_of(engine))


def test_disks_of_before_the_owners_are_no_sign(engine: Engine, raw_image: Template) -> None:
    make(engine, "old1", raw_image)
    marked_as_by_older(engine, "old1", "there", "/srv/old")
    assert versions(engine).verdict == "ok"
    make(engine, "web1", raw_image)
    assert versions(engine).verdict == "ok"


def test_doctor_names_each_host_that_makes_disks_with_an_older_version_and_how_many(
    engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", f"qemu+unix:///system?socket={tmp_path}/none")
    make(engine, "old1", raw_image)
    marked_as_by_older(engine, "old1", "b", "/srv/b")
    make(engine, "web1", raw_image)
    for name, host in (("web2", "b"), ("web3", "c"), ("web4", "c")):
        make(engine, name, raw_image)
        marked_as_by_older(engine, name, host, f"/srv/{host}")
    found = {finding.check: finding for finding in backend_of(engine).findings()}["versions"]
    assert found.verdict == "warning"
    assert "1 on b (/srv/b), " in found.found
    assert "2 on c (/srv/c), " in found.found
    assert str(engine.host.instances) not in found.found
    assert "update imgbackend there" in found.advice


def test_host_that_made_a_later_disk_with_an_owner_was_updated(
    engine: Engine, hosts: Hosts, raw_image: Template
) -> None:
    make(engine, "web1", raw_image)
    make(engine, "web2", raw_image)
    there = hosts("two")
    marked_as_by_older(engine, "web2", there.host.settings.hostname, str(there.host.instances))
    assert versions(engine).verdict == "warning"
    make(there, "web3", raw_image)
    assert versions(engine).verdict == "ok"
    make(engine, "web4", raw_image)
    marked_as_by_older(engine, "web4", there.host.settings.hostname, str(there.host.instances))
    assert "2 on " in versions(engine).found


def test_disk_of_before_that_was_taken_over_makes_no_other_of_before_a_sign(
    engine: Engine, raw_image: Template
) -> None:
    for name in ("old1", "old2"):
        make(engine, name, raw_image)
        marked_as_by_older(engine, name, "there", "/srv/old")
    disk = disk_of(engine, "old1")
    with disk.reading():
        before = disk.mark()
    assert before is not None
    disk.set_mark(before, engine.owners.me())
    assert versions(engine).verdict == "ok"


def test_images_that_are_no_disks_or_have_no_mark_are_passed_over(engine: Engine, raw_image: Template) -> None:
    make(engine, "web1", raw_image)
    backend = backend_of(engine)
    for name in ("web2_disk", "something"):
        backend.cluster.rbd().create(backend.ioctx, name, 1 << 20)
    image_id = headers.identity(backend.ioctx, "web2_disk")
    headers.set_metadata(backend.ioctx, image_id, MARK, json.dumps({"image": image_id}))
    assert versions(engine).verdict == "ok"


def test_age_of_an_image_is_told(engine: Engine, raw_image: Template) -> None:
    make(engine, "web1", raw_image)
    ioctx = backend_of(engine).ioctx
    assert abs(headers.read(ioctx, headers.identity(ioctx, "web1_disk")).made - time.time()) < 600
