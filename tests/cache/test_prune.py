"""What a pass removes, what it leaves, and what it says; the peer's faults A, B, C, D and J by name."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cache.conftest import DAY, HOUR, actions, age, names
from imgbackend import Engine, errors
from imgbackend.bases import instance_folders
from imgbackend.cache.evict import Removal
from imgbackend.state import manifests
from imgbackend.system import qcow2 as headers
from imgbackend.types import Mi, base_name
from labs.able import AbleBackend
from labs.contents import bytes_of, entries
from labs.engines import MakeEngine
from labs.images import qcow2, qemu_img
from labs.templates import Template

pytestmark = pytest.mark.slow


def base_of(engine: Engine, image: Template) -> Path:
    """The image's base in the folder; no disk hangs on it any more."""
    engine.disk("brief").cache(image, image.name)
    engine.disk("brief").remove()
    return engine.host.bases / image.name


def store_of(engine: Engine) -> AbleBackend:
    backend = engine.backend("able")
    assert isinstance(backend, AbleBackend)
    return backend


@contextlib.contextmanager
def holding(lock: Path) -> Iterator[None]:
    """Another process has a lock's file locked."""
    program = "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    argv = [sys.executable, "-c", program, str(lock)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield
        finally:
            process.stdin.close()


def test_unused_base_goes_when_it_is_old_enough_with_its_manifest(engine: Engine, raw_image: Template) -> None:
    path = base_of(engine, raw_image)
    assert actions(engine) == {("local", raw_image.name): "kept"}
    age(path, 25 * HOUR)
    assert actions(engine, dry_run=True) == {("local", raw_image.name): "would be removed"}
    assert path.exists()
    assert actions(engine) == {("local", raw_image.name): "removed"}
    assert entries(engine.host.instances) == set()
    assert engine.disk("web1").cache(raw_image, raw_image.name).fetched


def test_unused_base_of_a_store_goes_when_it_is_old_enough(able_engine: Engine, raw_image: Template) -> None:
    able_engine.disk("web1").cache(raw_image, raw_image.name)
    path = store_of(able_engine).bases / raw_image.name
    age(path, 25 * HOUR)
    assert actions(able_engine) == {("able", raw_image.name): "kept"}  # the record of a disk names it
    able_engine.disk("web1").remove()
    assert actions(able_engine) == {("able", raw_image.name): "kept"}  # its use was noted by the first pass
    age(path, 25 * HOUR)
    assert actions(able_engine) == {("able", raw_image.name): "removed"}
    assert list(store_of(able_engine).bases.iterdir()) == []


