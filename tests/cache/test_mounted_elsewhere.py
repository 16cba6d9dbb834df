"""One folder that hosts have mounted in different places: what hangs on a base holds it, whatever the path says."""

import json
from pathlib import Path

import pytest

from cache.conftest import DAY, actions, age
from cache.test_prune import base_of
from imgbackend import Engine
from imgbackend.bases import users
from imgbackend.bases.users import OverlayUsers
from imgbackend.types import Mi, Record, base_name
from labs.hosts import SharedFolder, SharingHost, shared_folder
from labs.images import qemu_img, sparse_raw
from labs.templates import Template

__all__ = ["shared_folder"]

pytestmark = pytest.mark.slow


def overlay(path: Path, backing: str, format: str = "raw") -> Path:
    """A qcow2 whose header refers to a file that need not be there."""
    path.parent.mkdir(exist_ok=True)
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", format, "-b", backing, str(path), "1M")
    return path


def recorded(engine: Engine, instance: str) -> None:
    """A disk is on record as a qcow2 of ours, so that no guest wrote its header."""
    made = Record(backend="qcow2", driver="qcow2", format="qcow2", way="overlay", time=1.0)
    disk = engine.disk(instance).id
    engine.host.records.write(disk, made, as_file=True, durable=False)


# Two hosts, each a set of namespaces


def created(host: SharingHost, place: Path, image: Path, instance: str) -> None:
    """A host makes an overlay, in the folder as it sees it."""
    done = host.run("disk", "create", instance, "--image", image, options=options(place))
    assert done.returncode == 0, done.stderr


