"""A backend whose options lead to another store than the one that its disks were made in: nothing of them is lost."""

import json
import os
import time
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.cli.disk import described_or_state
from imgbackend.disks import record_stores
from imgbackend.guest.file_import import import_file
from imgbackend.state.records import OURS
from imgbackend.testing import conforming
from imgbackend.types import DiskId, Mi, ignore
from labs.able import AbleBackend
from labs.engines import MakeEngine
from labs.pool import MakeHost, make_host, pool_driver, pool_folder
from labs.templates import Template
from labs.verbs import CHANGES, LOOKS, Verbs

__all__ = ["make_host", "pool_driver", "pool_folder"]

DISK = DiskId(instance="web1", name="disk")

VERBS: Verbs = {**CHANGES, **LOOKS, "remove by force": lambda disk, _image: disk.remove(force=True)}
"""What changes a disk, or tells of it."""


@pytest.fixture
def other_folder(tmp_path: Path) -> Path:
    """Another store."""
    folder = tmp_path / "other-pool"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def right(make_host: MakeHost, raw_image: Template) -> Engine:
    """A host with a disk of web1."""
    engine = make_host("a")
    engine.disk("web1").cache(raw_image, raw_image.name)
    return engine


@pytest.fixture
def wrong(make_host: MakeHost, other_folder: Path, right: Engine) -> Engine:
    """The same host, whose option leads to another store by now."""
    return make_host("a", **{"pool.folder": str(other_folder)})


def records_of(engine: Engine, instance: str = "web1") -> bytes:
    return (engine.host.instances / instance / OURS).read_bytes()


def made_old(engine: Engine, instance: str = "web1") -> None:
    then = time.time() - 30 * 86400
    os.utime(engine.host.instances / instance / OURS, (then, then))