def test_store_that_counts_children_is_believed(
    able_engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    able_engine.disk("web1").cache(raw_image, raw_image.name)
    able_engine.disk("web1").remove()
    path, real = store_of(able_engine).bases / raw_image.name, AbleBackend.find_base
    counted = 2

    def find(backend: AbleBackend, name: str) -> object:
        found = real(backend, name)
        return found and replace(found, children=counted)

    monkeypatch.setattr(AbleBackend, "find_base", find)
    age(path, 25 * HOUR)
    [base] = able_engine.cache.bases().bases
    assert (base.users, base.disks) == (2, ())
    assert actions(able_engine) == {("able", raw_image.name): "kept"}
    counted = 0
    age(path, 25 * HOUR)
    assert actions(able_engine) == {("able", raw_image.name): "removed"}


def test_store_that_does_not_let_a_base_go_keeps_it(
    able_engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host's disk hangs on it, which no record here tells of."""
    able_engine.disk("web1").cache(raw_image, raw_image.name)
    able_engine.disk("web1").remove()
    age(store_of(able_engine).bases / raw_image.name, 25 * HOUR)

    def busy(_backend: AbleBackend, name: str) -> None:
        raise errors.DiskBusy(f"{name} has clones")

    monkeypatch.setattr(AbleBackend, "remove_base", busy)
    done = able_engine.cache.prune()
    assert done.faults == []
    assert [(each.action, "has clones" in each.reason) for each in done.outcomes] == [("kept", True)]


def test_fault_a_base_of_a_rescue_disk_stays(engine: Engine, raw_image: Template, qcow2_image: Template) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    engine.disk("web1", "disk.rescue").cache(qcow2_image, qcow2_image.name)
    for image in (raw_image, qcow2_image):
        age(engine.host.bases / image.name, 9 * DAY)
    assert set(actions(engine).values()) == {"kept"}
    assert bytes_of(engine.disk("web1", "disk.rescue")) == raw_image.content.read_bytes()


@pytest.mark.parametrize("folder", ["web1_resize", "web1_del", "renamed"])
def test_base_of_a_disk_in_a_folder_that_nova_renamed_stays(
    engine: Engine, raw_image: Template, instances: Path, folder: str
) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    (instances / "web1").rename(instances / folder)
    age(engine.host.bases / raw_image.name, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "kept"}
    [base] = engine.cache.bases().bases
    assert base.disks == (f"{folder}/disk",)


def test_base_that_a_file_below_an_instance_s_folder_hangs_on_stays(
    engine: Engine, raw_image: Template, instances: Path
) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    (instances / "web1" / "kept").mkdir()
    (instances / "web1" / "disk").rename(instances / "web1" / "kept" / "old.qcow2")
    age(engine.host.bases / raw_image.name, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "kept"}


def test_base_at_the_end_of_a_chain_stays(engine: Engine, raw_image: Template, instances: Path) -> None:
    """A file on a file on a base, by a relative name, and one on a snapshot that is in no instance's folder."""
    engine.disk("web1").cache(raw_image, raw_image.name)
    (instances / "snapshots").mkdir()
    (instances / "web1" / "disk").rename(instances / "snapshots" / "state")
    (instances / "web2").mkdir()
    options = ["create", "-q", "-f", "qcow2", "-F", "qcow2"]
    qemu_img(*options, "-b", str(instances / "snapshots" / "state"), str(instances / "web2" / "disk.delta"))
    (instances / "web1" / "disks.json").unlink()
    age(engine.host.bases / raw_image.name, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "kept"}
    (instances / "web2" / "disk.delta").unlink()
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", f"../_base/{raw_image.name}",
             str(instances / "snapshots" / "state"))  # fmt: skip
    (instances / "snapshots" / "state").rename(instances / "web1" / "other")
    age(engine.host.bases / raw_image.name, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "kept"}


def test_fault_b_and_names_that_are_not_ours_are_never_touched(
    engine: Engine, raw_image: Template, instances: Path, tmp_path: Path
) -> None:
    base_of(engine, raw_image)
    odd = ["notes.txt", "a" * 39, "A" * 40, "a" * 40 + "_big", "a" * 41, "gen-x", "swap_", f"{raw_image.name}.bad-x"]
    for name in odd:
        (instances / "_base" / name).write_text("mine")
    (instances / "_base" / ("d" * 40)).mkdir()
    (instances / "_base" / ("e" * 40)).symlink_to(tmp_path)
    for path in (instances / "_base").iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    assert actions(engine) == {("local", raw_image.name): "removed"}
    assert {path.name for path in (instances / "_base").iterdir()} == {*odd, "d" * 40, "e" * 40}


def test_fault_c_base_of_the_second_ephemeral_disk_stays(
    engine: Engine, raw_image: Template, qcow2_image: Template
) -> None:
    engine.disk("web1", "disk.eph0").cache(raw_image, raw_image.name)
    engine.disk("web1", "disk.eph1").cache(qcow2_image, qcow2_image.name)
    for image in (raw_image, qcow2_image):
        age(engine.host.bases / image.name, 9 * DAY)
    assert set(actions(engine).values()) == {"kept"}


def test_fault_d_lock_file_stays_whether_or_not_the_base_does(engine: Engine, raw_image: Template) -> None:
    path = base_of(engine, raw_image)
    lock = engine.host.instances / "locks" / f"nova-{raw_image.name}"
    before = lock.stat().st_ino
    assert actions(engine) == {("local", raw_image.name): "kept"}
    age(path, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "removed"}
    assert lock.stat().st_ino == before


def test_fault_j_least_recently_used_go_where_the_cache_is_too_large(
    make_engine: MakeEngine, raw_image: Template
) -> None:
    engine, made = make_engine({"images_type": "qcow2"}), {}
    for hours in (2, 5, 3):
        image = raw_image.but(image_id=f"used {hours} h ago")
        made[hours] = base_of(engine, image)
        age(made[hours], hours * HOUR)
    done = make_engine({"images_type": "qcow2", "image_cache.max_size": 5 * Mi}).cache.prune()
    assert done.faults == []
    assert {hours for hours, path in made.items() if path.exists()} == {2, 3}
    assert [each.reason for each in done.outcomes if each.action == "removed"] == [
        "least recently used, and the bases take more than max_size"
    ]


def test_cache_that_cannot_be_made_small_enough_is_told_with_what_is_missing(
    make_engine: MakeEngine, raw_image: Template
) -> None:
    base_of(make_engine({"images_type": "qcow2"}), raw_image)
    done = make_engine({"image_cache.max_size": Mi, "image_cache.min_free": 1 << 60}).cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    over, short = done.faults
    assert "bytes more than max_size" in over
    assert "min_free" in short


def test_nothing_goes_within_its_lease_whatever_else_is_allowed(make_engine: MakeEngine, raw_image: Template) -> None:
    told = {"remove_unused_original_minimum_age_seconds": 0, "max_size": 0, "min_free": 1 << 60}
    path = base_of(make_engine({"images_type": "qcow2"}), raw_image)
    engine = make_engine({f"image_cache.{key}": value for key, value in told.items()})
    age(path, 59 * 60)
    assert [each.action for each in engine.cache.prune().outcomes] == ["kept"]
    age(path, 61 * 60)
    assert [each.action for each in engine.cache.prune().outcomes] == ["removed"]


def test_touch_by_nova_is_a_lease_too(engine: Engine, raw_image: Template) -> None:
    """It touches the base, and knows of no manifest."""
    path = base_of(engine, raw_image)
    age(path, 9 * DAY)
    os.utime(path)
    assert actions(engine) == {("local", raw_image.name): "kept"}


def test_pass_notes_the_use_of_what_is_used_for_nova_as_well(engine: Engine, raw_image: Template) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    path = engine.host.bases / raw_image.name
    age(path, 23 * HOUR)
    before = time.time()
    engine.cache.prune(dry_run=True)
    assert path.stat().st_mtime < before - 22 * HOUR
    engine.cache.prune()
    for each in (path, manifests.path_of(path)):
        assert each.stat().st_mtime >= before - 1


def test_base_used_in_the_future_stays_and_begins_to_age_now(engine: Engine, raw_image: Template) -> None:
    """The clock was set back."""
    path = base_of(engine, raw_image)
    age(path, -400 * DAY)
    assert actions(engine) == {("local", raw_image.name): "kept"}
    assert abs(path.stat().st_mtime - time.time()) < HOUR
    age(path, 25 * HOUR)
    assert actions(engine) == {("local", raw_image.name): "removed"}


def test_base_whose_lock_is_held_stays_and_nobody_is_waited_for(engine: Engine, raw_image: Template) -> None:
    path = base_of(engine, raw_image)
    age(path, 9 * DAY)
    with holding(engine.host.instances / "locks" / f"nova-{raw_image.name}"):
        done = engine.cache.prune()
    assert [(each.action, each.reason) for each in done.outcomes] == [("kept", "its lock is held: it is being used")]
    assert path.exists()


Meanwhile = Callable[[Engine, Path], None]


def _used(_engine: Engine, path: Path) -> None:
    os.utime(manifests.path_of(path))


def _pinned(engine: Engine, path: Path) -> None:
    engine.host.pins.set(path.name)


def _moved_in(engine: Engine, path: Path) -> None:
    """From elsewhere, by somebody who notes no use."""
    (engine.host.instances / "guest").mkdir()
    target = engine.host.instances / "guest" / "disk"
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(path), "-F", "raw", str(target))


