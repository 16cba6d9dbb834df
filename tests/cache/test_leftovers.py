"""Leftovers of every kind: they go when nobody can be at them any more, and nothing else does."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cache.conftest import DAY, HOUR, age
from cache.test_prune import holding
from imgbackend import Engine
from imgbackend.bases import fetch
from imgbackend.cache.garbage.collect import Leftover
from imgbackend.cache.garbage.of_disks import Orphans
from imgbackend.state import manifests
from imgbackend.state.shared_failure import SECONDS
from imgbackend.system import promises
from imgbackend.system.process_identity import ProcessIdentity
from imgbackend.types import DiskId, Mi, Progress, Record, StoreLeftover, base_name, ignore
from labs.able import AbleBackend
from labs.contents import bytes_of, partial
from labs.engines import MakeEngine
from labs.templates import Template

pytestmark = pytest.mark.slow

_BASE = base_name("some image")
_OLD = 2 * HOUR


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """One that keeps locks, bases and instances in a folder that is there."""
    made = make_engine({"images_type": "qcow2", "host": "here"})
    for folder in ("_base/.pins", "locks", "web1"):
        (made.host.instances / folder).mkdir(parents=True, exist_ok=True)
    return made


def put(path: Path, seconds: float = _OLD, content: bytes = b"left") -> Path:
    """A file that was last changed so long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def looked(engine: Engine, *, remove: bool = False) -> dict[str, Leftover]:
    """By name; nothing may have been unknown."""
    found = engine.cache.leftovers(remove=remove)
    assert found.faults == []
    assert found.unknown == []
    return {each.name: each for each in found.leftovers}


def promise(engine: Engine, target: Path, owner: ProcessIdentity) -> Path:
    """Somebody said that this file is being filled."""
    note = promises.note_of(engine.host.instances / "locks", target)
    note.write_text(json.dumps({"file": str(target), "bytes": 5 * Mi, **owner.note()}))
    return note


def a_process_that_ended() -> ProcessIdentity:
    """One of this host, with which nothing is at work any more."""
    told = (
        "import json; from imgbackend.system.process_identity import ProcessIdentity as Process; "
        "print(json.dumps(Process.me('here').note()))"
    )
    done = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True, timeout=60)
    return ProcessIdentity.noted(json.loads(done.stdout))


SIMPLE = {
    f"_base/{_BASE}.part": "fetch",
    f"_base/{_BASE}.converted": "fetch",
    f"_base/.{_BASE}.json.tmp": "file",
    f"_base/{_BASE}.json": "manifest",
    f"_base/.pins/.{_BASE}.tmp": "file",
    f"_base/.pins/.{_BASE}@shelf.tmp": "file",
    "web1/.disk.part": "disk",
    "web1/.disk.config.part": "disk",
    "web1/.disks.json.tmp": "file",
    "web1/.disk.info.tmp": "file",
    "web1/.libvirt.xml.tmp": "file",
    f"locks/{_BASE}.failed": "failure",
    f"locks/.{_BASE}.failed.tmp": "file",
    f"locks/{'a' * 40}.reserved": "room",
    "locks/imgbackend-d.gone_disk": "lock",
    "locks/imgbackend-d.web1_disk.eph0": "lock",
    "locks/imgbackend-i.gone": "lock",
    "locks/imgbackend-r.gone": "lock",
    ".direct-4711": "file",
    ".doctor-a1b2c3d4": "file",
}
"""What is a leftover by its name and age alone, and of which kind."""

