"""Records: disks.json and Nova's disk.info, what they say, and what is done where they are broken."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.state.records import Records
from imgbackend.system.locks import Locks
from imgbackend.types import DiskId, Mi, Owner, Record

DISK = DiskId(instance="web1", name="disk")
RESCUE = DiskId(instance="web1", name="disk.rescue")
RECORD = Record(
    backend="qcow2", driver="qcow2", format="qcow2", way="overlay", time=1.5, image_id="i", base="b", digest="d"
)


@pytest.fixture
def records(instances: Path) -> Records:
    return Records(instances, Locks(instances / "locks"))


def test_what_is_written_is_read_again_by_anybody(records: Records, instances: Path) -> None:
    records.write(DISK, RECORD, as_file=True, durable=True)
    assert Records(instances, Locks(instances / "locks")).of(DISK) == RECORD
    assert records.of(RESCUE) is None


def test_disk_info_is_written_as_nova_writes_it(records: Records, instances: Path) -> None:
    records.write(DISK, RECORD, as_file=True, durable=True)
    assert json.loads((instances / "web1" / "disk.info").read_text()) == {str(instances / "web1" / "disk"): "qcow2"}


def test_a_disk_that_is_no_file_is_not_in_disk_info(records: Records, instances: Path) -> None:
    records.write(DISK, RECORD, as_file=False, durable=True)
    assert not (instances / "web1" / "disk.info").exists()


def test_each_disk_has_its_own_record_and_keeps_it_when_another_goes(records: Records) -> None:
    records.write(DISK, RECORD, as_file=True, durable=True)
    records.write(RESCUE, RECORD, as_file=True, durable=False)
    records.forget(DISK, durable=True)
    assert records.all("web1") == {"disk.rescue": RECORD}
    assert records.nova_formats("web1") == {"disk.rescue": "qcow2"}


def test_with_the_last_disk_the_files_the_folder_and_the_lock_go(records: Records, instances: Path) -> None:
    records.write(DISK, RECORD, as_file=True, durable=True)
    records.forget(DISK, durable=True)
    assert [path for path in instances.rglob("*") if path.name != "locks"] == []


def test_a_folder_with_other_files_stays(records: Records, instances: Path) -> None:
    records.write(DISK, RECORD, as_file=True, durable=True)
    (instances / "web1" / "console.log").touch()
    records.forget(DISK, durable=True)
    assert [path.name for path in (instances / "web1").iterdir()] == ["console.log"]


def test_forgetting_what_is_not_known_does_nothing(records: Records, instances: Path) -> None:
    records.forget(DISK, durable=True)
    assert list(instances.iterdir()) == []


def test_writing_the_same_again_does_not_write(records: Records, instances: Path) -> None:
    records.write(DISK, RECORD, as_file=True, durable=True)
    before = {path: path.stat().st_ino for path in (instances / "web1").iterdir()}
    records.write(DISK, RECORD, as_file=True, durable=True)
    assert {path: path.stat().st_ino for path in (instances / "web1").iterdir()} == before


BROKEN = ["{", "[]", "null", "7", "\x00" * 512, '{"disks": []}', '{"disks": {"disk": 1}}']


@pytest.mark.parametrize(
    "content", [*BROKEN, '{"disks": {"disk": {"format": "raw"}}}', '{"disks": {"disk": {"x": 1}}}']
)
def test_a_broken_disks_json_is_an_error_that_names_the_file(records: Records, instances: Path, content: str) -> None:
    (instances / "web1").mkdir()
    path = instances / "web1" / "disks.json"
    path.write_text(content)
    with pytest.raises(errors.DiskError, match=str(path)) as caught:
        records.of(DISK)
    assert "\n" not in str(caught.value)
    assert path.read_text() == content


@pytest.mark.parametrize("content", ["raw", "[]", '{"/i/web1/disk": 5}', '{"/i/web1/disk": {}}', ""])
def test_a_broken_disk_info_is_an_error_and_no_guess(records: Records, instances: Path, content: str) -> None:
    (instances / "web1").mkdir()
    path = instances / "web1" / "disk.info"
    path.write_text(content)
    with pytest.raises(errors.DiskError, match=str(path)):
        records.nova_format(DISK)


@pytest.mark.parametrize("name", ["disks.json", "disk.info"])
def test_a_broken_file_is_not_written_over(records: Records, instances: Path, name: str) -> None:
    (instances / "web1").mkdir()
    (instances / "web1" / name).write_text("{")
    with pytest.raises(errors.DiskError):
        records.write(DISK, RECORD, as_file=True, durable=True)
    assert (instances / "web1" / name).read_text() == "{"


def test_nova_keys_count_wherever_the_instances_were_when_nova_wrote_them(records: Records, instances: Path) -> None:
    (instances / "web1").mkdir()
    told = {"/var/lib/nova/instances/web1/disk": "raw", "/elsewhere/web2/disk.local": "qcow2"}
    (instances / "web1" / "disk.info").write_text(json.dumps(told))
    assert records.nova_formats("web1") == {"disk": "raw"}
    assert records.nova_format(DISK) == "raw"


def test_the_key_that_nova_wrote_is_kept_and_changed_not_doubled(records: Records, instances: Path) -> None:
    (instances / "web1").mkdir()
    path = instances / "web1" / "disk.info"
    path.write_text(json.dumps({"/var/lib/nova/instances/web1/disk": "raw"}))
    records.write(DISK, RECORD, as_file=True, durable=True)
    assert json.loads(path.read_text()) == {"/var/lib/nova/instances/web1/disk": "qcow2"}
    records.forget(DISK, durable=True)
    assert not path.exists()


def test_threads_that_record_disks_of_one_instance_lose_none(records: Records) -> None:
    disks = [DiskId(instance="web1", name=f"disk.eph{number}") for number in range(8)]

    def work(disk: DiskId) -> None:
        for _ in range(5):
            records.write(disk, RECORD, as_file=True, durable=False)
            records.forget(disk, durable=False)
        records.write(disk, RECORD, as_file=True, durable=False)

    threads = [threading.Thread(target=work, args=(disk,)) for disk in disks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(records.all("web1")) == set(records.nova_formats("web1")) == {disk.name for disk in disks}


GOOD = {"backend": "qcow2", "driver": "qcow2", "format": "qcow2", "way": "overlay", "time": 1.5}


ODD_FIELDS: list[tuple[str, object]] = [
    *[(field, value) for field in GOOD for value in (None, "", True)[: 3 if field == "time" else 1]],
    *[(field, 5) for field in ("backend", "driver", "format", "way", "base", "digest", "image_id")],
    *[("time", time) for time in ("x", -1, 1e300, float("nan"))],
    ("base", []),
    ("unknown", "x"),
]
ODD_OWNERS: list[object] = [
    *[{"host": host, "folder": "f"} for host in ("", "\ud800", "\x1b[31m")],
    {"host": 5, "folder": "f"},
    {"host": None, "folder": None},
    {"host": "a", "folder": ["f"]},
    {"host": "a", "folder": ""},
    {"host": "a"},
    "a",
    5,
]
ODD: list[object] = [
    *[{"disks": {"disk": {**GOOD, field: value}}} for field, value in ODD_FIELDS],
    *[{"owner": owner} for owner in ODD_OWNERS],
    {"disks": {"disk": GOOD}, "identities": ["disk"]},
    {"disks": {"disk": GOOD}, "identities": {"disk": 7}},
    {"disks": {"disk": GOOD}, "stores": ["disk"]},
    *[{"disks": {"disk": GOOD}, "stores": {"disk": store}} for store in (7, "", ["x"], "\x1b[31m", "two\nlines")],
    {"disks": {"disk": {**GOOD, "store": "x"}}},
    {"disks": ["disk"]},
    {"disks": {"disk": 1}},
    {"disks": {"disk": {}}},
]


@pytest.mark.parametrize("content", ODD, ids=repr)
def test_records_that_are_not_of_their_types_are_an_error_that_names_the_file(
    records: Records, instances: Path, content: object
) -> None:
    (instances / "web1").mkdir()
    (instances / "web1" / "disks.json").write_text(json.dumps(content))
    with pytest.raises(errors.DiskError, match=r"web1/disks.json is not what imgbackend writes"):
        records.all("web1")


def test_record_that_is_larger_than_any_is_broken(records: Records, instances: Path) -> None:
    """It is read for each disk."""
    (instances / "web1").mkdir()
    (instances / "web1" / "disks.json").write_text("{" + " " * 2 * Mi + "}")
    with pytest.raises(errors.DiskError, match=r"disks.json is broken \(2097154 bytes"):
        records.all("web1")


def test_record_that_is_nested_too_deep_is_broken(records: Records, instances: Path) -> None:
    (instances / "web1").mkdir()
    (instances / "web1" / "disks.json").write_text("[" * 100_000)
    with pytest.raises(errors.DiskError, match=r"disks.json is broken"):
        records.all("web1")


@pytest.mark.parametrize("name", ["disks.json", "disk.info"])
def test_records_that_are_a_link_to_nothing_are_not_taken_for_none(
    records: Records, instances: Path, name: str
) -> None:
    (instances / "web1").mkdir()
    (instances / "web1" / name).symlink_to(instances / "not mounted")
    with pytest.raises(errors.DiskError, match=rf"{name} is a link to nothing that is here now; mount"):
        records.write(DISK, RECORD, as_file=True, durable=False)
    assert (instances / "web1" / name).is_symlink()


def test_disk_of_an_instance_that_became_anothers_is_not_recorded(records: Records) -> None:
    mine, theirs = Owner(host="a", folder="f"), Owner(host="b", folder="f")
    records.write(DISK, replace(RECORD, owner=theirs), as_file=True, durable=False)
    with pytest.raises(errors.DiskElsewhere, match="the host b"):
        records.write(RESCUE, replace(RECORD, owner=mine), as_file=True, durable=False)
    assert records.all("web1") == {"disk": replace(RECORD, owner=theirs)}


def test_broken_records_are_put_aside_and_no_others(records: Records, instances: Path) -> None:
    records.write(DISK, RECORD, as_file=True, durable=False)
    assert records.put_aside_broken("web1") == []
    for number in ("", "1"):
        (instances / "web1" / "disks.json").write_text("{")
        assert records.put_aside_broken("web1") == [instances / "web1" / f"disks.json.broken{number}"]
    assert records.nova_formats("web1") == {"disk": "qcow2"}
    (instances / "web1" / "disks.json").symlink_to(instances / "not mounted")
    assert records.put_aside_broken("web1") == []
    assert records.put_aside_broken("web2") == []


def test_store_stands_beside_the_disks_where_older_versions_pass_it_over(records: Records, instances: Path) -> None:
    """They make a record of all that stands in a disk's own fields."""
    noted = replace(RECORD, identity="i" * 32, store="pool 3 of the cluster c")
    records.write(DISK, noted, as_file=False, durable=False)
    records.write(RESCUE, RECORD, as_file=False, durable=False)
    content = json.loads((instances / "web1" / "disks.json").read_text())
    assert content["stores"] == {"disk": "pool 3 of the cluster c"}
    assert Record(**content["disks"]["disk"]) == RECORD
    assert records.all("web1") == {"disk": noted, "disk.rescue": RECORD}


def test_store_goes_with_its_disk(records: Records, instances: Path) -> None:
    records.write(DISK, replace(RECORD, store="pool 3"), as_file=False, durable=False)
    records.write(RESCUE, replace(RECORD, store="pool 3"), as_file=False, durable=False)
    records.forget(DISK, durable=False)
    assert json.loads((instances / "web1" / "disks.json").read_text())["stores"] == {"disk.rescue": "pool 3"}
    records.write(RESCUE, RECORD, as_file=False, durable=False)
    assert "stores" not in json.loads((instances / "web1" / "disks.json").read_text())