def _moved_within(engine: Engine, path: Path) -> None:
    """Into a folder that was looked at already."""
    target = engine.host.instances / "web1" / "disk.rescue"
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(path), "-F", "raw", str(target))


def _gone(_engine: Engine, path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("meanwhile", [_used, _pinned, _moved_in, _moved_within, _gone])
def test_base_is_looked_at_again_under_its_lock(
    engine: Engine, raw_image: Template, qcow2_image: Template, monkeypatch: pytest.MonkeyPatch, meanwhile: Meanwhile
) -> None:
    """What happens between the look at all disks and the lock is seen."""
    engine.disk("web1").cache(qcow2_image, qcow2_image.name)
    path, real = base_of(engine, raw_image), Removal.remove
    age(path, 9 * DAY)

    def remove(self: Removal, verdict: object) -> object:
        meanwhile(engine, path)
        return real(self, verdict)  # type: ignore[arg-type]  # what it was called with

    monkeypatch.setattr(Removal, "remove", remove)
    assert actions(engine)["local", raw_image.name] == ("gone" if meanwhile is _gone else "kept")
    assert path.exists() == (meanwhile is not _gone)


def test_folders_renamed_while_they_are_looked_at_are_not_missed(
    engine: Engine, raw_image: Template, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``web1`` was listed, and is ``web1_resize`` when it is its turn."""
    engine.disk("web1").cache(raw_image, raw_image.name)
    age(engine.host.bases / raw_image.name, 9 * DAY)
    real, listed = instance_folders.instances, list[list[str]]()

    def rename_once(host: object) -> list[str]:
        listed.append(real(engine.host))
        if len(listed) == 1:
            (instances / "web1").rename(instances / "web1_resize")
        return listed[-1]

    monkeypatch.setattr(instance_folders, "instances", rename_once)
    assert actions(engine) == {("local", raw_image.name): "kept"}
    assert listed[0] == ["web1"]


def test_file_renamed_while_its_folder_is_looked_at_is_not_missed(
    engine: Engine, raw_image: Template, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    age(engine.host.bases / raw_image.name, 9 * DAY)
    (instances / "web1" / "disk").rename(instances / "web1" / ".disk.part")
    real = headers.read

    def rename_first(path: Path | str) -> headers.Qcow2Header:
        if Path(path).name == ".disk.part":
            Path(path).rename(Path(path).with_name("disk"))
        return real(path)

    monkeypatch.setattr(headers, "read", rename_first)
    assert actions(engine) == {("local", raw_image.name): "kept"}


def test_pass_over_nothing_does_nothing(engine: Engine) -> None:
    assert actions(engine) == {}
    shutil.rmtree(engine.host.instances)
    assert actions(engine) == {}
    assert not engine.host.instances.exists()


def test_base_under_a_qcow2_base_stays(make_engine: MakeEngine, raw_image: Template, instances: Path) -> None:
    """No base of ours refers to another; what an older tool left may."""
    engine = make_engine({"images_type": "qcow2"})
    below = base_of(engine, raw_image)
    upper = below.with_name(base_name("upper"))
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(below), "-F", "raw", str(upper))
    (instances / "web1").mkdir()
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(upper), "-F", "qcow2", str(instances / "web1" / "disk"))
    for path in (below, upper):
        age(path, 9 * DAY)
    assert actions(engine) == {("local", below.name): "kept", ("local", upper.name): "kept"}


def test_same_base_in_the_folder_and_in_a_store_is_two(make_able: Callable[..., Engine], raw_image: Template) -> None:
    engine = make_able()
    engine.disk("web1", images_type="qcow2").cache(raw_image, raw_image.name)
    engine.disk("web2").cache(raw_image, raw_image.name)
    found = {base.store: base for base in engine.cache.bases().bases}
    assert {store: base.name for store, base in found.items()} == {None: raw_image.name, "able": raw_image.name}
    assert {store: base.disks for store, base in found.items()} == {None: ("web1/disk",), "able": ("web2/disk",)}
    assert found["able"].digest == found[None].digest
    engine.disk("web1").remove()
    for path in (engine.host.bases, store_of(engine).bases):
        age(path / raw_image.name, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "removed", ("able", raw_image.name): "kept"}


def test_store_is_found_by_records_after_images_type_was_changed(
    make_able: Callable[..., Engine], raw_image: Template
) -> None:
    make_able().disk("web1").cache(raw_image, raw_image.name)
    assert names(make_able({"images_type": "qcow2"}), "able") == {raw_image.name}


@pytest.mark.parametrize("images_type", ["able", "qcow2"])
def test_store_that_cannot_be_opened_is_told_and_the_rest_is_done(
    make_able: Callable[..., Engine], raw_image: Template, tmp_path: Path, images_type: str
) -> None:
    path = base_of(make_able({"images_type": "qcow2"}), raw_image)
    age(path, 9 * DAY)
    (tmp_path / "blocked").write_text("no folder")
    engine = make_able({"images_type": images_type, "able.folder": str(tmp_path / "blocked" / "able")})
    listing = engine.cache.bases()
    assert [base.name for base in listing.bases] == [raw_image.name]
    [fault] = listing.faults
    assert "the backend able cannot be opened" in fault
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["removed"]
    assert done.faults == [fault]


def test_store_that_fails_when_it_is_listed_is_told_and_the_rest_is_done(
    able_engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    able_engine.disk("web1", images_type="qcow2").cache(raw_image, raw_image.name)

    def fail(_backend: AbleBackend) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(AbleBackend, "list_bases", fail)
    listing = able_engine.cache.bases()
    assert [base.store for base in listing.bases] == [None]
    [fault] = listing.faults
    assert fault.startswith("the bases of able cannot be listed")


def test_qcow2_that_is_recorded_and_cannot_be_read_lets_no_base_go(
    engine: Engine, raw_image: Template, qcow2_image: Template, instances: Path
) -> None:
    engine.disk("web1").cache(qcow2_image, qcow2_image.name)
    path = base_of(engine, raw_image)
    age(path, 9 * DAY)
    disk, records = instances / "web1" / "disk", instances / "web1" / "disks.json"
    disk.write_bytes(b"QFI\xfb garbage")
    content = json.loads(records.read_text())
    del content["disks"]["disk"]["base"]  # where it is on record, that base alone is held
    records.write_text(json.dumps(content))
    done = engine.cache.prune()
    assert {each.action for each in done.outcomes} == {"kept"}
    [fault] = done.faults
    assert str(disk) in fault
    assert path.exists()


@pytest.mark.parametrize("name", ["disks.json", "disk.info"])
def test_record_that_is_broken_lets_no_base_go(engine: Engine, raw_image: Template, instances: Path, name: str) -> None:
    path = base_of(engine, raw_image)
    age(path, 9 * DAY)
    (instances / "web1").mkdir()
    (instances / "web1" / name).write_text("{")
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    [fault] = done.faults
    assert name in fault


@pytest.mark.parametrize("target", ["disk", "nothing"])
def test_link_that_cannot_be_followed_lets_no_base_go(
    engine: Engine, raw_image: Template, qcow2_image: Template, instances: Path, target: str
) -> None:
    """It has the name of a disk: an operator may have put the disk elsewhere, where nothing is mounted now."""
    engine.disk("web1").cache(qcow2_image, qcow2_image.name)
    path = base_of(engine, raw_image)
    age(path, 9 * DAY)
    disk = instances / "web1" / "disk"
    disk.unlink()
    disk.symlink_to(target)
    done = engine.cache.prune()
    assert {each.action for each in done.outcomes} == {"kept"}
    [fault] = done.faults
    assert str(disk) in fault
    assert path.exists()


def test_file_recorded_as_raw_is_not_read(make_engine: MakeEngine, raw_image: Template, instances: Path) -> None:
    """Its guest has written a header there that refers to a base."""
    engine = make_engine({"images_type": "raw"})
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    path = engine.host.bases / raw_image.name
    forged = instances.with_name("forged")
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(path), "-F", "raw", str(forged))
    with (instances / "web1" / "disk").open("r+b") as file:
        file.write(forged.read_bytes())
    age(path, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "removed"}


@pytest.mark.parametrize("target", ["/etc/passwd", "json:{}", "nbd://127.0.0.1/x"])
def test_header_that_leads_elsewhere_is_told_and_counts_for_nothing(
    engine: Engine, raw_image: Template, instances: Path, target: str
) -> None:
    path = base_of(engine, raw_image)
    age(path, 9 * DAY)
    (instances / "web1").mkdir()
    disk = qcow2(instances / "web1" / "disk", Mi)
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", target, str(disk))
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["removed"]
    assert done.faults == []
    [told] = done.foreign
    assert str(disk) in told
    assert target in told


def test_log_that_is_somebody_else_s_stops_nothing(engine: Engine, raw_image: Template, instances: Path) -> None:
    path = base_of(engine, raw_image)
    age(path, 9 * DAY)
    (instances / "web1").mkdir()
    (instances / "web1" / "console.log").symlink_to("console.log")  # as little to be read as another user's
    assert actions(engine) == {("local", raw_image.name): "removed"}


def test_base_that_cannot_be_removed_is_told(
    engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = base_of(engine, raw_image)
    age(path, 9 * DAY)
    real = Path.unlink

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        real(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["failed"]
    [fault] = done.faults
    assert str(path) in fault
    assert manifests.path_of(path).exists()


def test_disk_that_is_made_in_the_middle_of_a_pass_keeps_its_base_without_any_lease(
    make_engine: MakeEngine, raw_image: Template, qcow2_image: Template
) -> None:
    """Shortly after a look at all folders, which is not repeated for each base."""
    ages = {"lease_seconds": 0, "remove_unused_original_minimum_age_seconds": 0}
    engine = make_engine({"images_type": "qcow2"} | {f"image_cache.{name}": value for name, value in ages.items()})
    first, second = sorted((raw_image, qcow2_image), key=lambda image: image.name)
    for image in (first, second):
        base_of(engine, image)
    asked: list[None] = []

    def create_before_the_second() -> bool:
        asked.append(None)
        if len(asked) == 2:
            engine.disk("web1").cache(second, second.name)
        return False

    done = engine.cache.prune(stop=create_before_the_second)
    assert {each.base.name: each.action for each in done.outcomes} == {first.name: "removed", second.name: "kept"}
    assert engine.disk("web1").cache(second, second.name).fetched is False