FOREIGN = [
    f"_base/{_BASE}.part.gz",
    f"_base/x{_BASE}.part",
    "_base/notes.part",
    "_base/notes.json",
    "_base/a-z.converted",
    f"_base/{_BASE}.bad-",
    f"_base/{_BASE}.bad-x",
    f"_base/{_BASE}.bak",
    "_base/.notes.json.tmp",
    f"_base/.{_BASE}.tmp",
    "_base/.pins/.notes.tmp",
    f"_base/.pins/{_BASE}",
    "web1/.notes.part",
    "web1/.disk.info.part",
    "web1/.console.log.tmp",
    "web1/disk.part",
    "web1/deep/.disk.part",
    "web1_resize/.disk.part",
    "snapshots/.disk.part",
    "no_instance/.disk.part",
    "locks/nova-0123456789012345678901234567890123456789",
    f"locks/nova-{_BASE}",
    "locks/nova-storage-registry-lock",
    "locks/imgbackend-d.gone",
    "locks/imgbackend-d.gone_notes",
    "locks/imgbackend-x.gone",
    "locks/notes.failed",
    "locks/notes.reserved",
    "locks/.notes.tmp",
    ".direct-x",
    ".doctor-notes",
    ".disk.part",
    "gone_del/console.log",
    "gone_del/disk",
    "gone_del/disk.info",
]
"""Names of others that are near to ours, Nova's own among them."""


@pytest.mark.parametrize("name", SIMPLE)
def test_old_leftover_is_listed_with_age_and_size_and_goes(engine: Engine, name: str) -> None:
    path = put(engine.host.instances / name, content=b"left" * 4096)
    found = looked(engine)
    assert set(found) == {name}
    left = found[name]
    assert (left.kind, left.store, left.dead, left.removed) == (SIMPLE[name], None, True, False)
    assert left.size >= 16384
    assert abs(time.time() - left.time - _OLD) < 60
    assert left.reason
    assert path.exists(), "a look removed it"
    assert looked(engine, remove=True)[name].removed
    assert not path.exists()
    assert looked(engine) == {}


@pytest.mark.parametrize("name", [name for name, kind in SIMPLE.items() if kind not in ("lock", "failure")])
def test_leftover_that_changed_within_the_lease_stays_where_its_maker_is_not_known(engine: Engine, name: str) -> None:
    path = put(engine.host.instances / name, 59 * 60)
    assert not looked(engine, remove=True)[name].dead
    assert path.exists()


def test_failure_stays_as_long_as_waiters_take_notice(engine: Engine) -> None:
    path = put(engine.host.instances / "locks" / f"{_BASE}.failed", 0)
    assert not looked(engine, remove=True)[f"locks/{_BASE}.failed"].dead
    put(path, SECONDS + 60)
    looked(engine, remove=True)
    assert not path.exists()


def test_names_that_are_not_ours_are_never_touched(engine: Engine, tmp_path: Path) -> None:
    instances = engine.host.instances
    for name in FOREIGN:
        put(instances / name, 99 * DAY, b"{}")
    (instances / "_base" / f"{'c' * 40}.part").mkdir()
    (tmp_path / "theirs").write_text("theirs")
    (instances / "_base" / f"{'d' * 40}.part").symlink_to(tmp_path / "theirs")
    (instances / "web1" / ".disk.swap.part").symlink_to(tmp_path / "theirs")
    before = {path: path.lstat().st_ino for path in instances.rglob("*")}
    assert looked(engine, remove=True) == {}
    done = engine.cache.prune()
    assert (done.faults, done.leftovers) == ([], [])
    found = {path: path.lstat().st_ino for path in instances.rglob("*")}
    registered = {instances / "compute_nodes", instances / "imgbackend_hosts.json"}
    assert {path: number for path, number in found.items() if path not in registered} == before
    assert (tmp_path / "theirs").read_text() == "theirs"


LOCKS = {
    f"_base/{_BASE}.part": f"nova-{_BASE}",
    f"_base/{_BASE}.converted": f"nova-{_BASE}",
    f"_base/{_BASE}.json": f"nova-{_BASE}",
    f"_base/{_BASE}.bad-17": f"nova-{_BASE}",
    f"_base/.pins/.{_BASE}@shelf.tmp": f"nova-{_BASE}",
    "web1/.disk.part": "imgbackend-d.web1_disk",
    "web1/.disks.json.tmp": "imgbackend-r.web1",
    "web1/.libvirt.xml.tmp": "imgbackend-i.web1",
    f"locks/{_BASE}.failed": f"nova-{_BASE}",
}