def without_store(engine: Engine, instance: str = "web1") -> None:
    """As a version wrote the record that did not note the store."""
    path = engine.host.instances / instance / OURS
    content = json.loads(path.read_text())
    del content["stores"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("verb", VERBS)
def test_verb_on_a_disk_of_another_store_is_refused_with_both_stores(
    right: Engine, wrong: Engine, raw_image: Template, other_folder: Path, pool_folder: Path, verb: str
) -> None:
    before = records_of(right)
    here, there = (f"folder {folder.stat().st_ino} of" for folder in (other_folder, pool_folder))
    with pytest.raises(errors.WrongStore) as caught:
        VERBS[verb](wrong.disk("web1"), raw_image)
    for told in (here, there, "nothing was changed", "see to folder in [pool]", "disk delete --force web1 --name disk"):
        assert told in str(caught.value)
    assert records_of(right) == before
    assert list(other_folder.iterdir()) == []
    right.disk("web1").resize(64 * Mi)
    right.disk("web1").remove()
    assert not right.disk("web1").exists()


@pytest.mark.parametrize("images_type", [None, "raw"])
def test_disk_of_another_store_is_not_made_on_the_backend_of_new_disks_instead(
    right: Engine, make_host: MakeHost, other_folder: Path, raw_image: Template, images_type: str | None
) -> None:
    """Neither where that is what the configuration has today, nor where it is asked for."""
    before = records_of(right)
    engine = make_host("a", **{"pool.folder": str(other_folder), "images_type": "raw"})
    with pytest.raises(errors.Error, match=r"was made in another store|is kept by the backend pool"):
        engine.disk("web1", images_type=images_type).cache(raw_image, raw_image.name)
    with pytest.raises(errors.DiskError, match="is kept by the backend pool"):
        engine.backend("raw").disk(DISK).cache(raw_image, raw_image.name)
    assert records_of(right) == before
    assert not (engine.host.instances / "web1" / "disk").exists()


def test_section_that_has_another_driver_now_has_another_store(
    right: Engine, make_engine: MakeEngine, raw_image: Template
) -> None:
    """One that tells nothing of its store."""
    before = records_of(right)
    engine = make_engine({"instances_path": str(right.host.instances), "host": "a", "pool.driver": "raw"})
    with pytest.raises(errors.WrongStore, match="which tells nothing of itself"):
        engine.disk("web1").cache(raw_image, raw_image.name)
    engine.cache.leftovers(remove=True)
    assert records_of(right) == before


def test_disk_of_an_instance_that_is_going_is_told_with_its_folder(right: Engine, wrong: Engine) -> None:
    """Its record is passed on by who finishes the destruction."""
    disk = wrong.backend("pool").disk(DISK)
    disk.given_record = right.host.records.of(DISK)
    with pytest.raises(errors.WrongStore, match=rf"remove {right.host.instances}/web1_del\Z"):
        disk.remove()


def test_disk_of_another_store_is_listed_with_what_is_wrong(right: Engine, wrong: Engine) -> None:
    [disk] = wrong.disks()
    told = described_or_state(disk)
    assert (told["instance"], told["name"], told["images_type"], told["size"]) == ("web1", "disk", "pool", None)
    assert "was made in another store" in told["state"]
    [disk] = right.disks()
    assert described_or_state(disk)["state"] == "ok"


def test_pass_keeps_the_record_of_a_disk_of_another_store_and_tells_it(
    right: Engine, wrong: Engine, raw_image: Template
) -> None:
    made_old(right)
    before = records_of(right)
    found = wrong.cache.leftovers(remove=True)
    assert [left for left in found.leftovers if left.kind == "record"] == []
    [line] = [line for line in [*found.unknown, *found.faults] if "web1/disk" in line]
    assert "was made in another store" in line
    wrong.cache.prune()
    assert records_of(right) == before
    assert right.disk("web1").cache(raw_image, raw_image.name).way == "exists"


def test_record_of_an_older_version_is_judged_as_before(right: Engine, wrong: Engine, raw_image: Template) -> None:
    """It does not say which store the disk is in."""
    without_store(right)
    right.disk("web1").resize(64 * Mi)
    assert right.disk("web1").cache(raw_image, raw_image.name).way == "exists"
    made_old(right)
    [left] = [left for left in wrong.cache.leftovers(remove=True).leftovers if left.kind == "record"]
    assert left.removed


def test_disk_that_is_adopted_is_noted_with_its_store(right: Engine, raw_image: Template) -> None:
    noted = right.host.records.of(DISK)
    (right.host.instances / "web1" / OURS).unlink()
    assert right.disk("web1").cache(raw_image, raw_image.name).way == "exists"
    adopted = right.host.records.of(DISK)
    assert noted is not None
    assert adopted is not None
    assert adopted.store == noted.store is not None


def test_disk_that_is_imported_is_noted_with_its_store(tmp_path: Path, raw_image: Template) -> None:
    """As a config drive is."""
    with conforming(AbleBackend, tmp_path, {"folder": str(tmp_path / "able")}) as backend:
        backend.host.make_folder(backend.host.folder(DISK))  # as a spawn does
        import_file(backend.disk(DISK), raw_image, ignore)
        record = backend.host.records.of(DISK)
        assert record is not None
        assert record.store == backend.store_identity()


def test_disk_that_is_a_file_of_the_folder_notes_no_store(make_engine: MakeEngine, raw_image: Template) -> None:
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    assert b"stores" not in records_of(engine)


# Hosts that share a folder, and have a store of that name each


@pytest.fixture
def neighbour(make_host: MakeHost, other_folder: Path, right: Engine) -> Engine:
    return make_host("b", **{"instances_path": str(right.host.instances), "pool.folder": str(other_folder)})


def test_disk_in_another_hosts_own_store_is_that_hosts(right: Engine, neighbour: Engine, raw_image: Template) -> None:
    before = records_of(right)
    for verb in ("create", "resize", "remove", "remove by force"):
        with pytest.raises(errors.DiskElsewhere, match="the host a"):
            VERBS[verb](neighbour.disk("web1"), raw_image)
    with pytest.raises(errors.DiskElsewhere, match="the host a"):
        record_stores.forget(neighbour.disk("web1"))
    assert list(neighbour.disks()) == []
    [disk] = neighbour.disks(all_hosts=True)
    assert "the host a" in described_or_state(disk)["state"]
    assert records_of(right) == before


def test_pass_has_no_fault_for_a_disk_in_another_hosts_own_store(right: Engine, neighbour: Engine) -> None:
    made_old(right)
    before = records_of(right)
    found = neighbour.cache.leftovers(remove=True)
    assert (found.leftovers, found.faults, found.unknown) == ([], [], [])
    assert records_of(right) == before


# The way out, where a store is gone for good


def test_disk_whose_store_is_gone_is_forgotten_on_request_and_made_anew(
    right: Engine, wrong: Engine, raw_image: Template, other_folder: Path, pool_folder: Path
) -> None:
    record_stores.forget(wrong.disk("web1"))
    assert (pool_folder / "web1_disk").exists()
    assert not (right.host.instances / "web1").exists()
    assert wrong.disk("web1").cache(raw_image, raw_image.name).way != "exists"
    assert (other_folder / "web1_disk").exists()
    with pytest.raises(errors.WrongStore):
        right.disk("web1").remove()


def test_forgetting_touches_nothing_of_the_store_that_has_the_name_now(
    right: Engine, wrong: Engine, raw_image: Template, other_folder: Path
) -> None:
    (other_folder / "web1_disk").write_bytes(b"another's")
    record_stores.forget(wrong.disk("web1"))
    assert (other_folder / "web1_disk").read_bytes() == b"another's"


def test_disk_whose_store_is_there_is_not_forgotten(right: Engine) -> None:
    before = records_of(right)
    with pytest.raises(errors.DiskError, match="remove the disk"):
        record_stores.forget(right.disk("web1"))
    assert records_of(right) == before