def options(place: Path) -> list[str]:
    return ["--set", f"instances_path={place}", "--set", "images_type=qcow2"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that every host can read."""
    return sparse_raw(tmp_path / "boot.raw", Mi, data={0: b"boot", Mi - 512: b"end"})


def prune(host: SharingHost, place: Path, shared: SharedFolder) -> dict[str, str]:
    """What a pass of a host does about bases that were not used for days; it has no fault."""
    for path in (shared.instances / "_base").iterdir():
        if path.is_file():
            age(path, 9 * DAY)
    done = host.run("cache", "prune", "--all", "-f", "json", options=options(place))
    assert done.returncode == 0, done.stderr
    return {row["name"]: row["action"] for row in json.loads(done.stdout)}


@pytest.mark.parametrize("way", ["mount", "link"])
def test_base_of_a_disk_stays_though_another_host_has_the_folder_at_another_path(
    shared_folder: SharedFolder, image: Path, way: str
) -> None:
    first, second = shared_folder.folder / "first", shared_folder.folder / "second"
    maker = shared_folder.host("maker", place=first)
    seen_by_maker = first
    if way == "link":
        seen_by_maker = shared_folder.folder / "link"
        seen_by_maker.symlink_to(first)
    created(maker, seen_by_maker, image, "web1")
    pruner = shared_folder.host("pruner", place=second)
    [action] = prune(pruner, second, shared_folder).values()
    assert action == "kept"
    listed = pruner.run("disk", "list", "--all-hosts", "-f", "json", options=options(second))
    [row] = json.loads(listed.stdout)
    assert row["state"] != "ok"
    assert "no base of this host" in row["state"]
    back = maker.run("disk", "list", "-f", "json", options=options(seen_by_maker))
    assert [row["state"] for row in json.loads(back.stdout)] == ["ok"]


def test_disk_whose_base_is_gone_is_not_listed_as_ok(shared_folder: SharedFolder, image: Path) -> None:
    host = shared_folder.host("maker")
    created(host, shared_folder.instances, image, "web1")
    for path in (shared_folder.instances / "_base").glob("?" * 40):
        path.unlink()
    [row] = json.loads(host.run("disk", "list", "-f", "json", options=options(shared_folder.instances)).stdout)
    assert "is gone" in row["state"]


def test_base_stays_though_another_folder_is_mounted_where_its_disks_name_it(
    shared_folder: SharedFolder, image: Path
) -> None:
    """The path is there on this host, with a base of the same name in it: which of the two is meant cannot be told."""
    first, second = shared_folder.folder / "first", shared_folder.folder / "second"
    created(shared_folder.host("maker", place=first), first, image, "web1")
    other = shared_folder.host("pruner", place=second)
    created(other, first, image, "local")  # below the mount, in the folder of this machine
    assert prune(other, second, shared_folder) != {}
    assert set(prune(other, second, shared_folder).values()) == {"kept"}


# What headers say


def test_chain_through_a_disk_that_is_named_by_another_host_s_path_holds_its_base(
    engine: Engine, raw_image: Template, instances: Path
) -> None:
    """No other disk hangs on it: the middle of the chain is no disk's own file, and is found by its folder and name."""
    base = base_of(engine, raw_image)
    overlay(instances / "snapshots" / "golden.img", f"/elsewhere/_base/{base.name}")
    overlay(instances / "web1" / "disk", "/elsewhere/snapshots/golden.img", "qcow2")
    age(base, 9 * DAY)
    assert actions(engine) == {("local", base.name): "kept"}


@pytest.mark.parametrize("form", ["nbd://server/{}", 'json:{{"driver":"nfs","path":"/export/_base/{}"}}'])
def test_base_that_a_header_names_through_a_server_stays(
    engine: Engine, raw_image: Template, instances: Path, form: str
) -> None:
    base = base_of(engine, raw_image)
    age(base, 9 * DAY)
    overlay(instances / "web1" / "disk", form.format(base.name))
    assert actions(engine) == {("local", base.name): "kept"}


def test_no_base_goes_while_a_recorded_disk_refers_to_a_missing_file_of_an_instance(
    engine: Engine, raw_image: Template, instances: Path
) -> None:
    """What the missing file hangs on cannot be told.  Of a header that a guest may have written that is no reason."""
    base = base_of(engine, raw_image)
    age(base, 9 * DAY)
    overlay(instances / "web1" / "disk", str(instances / "web2" / "gone.img"), "qcow2")
    recorded(engine, "web1")
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    [fault] = done.faults
    assert "gone.img, which is not there" in fault
    (instances / "web1" / "disks.json").unlink()
    (instances / "web1" / "disk.info").unlink()
    assert actions(engine) == {("local", base.name): "removed"}


def test_recorded_disk_on_a_file_outside_of_the_instances_holds_the_base_below_that(
    engine: Engine, raw_image: Template, instances: Path, tmp_path: Path
) -> None:
    base = base_of(engine, raw_image)
    age(base, 9 * DAY)
    middle = overlay(tmp_path / "golden.qcow2", str(base))
    overlay(instances / "web1" / "disk", str(middle), "qcow2")
    recorded(engine, "web1")
    assert actions(engine) == {("local", base.name): "kept"}


def test_base_of_another_base_folder_below_the_instances_holds_none_here(
    engine: Engine, raw_image: Template, instances: Path
) -> None:
    """Hosts may have base folders of their own in one ``instances_path``, with the same names in them."""
    base = base_of(engine, raw_image)
    age(base, 9 * DAY)
    others = instances / "_base_other"
    others.mkdir()
    (others / base.name).write_bytes(base.read_bytes())
    overlay(instances / "web1" / "disk", str(others / base.name))
    assert actions(engine) == {("local", base.name): "removed"}


def test_base_under_a_base_stays_though_it_is_named_by_another_path(
    engine: Engine, raw_image: Template, instances: Path
) -> None:
    below = base_of(engine, raw_image)
    upper = overlay(below.with_name(base_name("upper")), f"/elsewhere/_base/{below.name}")
    overlay(instances / "web1" / "disk", f"/elsewhere/_base/{upper.name}", "qcow2")
    for path in (below, upper):
        age(path, 9 * DAY)
    assert actions(engine) == {("local", below.name): "kept", ("local", upper.name): "kept"}


def test_format_that_a_header_states_of_a_base_at_another_path_is_not_believed(
    engine: Engine, raw_image: Template, instances: Path
) -> None:
    """It may be a base of the same name in another folder, and a raw image may look like anything."""
    base = base_of(engine, raw_image)
    overlay(instances / "web1" / "disk", f"/elsewhere/_base/{base.name}", "qcow2")
    recorded(engine, "web1")
    assert users.is_used_by_overlay(engine.host, base.name)
    assert users.stated_formats(engine.host, base) == set()
    overlay(instances / "web2" / "disk", str(base))
    recorded(engine, "web2")
    assert users.stated_formats(engine.host, base) == {"raw"}


def test_format_of_a_base_is_what_the_last_file_of_a_chain_states(
    engine: Engine, raw_image: Template, instances: Path
) -> None:
    base = base_of(engine, raw_image)
    overlay(instances / "web1" / "disk", str(base))
    overlay(instances / "web2" / "disk", str(instances / "web1" / "disk"), "qcow2")
    recorded(engine, "web1")
    recorded(engine, "web2")
    assert users.stated_formats(engine.host, base) == {"raw"}


@pytest.mark.parametrize("way", ["another mount", "a link"])
def test_base_that_a_domain_opens_by_another_path_is_known(
    engine: Engine, raw_image: Template, tmp_path: Path, way: str
) -> None:
    base = base_of(engine, raw_image)
    opened = tmp_path / "elsewhere" / base.name
    if way == "a link":
        opened = tmp_path / "kernel"
        opened.symlink_to(base)
    look = OverlayUsers(engine.host)
    assert look.base_under(str(opened), None) == base.name
    assert look.base_under(str(tmp_path / "elsewhere" / "vmlinuz"), None) is None