@pytest.mark.parametrize("name", LOCKS)
def test_live_one_of_another_process_stays_however_old_it_looks(engine: Engine, name: str) -> None:
    path = put(engine.host.instances / name, 9 * DAY)
    with holding(engine.host.instances / "locks" / LOCKS[name]):
        left = looked(engine, remove=True)[name]
    assert not left.dead
    assert "lock is held" in left.reason
    assert path.exists()
    assert looked(engine, remove=True)[name].removed


@pytest.mark.parametrize("kind", ["d.gone_disk", "i.gone", "r.gone"])
def test_held_lock_of_what_is_not_there_yet_is_none(engine: Engine, kind: str) -> None:
    lock = engine.host.instances / "locks" / f"imgbackend-{kind}"
    with holding(lock):
        assert looked(engine, remove=True) == {}
        assert lock.exists()


def test_lock_of_a_disk_that_is_there_stays(engine: Engine, raw_image: Template) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    locks = {path.name for path in (engine.host.instances / "locks").iterdir()}
    assert "imgbackend-d.web1_disk" in locks
    assert looked(engine, remove=True) == {}
    assert {path.name for path in (engine.host.instances / "locks").iterdir()} == locks


def test_look_makes_no_lock_and_a_removal_leaves_none(engine: Engine) -> None:
    put(engine.host.instances / f"_base/{_BASE}.part")
    put(engine.host.instances / "web1/.disk.part")
    looked(engine)
    assert list((engine.host.instances / "locks").iterdir()) == []
    looked(engine, remove=True)
    assert list((engine.host.instances / "locks").iterdir()) == []


# Who made it


def test_leftover_of_a_process_that_is_gone_goes_at_once(engine: Engine) -> None:
    path = put(engine.host.bases / f"{_BASE}.part", 1)
    note = promise(engine, path, a_process_that_ended())
    left = looked(engine, remove=True)
    assert {each.kind for each in left.values()} == {"fetch", "room"}
    assert all(each.removed and "is gone" in each.reason for each in left.values())
    assert not path.exists()
    assert not note.exists()


def test_leftover_of_this_host_before_its_restart_goes_at_once(engine: Engine) -> None:
    path = put(engine.host.bases / f"{_BASE}.part", 1)
    promise(engine, path, dataclasses.replace(ProcessIdentity.me("here"), boot="another boot"))
    assert looked(engine, remove=True)[f"_base/{path.name}"].removed


def test_leftover_of_a_living_process_stays_though_its_lock_is_free_and_it_is_old(engine: Engine) -> None:
    """Where a file system's locks do nothing, the note of its maker does."""
    path = put(engine.host.bases / f"{_BASE}.part", 9 * DAY)
    note = promise(engine, path, ProcessIdentity.me("here"))
    left = looked(engine, remove=True)
    assert not any(each.dead for each in left.values())
    assert path.exists()
    assert note.exists()


def test_number_of_a_process_that_was_given_out_again_is_not_its_maker(engine: Engine) -> None:
    path = put(engine.host.bases / f"{_BASE}.part", 1)
    promise(engine, path, dataclasses.replace(ProcessIdentity.me("here"), started="1"))
    assert looked(engine, remove=True)[f"_base/{path.name}"].removed


def test_leftover_of_another_host_goes_when_its_lease_has_expired(engine: Engine) -> None:
    path = put(engine.host.bases / f"{_BASE}.part", 59 * 60)
    note = promise(engine, path, ProcessIdentity(host="there", boot="another", pid=os.getpid(), started="1"))
    left = looked(engine, remove=True)
    assert not any(each.dead for each in left.values())
    assert "there" in left[f"_base/{path.name}"].reason
    put(path, 61 * 60)
    put(note, 61 * 60, note.read_bytes())
    assert all(each.removed for each in looked(engine, remove=True).values())
    assert not path.exists()


def test_promise_of_another_host_stays_while_its_file_grows(engine: Engine) -> None:
    path = put(engine.host.bases / f"{_BASE}.part", 5)
    note = promise(engine, path, ProcessIdentity(host="there", boot="another", pid=1, started="1"))
    put(note, 9 * HOUR, note.read_bytes())
    assert not looked(engine, remove=True)[f"locks/{note.name}"].dead


