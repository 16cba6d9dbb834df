"""Opening a backend: what is wrong is told with what to do; and the connection is one process's own."""

import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backends.rbd.conftest import Hosts, backend_of, disk_of, options
from imgbackend import Engine, errors
from imgbackend.config.options import backend_opts
from imgbackend.testing.children import Child
from imgbackend.types import Declared, DiskId, ImageInfo, Location, Mi, Record
from imgbackend_rbd import RbdBackend, headers
from imgbackend_rbd.locations import ImagePlace
from labs.ceph import Cluster
from labs.templates import Template

_UUID = "5a1f9e3c-0f0e-4c5b-9a3e-1d8c6b7a2f40"


def _opened(cluster: Cluster, folder: Path, in_pool: str, **own: object) -> None:
    told = options(cluster, folder, in_pool, dict(own))
    with Engine.from_config([], told) as engine:
        engine.backend()


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({"ceph_conf": "/nonexistent/ceph.conf"}, "ceph_conf: cannot read /nonexistent/ceph.conf"),
        ({"user": "nobody-has-made"}, r"no key of client\.nobody-has-made in .*ceph auth get"),
        ({"pool": "nowhere"}, "ceph osd pool create nowhere && rbd pool init nowhere"),
        ({"operation_timeout": 0}, "operation_timeout"),
    ],
)
def test_what_the_operator_has_to_change_is_told(
    rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path, own: dict[str, object], told: str
) -> None:
    with pytest.raises(errors.ConfigError, match=told) as caught:
        _opened(rbd_cluster, tmp_path, rbd_pool, **own)
    assert "\n" not in str(caught.value)


def test_wrong_key_is_told(rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path) -> None:
    conf, ring = tmp_path / "ceph.conf", tmp_path / "keyring"
    ring.write_text(f"[client.{rbd_cluster.user}]\n\tkey = AQAAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAAAAAA==\n")
    lines = rbd_cluster.conf.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("keyring")]
    conf.write_text("\n".join([*kept, "[client]", f"keyring = {ring}", ""]))
    with pytest.raises(errors.ConfigError, match="does not accept the key"):
        _opened(rbd_cluster, tmp_path, rbd_pool, ceph_conf=str(conf))


