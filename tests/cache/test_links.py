"""What an operator, an older tool or a guest may have put into the folders of instances: links, long names, lies."""

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from cache.conftest import DAY, actions, age
from cache.test_prune import base_of
from imgbackend import Engine
from imgbackend.cache.evict import Removal
from labs.contents import bytes_of
from labs.images import qemu_img
from labs.templates import Template

pytestmark = pytest.mark.slow


def moved_away(engine: Engine, image: Template, tmp_path: Path) -> Path:
    """The folder of an instance with a disk is on another file system, and a link is in its place."""
    engine.disk("web1").cache(image, image.name)
    target = tmp_path / "elsewhere" / "web1"
    target.parent.mkdir()
    shutil.move(engine.host.instances / "web1", target)
    (engine.host.instances / "web1").symlink_to(target)
    age(engine.host.bases / image.name, 9 * DAY)
    return target


def test_base_of_a_disk_in_a_folder_that_is_a_link_stays(engine: Engine, raw_image: Template, tmp_path: Path) -> None:
    moved_away(engine, raw_image, tmp_path)
    assert actions(engine) == {("local", raw_image.name): "kept"}
    [base] = engine.cache.bases().bases
    assert base.disks == ("web1/disk",)
    assert [str(disk.id) for disk in engine.disks()] == ["web1/disk"]
    assert bytes_of(engine.disk("web1")) == raw_image.content.read_bytes()


def test_link_to_a_folder_that_is_not_mounted_lets_no_base_go(
    engine: Engine, raw_image: Template, tmp_path: Path
) -> None:
    target = moved_away(engine, raw_image, tmp_path)
    target.rename(tmp_path / "not mounted")
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    [fault] = done.faults
    assert str(engine.host.instances / "web1") in fault
    (tmp_path / "not mounted").rename(target)
    assert actions(engine) == {("local", raw_image.name): "kept"}


def test_link_that_is_no_instance_s_stops_nothing(engine: Engine, raw_image: Template) -> None:
    path = base_of(engine, raw_image)
    age(path, 9 * DAY)
    (engine.host.instances / ".trash").symlink_to("nowhere")
    (engine.host.instances / "round").symlink_to(".")
    assert actions(engine) == {("local", raw_image.name): "removed"}


def test_leftovers_of_an_instance_behind_a_link_go_and_the_link_stays(
    engine: Engine, raw_image: Template, tmp_path: Path
) -> None:
    target = moved_away(engine, raw_image, tmp_path)
    (target / ".disk.eph0.part").write_text("left")
    os.utime(target / ".disk.eph0.part", (0, 0))
    found = engine.cache.leftovers(remove=True)
    assert [(each.name, each.removed) for each in found.leftovers] == [("web1/.disk.eph0.part", True)]
    engine.disk("web1").remove()
    os.utime(target, (0, 0))
    (engine.host.instances / "locks" / "imgbackend-r.web1").touch()
    assert engine.cache.leftovers(remove=True).faults == []
    assert (engine.host.instances / "web1").is_symlink()


def test_base_folder_that_is_a_link_is_managed_as_any_other(
    engine: Engine, raw_image: Template, qcow2_image: Template, tmp_path: Path
) -> None:
    (tmp_path / "fast").mkdir()
    engine.host.bases.symlink_to(tmp_path / "fast")
    engine.disk("web1").cache(raw_image, raw_image.name)
    base_of(engine, qcow2_image)
    for image in (raw_image, qcow2_image):
        age(engine.host.bases / image.name, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "kept", ("local", qcow2_image.name): "removed"}


@pytest.mark.parametrize(
    "form",
    [
        'json:{{"driver":"raw","file":{{"driver":"file","filename":"{base}"}}}}',
        'json:{{"driver":"raw","file.driver":"file","file.filename":"{base}"}}',
        'json:{{"driver":"file","filename":"{base}"}}',
        "file:{base}",
    ],
)
def test_base_that_a_header_names_in_qemu_s_long_form_stays(
    engine: Engine, raw_image: Template, instances: Path, form: str
) -> None:
    path = base_of(engine, raw_image)
    (instances / "web1").mkdir()
    target = instances / "web1" / "disk"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", form.format(base=path), str(target), "1M")
    age(path, 9 * DAY)
    assert actions(engine) == {("local", raw_image.name): "kept"}


def forged(engine: Engine, name: bytes) -> Path:
    """A console's log on which a guest wrote a header that refers to ``name``."""
    source = engine.host.instances / "web1" / "disk"
    head = bytearray(source.read_bytes())
    (at,) = struct.unpack_from(">Q", head, 8)
    head[at : at + len(name)] = name
    struct.pack_into(">I", head, 16, len(name))
    log = source.with_name("console.log")
    log.write_bytes(head)
    return log


@pytest.mark.parametrize(
    "name",
    [
        b"a\0b/c",
        b"/\xff\xfe/x",
        b'json:{"filename":"a\\u0000/b"}',
        b'json:{"filename":"\\ud800/b"}',
        b"json:" + b"[" * 1000,
        b'json:{"file":' * 70,
        b"x/" * 500,
        b"/\n\x1b[2Jimgbackend: 5 bases removed",
    ],
)
def test_header_that_a_guest_forged_stops_nothing_and_is_told_in_one_printable_line(
    engine: Engine, raw_image: Template, qcow2_image: Template, name: bytes
) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    path = base_of(engine, qcow2_image)
    age(path, 9 * DAY)
    forged(engine, name)
    done = engine.cache.prune()
    assert done.faults == []
    assert {each.base.name: each.action for each in done.outcomes} == {
        raw_image.name: "kept",
        qcow2_image.name: "removed",
    }
    assert all(line.isprintable() for line in done.foreign)