# Bases that were put aside, and manifests


def put_aside(engine: Engine, image: Template, seconds: float) -> Path:
    """A base that was found bad so long ago."""
    base = engine.host.bases / image.name
    aside = fetch.quarantine(base)
    return aside.rename(base.with_name(f"{base.name}.bad-{int(time.time() - seconds)}"))


def test_bad_base_is_kept_for_a_day_and_then_goes(engine: Engine, raw_image: Template) -> None:
    engine.disk("web2").cache(raw_image, raw_image.name)
    engine.disk("web2").remove()
    aside = put_aside(engine, raw_image, 23 * HOUR)
    assert "kept" in looked(engine, remove=True)[f"_base/{aside.name}"].reason
    aside = aside.rename(aside.with_name(f"{raw_image.name}.bad-{int(time.time() - 25 * HOUR)}"))
    assert looked(engine, remove=True)[f"_base/{aside.name}"].removed
    assert not aside.exists()


def test_bad_base_on_which_disks_hang_stays_until_a_sound_one_is_there(engine: Engine, raw_image: Template) -> None:
    """It may be the last there is of their content."""
    engine.disk("web1").cache(raw_image, raw_image.name, 9 * Mi)
    aside = put_aside(engine, raw_image, 99 * DAY)
    left = looked(engine, remove=True)
    assert not left[f"_base/{aside.name}"].dead
    assert "web1/disk" in left[f"_base/{aside.name}"].reason
    engine.disk("web1").cache(raw_image, raw_image.name, 9 * Mi)  # brings it back
    assert looked(engine, remove=True)[f"_base/{aside.name}"].removed
    assert bytes_of(engine.disk("web1")) == raw_image.content.read_bytes() + bytes(Mi)


def test_bad_base_stays_where_a_disk_could_not_be_looked_at(engine: Engine, raw_image: Template) -> None:
    engine.disk("web2").cache(raw_image, raw_image.name)
    engine.disk("web2").remove()
    aside = put_aside(engine, raw_image, 99 * DAY)
    (engine.host.instances / "web1" / "disk").symlink_to("nowhere")
    left = {each.name: each for each in engine.cache.leftovers(remove=True).leftovers}
    assert not left[f"_base/{aside.name}"].dead
    assert aside.exists()


def test_manifest_of_a_missing_base_stays_while_a_disk_hangs_on_it(engine: Engine, raw_image: Template) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name, 9 * Mi)
    base = engine.host.bases / raw_image.name
    base.unlink()
    age(base, 9 * DAY)
    assert not looked(engine, remove=True)[f"_base/{base.name}.json"].dead
    assert manifests.read(base) is not None
    engine.disk("web1").remove()
    assert looked(engine, remove=True)[f"_base/{base.name}.json"].removed


def test_manifest_of_a_bad_base_stays_with_it(engine: Engine, raw_image: Template) -> None:
    """A fresh copy has to have the content that it states."""
    engine.disk("web2").cache(raw_image, raw_image.name)
    engine.disk("web2").remove()
    put_aside(engine, raw_image, HOUR)
    age(engine.host.bases / raw_image.name, 9 * DAY)
    assert not any(each.removed for each in looked(engine, remove=True).values())
    assert manifests.read(engine.host.bases / raw_image.name) is not None


# Records, and folders of instances


def record(engine: Engine, instance: str, name: str, seconds: float) -> None:
    owner = engine.host.records.owner(instance)
    made = Record(
        backend="qcow2", driver="qcow2", format="qcow2", way="overlay", time=time.time() - seconds, owner=owner
    )
    engine.host.records.write(DiskId(instance=instance, name=name), made, as_file=True, durable=False)
    then = time.time() - seconds
    os.utime(engine.host.instances / instance / "disks.json", (then, then))