def test_missing_modules_are_told_with_the_package_and_the_python_that_they_fit(
    rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rbd", None)
    with pytest.raises(errors.ConfigError, match=r"python3-rbd, which fits .*3\.11"):
        _opened(rbd_cluster, tmp_path, rbd_pool)


def test_novas_options_are_understood(rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path) -> None:
    """Of a real nova.conf, in the section that is named as the driver alone."""
    conf = tmp_path / "nova.conf"
    conf.write_text(f"""
[DEFAULT]
instances_path = {tmp_path}/instances
[libvirt]
images_type = rbd
images_rbd_pool = {rbd_pool}
images_rbd_ceph_conf = {rbd_cluster.conf}
rbd_user = {rbd_cluster.user}
rbd_secret_uuid = {_UUID}
rbd_connect_timeout = 7
rbd_destroy_volume_retries = 3
rbd_destroy_volume_retry_interval = 1
""")
    with Engine.from_config([conf]) as engine:
        backend = backend_of(engine)
        assert backend.pool == rbd_pool
        assert backend.cluster.access.connect_timeout == 7
        assert (backend.patience.retries, backend.patience.interval) == (3, 1.0)
        assert backend.conf.secret_uuid == _UUID
    other = {opt.dest: opt for opt in backend_opts("fast", "rbd", RbdBackend.opts)}
    assert other["pool"].deprecated_opts == []


def test_dead_monitor_is_unavailable_and_not_for_ever(tmp_path: Path, rbd_cluster: Cluster, rbd_pool: str) -> None:
    conf = tmp_path / "ceph.conf"
    lines = rbd_cluster.conf.read_text().splitlines()
    conf.write_text(
        "\n".join("mon_host = v2:127.0.0.1:1/0" if line.startswith("mon_host") else line for line in lines) + "\n"
    )
    with pytest.raises(errors.StorageUnavailable, match="within 1 s"):
        _opened(rbd_cluster, tmp_path, rbd_pool, ceph_conf=str(conf), connect_timeout=1)


def test_lines_of_librbd_do_not_reach_the_terminal(
    rbd_cluster: Cluster, rbd_pool: str, tmp_path: Path, raw_content: Path
) -> None:
    """It writes them to the descriptor, past Python."""
    program = """
import sys
from imgbackend import Engine, errors
with Engine.from_config([], eval(sys.argv[1])) as engine:
    cluster = engine.backend().cluster
    for call in (lambda: cluster.image(engine.backend().pool, "absent"),
                 lambda: cluster.rbd().clone(engine.backend().ioctx, "a", "b", engine.backend().ioctx, "c")):
        try:
            call()
        except cluster.absent:
            pass
"""
    told = repr(options(rbd_cluster, tmp_path / "one", rbd_pool, {}))
    done = subprocess.run(
        [sys.executable, "-c", program, told], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_child_makes_its_own_connection_and_the_parents_goes_on(
    hosts: Hosts, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    """A forked child that used the parent's would hang, and one that freed it would end it for both."""
    engine = hosts()
    backend = backend_of(engine)
    disk_of(engine, "web1").cache(raw_image, raw_image.name)
    parents = _address(engine)

    def look() -> None:
        assert disk_of(engine, "web1").exists()
        assert _address(engine) != parents

    def leave() -> None:
        """It never uses the backend, and ends as a program does."""
        ctypes.pythonapi.Py_FinalizeEx()

    for work in (look, look, leave):
        assert Child(work, watched=False).outcome().error is None
    assert disk_of(engine, "web1").exists()
    assert _address(engine) == parents
    disk_of(engine, "web1").remove()
    backend.remove_base(raw_image.name)


def _create(engine: Engine) -> None:
    """The disk ``web1``, empty."""
    backend = backend_of(engine)
    backend.cluster.rbd().create(backend.ioctx, "web1_disk", Mi, old_format=False)
    record = Record(backend="rbd", driver="rbd", format="raw", way="exists", time=0.0)
    engine.host.records.write(DiskId(instance="web1", name="disk"), record, as_file=False, durable=False)


def _address(engine: Engine) -> str:
    """Of this process's client, as the cluster knows it."""
    backend = backend_of(engine)
    with (
        backend.cluster.image(backend.pool, "web1_disk"),
        backend.cluster.image(backend.pool, "web1_disk", read_only=True) as image,
    ):
        return next(watcher["addr"] for watcher in image.watchers_list())


def test_children_of_one_process_are_different_clients(hosts: Hosts, rbd_cluster: Cluster, tmp_path: Path) -> None:
    """librados draws its client's number once per thread; who is shut out must not be taken for its sibling."""
    engine = hosts()
    _create(engine)
    found = tmp_path / "addresses"

    def note() -> None:
        with found.open("a") as file:
            file.write(f"{_address(engine)}\n")

    for _ in range(3):
        assert Child(note, watched=False).outcome().error is None
    assert len({_address(engine), *found.read_text().split()}) == 4
    disk_of(engine, "web1").remove()


def test_threads_share_one_connection(hosts: Hosts) -> None:
    backend = backend_of(hosts())
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(id(backend.ioctx))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_client_that_was_shut_out_connects_again(hosts: Hosts, rbd_cluster: Cluster) -> None:
    """Another client took its locks for those of a dead one."""
    engine = hosts()
    _create(engine)
    before = _address(engine)
    with rbd_cluster.admin() as admin:
        admin.ask("osd blocklist", blocklistop="add", addr=before)
    _eventually_unavailable(lambda: disk_of(engine, "web1").resize(disk_of(engine, "web1").info().size + Mi))
    assert _address(engine) != before
    disk_of(engine, "web1").resize(512 * Mi)
    assert disk_of(engine, "web1").info().size == 512 * Mi
    disk_of(engine, "web1").remove()


def _eventually_unavailable(call: Callable[[], object]) -> None:
    """OSDs learn of it from the monitors; the first calls may still be served."""
    for _ in range(200):
        try:
            call()
        except errors.StorageUnavailable:
            return
    raise AssertionError("it is not shut out")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("rbd://00000000-0000-0000-0000-000000000000/images/a/snap", "another Ceph cluster"),
        ("rbd://{fsid}/nowhere/a/snap", "no pool nowhere"),
        ("rbd://{fsid}/{pool}/absent/snap", "there is no"),
        ("rbd://{fsid}/{pool}/victim_disk/snap", "a machine's disk"),
        ("rbd://a/b", "another storage"),
        ("file:///etc/passwd", "another storage"),
    ],
)
def test_place_that_cannot_be_cloned_is_told_why(
    hosts: Hosts, rbd_cluster: Cluster, rbd_pool: str, raw_image: Template, url: str, told: str
) -> None:
    place = Location(url=url.format(fsid=rbd_cluster.fsid, pool=rbd_pool), format="raw")
    plan = disk_of(hosts(), "web1").explain(raw_image.but(locations=(place,)), raw_image.name)
    assert plan is not None
    assert plan.way == "clone"
    assert told in plan.reason
    assert "imported once" in plan.reason


def test_place_of_an_image_that_is_no_raw_is_imported_once(hosts: Hosts, qcow2_image: Template) -> None:
    place = Location(url="rbd://fsid/images/a/snap", format="qcow2")
    plan = disk_of(hosts(), "web1").explain(qcow2_image.but(locations=(place,)), qcow2_image.name)
    assert plan is not None
    assert "the image is qcow2" in plan.reason
    assert "imported once" in plan.reason


def test_place_that_is_not_protected_is_not_cloned(hosts: Hosts, rbd_cluster: Cluster, rbd_pool: str) -> None:
    backend = backend_of(hosts())
    backend.cluster.rbd().create(backend.ioctx, "image", Mi, old_format=False)
    url = f"rbd://{rbd_cluster.fsid}/{rbd_pool}/image/snap"
    disk = disk_of(hosts(), "web1")
    with backend.cluster.image(rbd_pool, "image") as image:
        image.create_snap("snap")
        assert "not protected" in str(disk.parent(url))
        image.protect_snap("snap")
        assert not isinstance(disk.parent(url), str)
        image.unprotect_snap("snap")
        image.remove_snap("snap")
    backend.cluster.rbd().remove(backend.ioctx, "image")
    assert Declared(image_id="a", source="b").locations == ()


def test_place_is_that_snapshot_whatever_others_the_image_has(
    hosts: Hosts, rbd_cluster: Cluster, rbd_pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is as large as the image was when it was taken; they are read some at once."""
    monkeypatch.setattr(headers, "_AT_ONCE", 2)
    names = ["sna", "snap", "snapshot", "süß ", "x" * 90]
    backend, disk = backend_of(hosts()), disk_of(hosts(), "web1")
    backend.cluster.rbd().create(backend.ioctx, "image", Mi, old_format=False)
    with backend.cluster.image(rbd_pool, "image") as image:
        for number, name in enumerate(names):
            image.resize((number + 1) * Mi)
            image.create_snap(name)
            image.protect_snap(name)
        for number, name in enumerate(names):
            found = disk.parent(ImagePlace(fsid=rbd_cluster.fsid, pool=rbd_pool, image="image", snapshot=name).url)
            assert found == ImageInfo(format="raw", virtual_size=(number + 1) * Mi)
        gone = ImagePlace(fsid=rbd_cluster.fsid, pool=rbd_pool, image="image", snapshot="x" * 89)
        assert "there is no" in str(disk.parent(gone.url))
        for name in names:
            image.unprotect_snap(name)
            image.remove_snap(name)
    backend.cluster.rbd().remove(backend.ioctx, "image")