def test_disk_that_is_moved_in_below_a_folder_that_was_looked_at_is_seen(
    engine: Engine, raw_image: Template, qcow2_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the instance's own folder tells nothing of it."""
    engine.disk("web1").cache(qcow2_image, qcow2_image.name)
    below = engine.host.instances / "web1" / "kept"
    below.mkdir()
    path, real = base_of(engine, raw_image), Removal.remove
    age(path, 9 * DAY)
    for folder in (below, below.parent):
        os.utime(folder, (0, 0))

    def remove(self: Removal, verdict: object) -> object:
        qemu_img("create", "-q", "-f", "qcow2", "-b", str(path), "-F", "raw", str(below / "old.qcow2"))
        return real(self, verdict)  # type: ignore[arg-type]  # what it was called with

    monkeypatch.setattr(Removal, "remove", remove)
    assert actions(engine)["local", raw_image.name] == "kept"
    assert path.exists()


def test_pass_starts_no_process_for_any_disk(
    engine: Engine, raw_image: Template, qcow2_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        engine.disk(f"web{number}").cache(raw_image, raw_image.name)
    path = base_of(engine, qcow2_image)
    age(path, 9 * DAY)

    def refuse(*arguments: object, **_options: object) -> None:
        raise AssertionError(f"a process is started: {arguments}")

    for module, name in ((subprocess, "Popen"), (os, "posix_spawn"), (os, "fork")):
        monkeypatch.setattr(module, name, refuse)
    assert actions(engine) == {("local", raw_image.name): "kept", ("local", qcow2_image.name): "removed"}


def rebased(engine: Engine, image: Template) -> Path:
    """The disk of web1, which is old; its base is about to be named otherwise in its header."""
    engine.disk("web1").cache(image, image.name)
    age(engine.host.bases / image.name, 9 * DAY)
    return engine.host.path(engine.disk("web1").id)


@pytest.mark.parametrize("kind", ["link beside the disk", "link elsewhere", "hard link", "link of links"])
def test_base_that_a_disk_names_by_a_link_of_its_own_stays(
    engine: Engine, raw_image: Template, tmp_path: Path, kind: str
) -> None:
    disk, base = rebased(engine, raw_image), engine.host.bases / raw_image.name
    other = tmp_path / "link" if kind == "link elsewhere" else disk.with_name("link")
    if kind == "hard link":
        other.hardlink_to(base)
    elif kind == "link of links":
        (tmp_path / "first").symlink_to(base)
        other.symlink_to(tmp_path / "first")
    else:
        other.symlink_to(base)
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(other), str(disk))
    assert actions(engine) == {("local", raw_image.name): "kept"}
    assert bytes_of(engine.disk("web1")) == raw_image.content.read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        *[{"format": value} for value in ("raw", "QCOW2", "bogus", "vmdk", 5, None, ["qcow2"])],
        {"way": "copy", "base": "0" * 40},
    ],
    ids=repr,
)
def test_base_of_a_disk_whose_record_is_wrong_stays(
    engine: Engine, raw_image: Template, changed: dict[str, object]
) -> None:
    records = rebased(engine, raw_image).with_name("disks.json")
    content = json.loads(records.read_text())
    content["disks"]["disk"].update(changed)
    records.write_text(json.dumps(content))
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    assert (engine.host.bases / raw_image.name).exists()


@pytest.mark.parametrize("instead", ["folder", "pipe"])
def test_base_of_a_recorded_disk_in_whose_place_is_no_file_stays(
    engine: Engine, raw_image: Template, instead: str
) -> None:
    disk = rebased(engine, raw_image)
    disk.unlink()
    disk.mkdir() if instead == "folder" else os.mkfifo(disk)
    assert [each.action for each in engine.cache.prune().outcomes] == ["kept"]


def test_base_of_a_file_in_a_linked_folder_of_an_instance_stays(
    engine: Engine, raw_image: Template, tmp_path: Path
) -> None:
    disk = rebased(engine, raw_image)
    (tmp_path / "kept").mkdir()
    shutil.copy(disk, tmp_path / "kept" / "earlier.qcow2")
    (tmp_path / "kept" / "again").symlink_to(tmp_path / "kept")
    engine.disk("web1").remove()
    (engine.host.instances / "web1").mkdir()
    (engine.host.instances / "web1" / "kept").symlink_to(tmp_path / "kept")
    assert actions(engine) == {("local", raw_image.name): "kept"}


def test_linked_folder_that_holds_everything_is_told_and_lets_no_base_go(engine: Engine, raw_image: Template) -> None:
    disk = rebased(engine, raw_image)
    engine.disk("web1").remove()
    disk.parent.mkdir()
    disk.with_name("all").symlink_to("/")
    done = engine.cache.prune()
    assert [each.action for each in done.outcomes] == ["kept"]
    assert any("web1/all is a link to /, which is too much to look at" in fault for fault in done.faults)