def test_record_without_a_disk_goes_and_those_beside_it_stay(engine: Engine, raw_image: Template) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    record(engine, "web1", "disk.eph0", _OLD)
    assert set(looked(engine)) == {"web1/disks.json: disk.eph0"}
    assert looked(engine, remove=True)["web1/disks.json: disk.eph0"].removed
    assert set(engine.host.records.all("web1")) == {"disk"}
    assert set(engine.host.records.nova_formats("web1")) == {"disk"}
    assert engine.disk("web1").exists()


def test_last_record_of_an_instance_goes_with_its_folder_if_that_is_empty(engine: Engine) -> None:
    record(engine, "web2", "disk", _OLD)
    record(engine, "web3", "disk", _OLD)
    (engine.host.instances / "web3" / "console.log").write_text("theirs")
    looked(engine, remove=True)
    assert not (engine.host.instances / "web2").exists()
    assert (engine.host.instances / "web3" / "console.log").exists()
    assert list((engine.host.instances / "locks").iterdir()) == []


@pytest.mark.parametrize("left", [[], ["disk.info"]])
def test_folder_whose_last_disk_was_being_removed_goes(engine: Engine, left: list[str]) -> None:
    folder = engine.host.instances / "web2"
    for name in left:
        put(folder / name, content=b"{}")
    folder.mkdir(exist_ok=True)
    os.utime(folder, (time.time() - _OLD,) * 2)
    assert looked(engine, remove=True) == {}, "no lock of ours tells that it was ours"
    put(engine.host.instances / "locks" / "imgbackend-r.web2")
    assert set(looked(engine, remove=True)) == {"web2", "locks/imgbackend-r.web2"}
    assert not folder.exists()
    assert looked(engine) == {}


def test_record_that_was_written_just_now_stays(engine: Engine) -> None:
    """The disk is about to be published, by a host whose locks do not reach us."""
    record(engine, "web1", "disk", 60)
    assert not looked(engine, remove=True)["web1/disks.json: disk"].dead
    assert engine.host.records.of(DiskId(instance="web1", name="disk")) is not None


def test_record_of_a_backend_that_cannot_be_opened_stays_and_is_told(engine: Engine) -> None:
    made = Record(backend="lost", driver="lost", format="raw", way="copy", time=0.0)
    engine.host.records.write(DiskId(instance="web1", name="disk"), made, as_file=False, durable=False)
    found = engine.cache.leftovers(remove=True)
    assert (found.leftovers, found.faults) == ([], [])
    assert any("lost" in line for line in found.unknown)
    assert engine.cache.prune().faults == [], "a pass over bases fails for what it does not need"
    assert engine.host.records.of(DiskId(instance="web1", name="disk")) is not None


# Stores


@pytest.fixture
def able(able_engine: Engine) -> Engine:
    """Its store tells what is left in it."""
    able_engine.backend("able")
    return able_engine


def stored(engine: Engine, name: str) -> Path:
    return Path(engine.conf["able"].folder) / name


def test_unfinished_disk_and_base_of_a_store_go_when_they_are_old(able: Engine, raw_image: Template) -> None:
    able.disk("web1").cache(raw_image, raw_image.name)
    whole = {path for path in Path(able.conf["able"].folder).rglob("*") if path.is_file()}
    disk, base = put(stored(able, ".web2_disk.part"), 60), put(stored(able, f"bases/.{_BASE}.part"), 60)
    tags = put(stored(able, f"bases/{_BASE}.tags"), 60, b"{}")
    found = looked(able, remove=True)
    assert {(each.kind, each.store, each.dead) for each in found.values()} == {
        ("disk", "able", False),
        ("base", "able", False),
    }
    for path in (disk, base, tags):
        put(path, _OLD, b"{}")
    assert all(each.removed for each in looked(able, remove=True).values())
    assert {path for path in Path(able.conf["able"].folder).rglob("*") if path.is_file()} == whole
    assert looked(able) == {}


def test_unfinished_base_of_a_store_stays_while_another_host_has_the_store_s_lock(able: Engine) -> None:
    base = put(stored(able, f"bases/.{_BASE}.part"))
    (able.host.instances / "locks").mkdir(parents=True, exist_ok=True)
    with (able.host.instances / "locks" / f"able-{_BASE}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        [left] = looked(able, remove=True).values()
    assert not left.removed
    assert base.exists()


def test_base_of_a_store_that_another_host_published_meanwhile_stays(
    able: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at what is unfinished and the store's lock."""
    able.disk("web1").cache(raw_image, raw_image.name)
    whole, away = stored(able, f"bases/{raw_image.name}"), stored(able, "away")
    whole.rename(away)
    put(whole.with_suffix(".tags"), content=whole.with_suffix(".tags").read_bytes())
    real = AbleBackend.store_lock

    @contextlib.contextmanager
    def publishing(backend: AbleBackend, name: str, progress: Progress = ignore) -> Iterator[None]:
        with real(backend, name, progress):
            away.rename(whole)
            yield

    monkeypatch.setattr(AbleBackend, "store_lock", publishing)
    able.cache.leftovers(remove=True)
    assert whole.exists()
    assert whole.with_suffix(".tags").exists()


def test_record_of_a_disk_that_is_published_meanwhile_stays(
    engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a first look and the disk's lock."""
    engine.disk("web1").cache(raw_image, raw_image.name)
    record(engine, "web1", "disk", _OLD)
    path, away = engine.host.instances / "web1" / "disk", engine.host.instances / "away"
    path.rename(away)
    real = Orphans._of_record

    def publishing(orphans: Orphans, disk: Any) -> Any:
        away.rename(path)
        return real(orphans, disk)

    monkeypatch.setattr(Orphans, "_of_record", publishing)
    assert looked(engine, remove=True) == {}
    assert set(engine.host.records.all("web1")) == {"disk"}
    assert engine.disk("web1").exists()


def test_whole_disk_that_no_record_tells_of_is_listed_and_never_removed(able: Engine, raw_image: Template) -> None:
    able.disk("web1").cache(raw_image, raw_image.name)
    shutil.rmtree(able.host.instances / "web1")
    [left] = [each for each in looked(able, remove=True).values() if each.kind == "disk"]
    assert (left.store, left.dead, left.removed) == ("able", False, False)
    assert "guest's data" in left.reason
    assert stored(able, "web1_disk").exists()


def test_record_of_a_store_s_disk_that_is_gone_goes(able: Engine, raw_image: Template) -> None:
    able.disk("web1").cache(raw_image, raw_image.name)
    stored(able, "web1_disk").unlink()
    records = able.host.instances / "web1" / "disks.json"
    put(records, content=records.read_bytes())
    assert looked(able, remove=True)["web1/disks.json: disk"].removed
    assert not (able.host.instances / "web1").exists()


def test_what_people_put_aside_in_a_store_stays_and_so_does_its_record(
    able: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store knows whose it is, and it is where no disk is; it may be brought back."""
    disk = able.disk("web1")
    disk.cache(raw_image, raw_image.name)
    stored(able, "web1_disk").rename(stored(able, "kept"))
    records = able.host.instances / "web1" / "disks.json"
    put(records, content=records.read_bytes())
    left = StoreLeftover(
        name="kept", disk=disk.id, base=None, allocated=7, time=time.time() - _OLD, kept_because="rename it"
    )
    monkeypatch.setattr(AbleBackend, "leftovers", lambda _: iter([left]))
    [told] = looked(able, remove=True).values()
    assert (told.kind, told.store, told.name, told.size, told.reason) == ("disk", "able", "kept", 7, "rename it")
    assert (told.dead, told.removed) == (False, False)
    assert able.cache.prune().leftovers == []
    assert set(able.host.records.all("web1")) == {"disk"}
    assert stored(able, "kept").exists()


# Passes


def test_pass_removes_leftovers_and_a_dry_one_tells_of_them(engine: Engine) -> None:
    path = put(engine.host.bases / f"{_BASE}.part", content=bytes(8192))
    fresh = put(engine.host.instances / "web1" / ".disk.part", 5)
    done = engine.cache.prune(dry_run=True)
    assert [(each.name, each.dead, each.removed) for each in done.leftovers] == [(f"_base/{path.name}", True, False)]
    assert path.exists()
    done = engine.cache.prune()
    assert [(each.name, each.removed) for each in done.leftovers] == [(f"_base/{path.name}", True)]
    assert not path.exists()
    assert fresh.exists()


def test_leftover_that_cannot_be_removed_is_told_and_the_rest_goes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = put(engine.host.bases / f"{_BASE}.part")
    other = put(engine.host.instances / "web1" / ".disk.part")
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == stuck:
            raise PermissionError(13, "Permission denied", str(path))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    done = engine.cache.prune()
    assert any(stuck.name in fault for fault in done.faults)
    assert stuck.exists()
    assert not other.exists()


def test_clock_that_was_set_back_removes_nothing_too_early(engine: Engine) -> None:
    path = put(engine.host.bases / f"{_BASE}.part", -DAY)
    assert not looked(engine, remove=True)[f"_base/{path.name}"].dead


@pytest.mark.parametrize("broken", ["_base", "web1", "locks", ""])
def test_folder_that_cannot_be_listed_is_told_and_the_rest_goes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    names = [f"_base/{_BASE}.part", "web1/.disk.part", f"locks/{_BASE}.failed", "web2/.disk.part"]
    for name in names:
        put(engine.host.instances / name)
    away, listdir, scandir = str(engine.host.instances / broken), os.listdir, os.scandir

    def refused(real: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any = ".") -> Any:
            if str(path) == away:
                raise PermissionError(13, "Permission denied", away)
            return real(path)

        return look

    monkeypatch.setattr(os, "listdir", refused(listdir))
    monkeypatch.setattr(os, "scandir", refused(scandir))
    found = engine.cache.leftovers(remove=True)
    assert found.faults == []
    assert any(away in line for line in found.unknown)
    monkeypatch.undo()
    stays = {name for name in names if (engine.host.instances / name).exists()}
    assert stays == {name for name in names if name.partition("/")[0] == broken or (not broken and "web" in name)}


def test_broken_records_of_one_instance_are_told_and_the_rest_goes(engine: Engine) -> None:
    """Nor does the lock of a disk go that they may tell of."""
    put(engine.host.instances / "web1" / "disks.json", content=b"{broken")
    put(engine.host.instances / "locks" / "imgbackend-d.web1_disk.eph0")
    part = put(engine.host.bases / f"{_BASE}.part")
    found = engine.cache.leftovers(remove=True)
    assert [each.name for each in found.leftovers] == [f"_base/{part.name}"]
    assert any("disks.json" in line for line in found.unknown)
    assert not part.exists()
    assert (engine.host.instances / "locks" / "imgbackend-d.web1_disk.eph0").exists()


# Real kills

_FETCHER = """
import pickle, sys, time
from imgbackend import Engine
image, overrides = pickle.load(sys.stdin.buffer)

def fetch(target, progress):
    with open(target, "wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        print(flush=True)
        while True:
            time.sleep(0.01)
            progress("fetch", 1 << 20, 8 << 20)

fetch.declared = image.declared
with Engine.from_config([], overrides) as engine:
    engine.disk("web9").cache(fetch, image.name)
"""


@contextlib.contextmanager
def fetching_elsewhere(engine: Engine, image: Template) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process is in the middle of a fetch."""
    argv = [sys.executable, "-c", _FETCHER]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    overrides = {"instances_path": str(engine.host.instances), "host": "here"}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps((image, overrides)))
        process.stdin.close()
        assert process.stdout.readline() == b"\n"
        try:
            yield process
        finally:
            process.kill()


def test_fetch_of_another_process_stays_until_that_is_killed(engine: Engine, raw_image: Template) -> None:
    image = raw_image.but(size=8 * Mi)
    with fetching_elsewhere(engine, image) as process:
        part = engine.host.bases / f"{image.name}.part"
        assert part.exists()
        left = looked(engine, remove=True)
        assert not any(each.dead for each in left.values()), left
        assert part.exists()
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    left = looked(engine, remove=True)
    assert left[f"_base/{part.name}"].removed
    assert "is gone" in left[f"_base/{part.name}"].reason
    assert not partial(engine.host.instances)
