"""Folders that answer slowly: threads read them ahead, and what is found is the same; no file is opened twice."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.conftest import DAY, actions, age
from cache.test_mounted_elsewhere import overlay
from cache.test_prune import base_of
from imgbackend import Engine
from imgbackend.bases.users import OverlayUsers
from imgbackend.system import qcow2, shared_storage
from imgbackend.types import Mi, base_name
from labs import images
from labs.engines import MakeEngine
from labs.templates import Template

_INSTANCES = 150
"""More than are read ahead at once."""


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel calls the file system of the instances NFS."""
    monkeypatch.setattr(shared_storage, "file_system", lambda _path: "nfs4")


def reading() -> list[str]:
    """The threads that read ahead."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("imgbackend-read")]


def populate(engine: Engine, image: Template, count: int = _INSTANCES) -> None:
    """Instances with a disk each, on one base, as they are after a spawn."""
    for number in range(count):
        engine.disk(f"vm{number:03}").cache(image, image.name)


def untidy(engine: Engine, image: Template) -> Path:
    """Instances of which each has something else about it; the one base."""
    populate(engine, image, 3)
    instances, base = engine.host.instances, engine.host.bases / image.name
    for number in range(20):
        engine.disk(f"web{number}").cache(image, image.name)
    (instances / "web0/disks.json").write_text("{")
    (instances / "web1/disk.info").write_text("{")
    (instances / "web2/disk").write_bytes(b"QFI\xfb garbage")
    (instances / "web3/disk").unlink()
    (instances / "web3/disk").symlink_to("nothing")
    (instances / "web4/disks.json").unlink()
    (instances / "web5/disks.json").unlink()
    (instances / "web5/disk.info").unlink()
    (instances / "web6").rename(instances / "web6_resize")
    (instances / "web7").rename(instances / "web7_del")
    (instances / "web8/disk").rename(instances / "web8/.disk.part")
    overlay(instances / "web9/disk.local", "/etc/passwd")
    overlay(instances / "web10/disk.local", str(instances / "web10/disk"), "qcow2")
    overlay(instances / "web11/kept/old.qcow2", str(base)).parent.chmod(0o755)
    (instances / "web12/disk.info").write_text(json.dumps({str(instances / "web12/disk.local"): "raw"}))
    overlay(instances / "web12/disk.local", str(base))
    (instances / "web13/disk").unlink()
    os.mkfifo(instances / "web13/disk")
    (instances / "web14/disks.json").unlink()
    (instances / "web14/disks.json").symlink_to("nothing")
    (instances / "web15/disk.local").mkdir()
    (instances / "lost").symlink_to("not mounted")
    (instances / "empty").mkdir()
    return base


def found_in(engine: Engine) -> object:
    look = OverlayUsers(engine.host)
    overlays = list(look.overlays())
    return overlays, list(look.unseen), list(look.foreign), look.named


def test_what_is_found_is_the_same_and_in_the_same_order(
    engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    (engine.host.instances / "web11/kept").mkdir(parents=True)
    untidy(engine, raw_image)
    expected = found_in(engine)
    monkeypatch.setattr(shared_storage, "file_system", lambda _path: "nfs4")
    assert found_in(engine) == expected


def test_folders_are_read_by_several_threads_and_none_is_left(
    remote: None, engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate(engine, raw_image, 20)
    real, by = qcow2.read, set[int]()
    together = threading.Barrier(2)

    def read(path: Path | str) -> qcow2.Qcow2Header:
        by.add(threading.get_ident())
        if Path(path).parent.name in ("vm000", "vm001"):
            together.wait(timeout=60)
        return real(path)

    monkeypatch.setattr(qcow2, "read", read)
    assert len(list(OverlayUsers(engine.host).overlays())) == 20
    assert threading.get_ident() not in by
    assert reading() == []


def test_sign_of_life_is_given_before_each_folder_by_who_looks(
    remote: None, engine: Engine, raw_image: Template
) -> None:
    populate(engine, raw_image, 5)
    told: list[str] = []

    def alive() -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append("alive")

    for each in OverlayUsers(engine.host, alive).overlays():
        told.append(each.instance)
    assert told == [word for number in range(5) for word in ("alive", f"vm{number:03}")]


class _Stopped(Exception):
    """The service is told to end."""


def test_sign_of_life_that_raises_ends_the_look_with_all_its_threads(
    remote: None, engine: Engine, raw_image: Template
) -> None:
    populate(engine, raw_image)
    found: list[str] = []

    def alive() -> None:
        if len(found) == 2:
            assert reading() != []
            raise _Stopped

    with pytest.raises(_Stopped):
        found.extend(each.instance for each in OverlayUsers(engine.host, alive).overlays())
    assert found == ["vm000", "vm001"]
    for each in OverlayUsers(engine.host).overlays():
        found.append(each.instance)
        break
    assert reading() == []


def test_folder_that_is_renamed_after_it_was_read_ahead_is_not_missed(
    remote: None, engine: Engine, raw_image: Template, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of the first is read when all folders are listed; the third is another's name then."""
    populate(engine, raw_image, 4)
    real, listed = qcow2.read, threading.Event()

    def read(path: Path | str) -> qcow2.Qcow2Header:
        if Path(path).parent.name == "vm000" and not listed.is_set():
            (instances / "vm002").rename(instances / "vm002_resize")
            (instances / "vm003/disk").rename(instances / "vm003/.disk.part")
            listed.set()
        elif Path(path).parent.name in ("vm002", "vm003"):
            assert listed.wait(timeout=60)
        return real(path)

    monkeypatch.setattr(qcow2, "read", read)
    look = OverlayUsers(engine.host)
    found = {f"{each.instance}/{each.name}" for each in look.overlays()}
    assert found == {"vm000/disk", "vm001/disk", "vm002_resize/disk", "vm003/.disk.part"}
    assert look.unseen == {}


def test_disk_that_is_made_during_a_pass_is_seen_by_its_second_look(
    remote: None, engine: Engine, raw_image: Template, qcow2_image: Template
) -> None:
    populate(engine, raw_image, 3)
    look = OverlayUsers(engine.host)
    assert {each.instance for each in look.overlays()} == {"vm000", "vm001", "vm002"}
    engine.disk("later").cache(qcow2_image, qcow2_image.name)
    assert ("later", qcow2_image.name) in {(each.instance, each.base) for each in look.again()}
    assert reading() == []


_LOCAL = """
import sys, threading
from imgbackend import Engine

def refuse(self):
    raise AssertionError(f"the thread {self.name} is started")

threading.Thread.start = refuse
with Engine.from_config([], {"instances_path": sys.argv[1]}) as engine:
    done = engine.cache.prune()
assert [each.action for each in done.outcomes] == ["kept"] and not done.faults, done
assert "imgbackend.bases.read_ahead" not in sys.modules
"""


def test_no_thread_is_started_on_a_file_system_of_this_host(engine: Engine, raw_image: Template) -> None:
    populate(engine, raw_image, 3)
    words = [sys.executable, "-c", _LOCAL, str(engine.host.instances)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# What is opened


@pytest.fixture
def opened(instances: Path, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file and folder below the instances is opened or listed, by its path below them."""
    counted: Counter[str] = Counter()

    def counting(real: Callable[..., object]) -> Callable[..., object]:
        def call(path: object, *arguments: object, **options: object) -> object:
            if isinstance(path, str | Path) and Path(path).is_relative_to(instances):
                counted[str(Path(path).relative_to(instances))] += 1
            return real(path, *arguments, **options)

        return call

    for name in ("open", "scandir", "listdir"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    return counted


def of_instances(opened: Counter[str]) -> dict[str, int]:
    return {path: count for path, count in opened.items() if path.startswith("vm")}


@pytest.mark.parametrize("where", ["remote", "local"])
def test_pass_lists_each_folder_once_and_opens_the_records_and_the_disk_once(
    where: str, engine: Engine, raw_image: Template, opened: Counter[str], request: pytest.FixtureRequest
) -> None:
    """Nova's file beside ours says nothing more; what is left behind is looked for in what was seen."""
    populate(engine, raw_image, 3)
    if where == "remote":
        request.getfixturevalue("remote")
    opened.clear()
    assert actions(engine) == {("local", raw_image.name): "kept"}
    files = [f"vm{number:03}{file}" for number in range(3) for file in ("", "/disks.json", "/disk")]
    assert of_instances(opened) == dict.fromkeys(files, 1)


def test_records_that_are_not_in_a_listed_folder_are_not_asked_for(
    remote: None, engine: Engine, raw_image: Template, instances: Path, opened: Counter[str]
) -> None:
    """Instances of Nova's have none of ours."""
    populate(engine, raw_image, 2)
    for path in (*instances.glob("vm*/disks.json"), instances / "vm001/disk.info", *instances.glob("locks/*r.vm*")):
        path.unlink()
    opened.clear()
    assert actions(engine) == {("local", raw_image.name): "kept"}
    files = ("vm000", "vm000/disk.info", "vm000/disk", "vm001", "vm001/disk")
    assert of_instances(opened) == dict.fromkeys(files, 1)


def test_no_description_of_a_domain_is_looked_for_in_folders_that_were_listed(
    engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate(engine, raw_image, 3)
    real, asked = os.stat, list[str]()

    def stat(path: object, *arguments: object, **options: object) -> object:
        asked.append(os.path.basename(str(path)))
        return real(path, *arguments, **options)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(os, "stat", stat)
    assert actions(engine) == {("local", raw_image.name): "kept"}
    assert "libvirt.xml" not in asked


def test_leftovers_in_folders_that_were_just_seen_are_found_all_the_same(
    engine: Engine, raw_image: Template, instances: Path
) -> None:
    populate(engine, raw_image, 4)
    (instances / "vm000/.disk.local.part").write_text("left")
    (instances / "vm001/disk").unlink()
    os.utime(instances / "vm000/.disk.local.part", (0, 0))
    os.utime(instances / "vm001/disks.json", (0, 0))
    (instances / "vm002/disk").unlink()
    for name in ("disks.json", "disk.info"):
        (instances / "vm002" / name).unlink()
    os.utime(instances / "vm002", (0, 0))
    assert (instances / "locks/imgbackend-r.vm002").exists()
    found = engine.cache.leftovers().leftovers
    assert {(each.kind, each.name) for each in found if each.dead} == {
        ("disk", "vm000/.disk.local.part"),
        ("record", "vm001/disks.json: disk"),
        ("instance", "vm002"),
        ("lock", "locks/imgbackend-d.vm002_disk"),
    }
    done = engine.cache.prune(dry_run=True).leftovers
    assert {(each.kind, each.name) for each in done} == {(each.kind, each.name) for each in found if each.dead}


# Nova's file


def unrecorded(engine: Engine, image: Template, *, broken: bool) -> Path:
    """A base that only a file hangs on of which Nova's file tells that it is raw, beside a disk of ours."""
    engine.disk("web1").cache(image, image.name)
    other = engine.host.bases / base_name("other")
    images.sparse_raw(other, Mi)
    age(other, 9 * DAY)
    folder = engine.host.instances / "web1"
    overlay(folder / "disk.local", str(other))
    told = {str(folder / "disk.local"): "raw", str(folder / "disk"): "qcow2"}
    (folder / "disk.info").write_text("{" if broken else json.dumps(told))
    return other


def test_nova_s_file_decides_where_ours_says_nothing_of_a_file(engine: Engine, raw_image: Template) -> None:
    other = unrecorded(engine, raw_image, broken=False)
    assert actions(engine)["local", other.name] == "removed"


def test_nova_s_file_that_is_broken_lets_no_base_go_where_ours_says_nothing_of_a_file(
    engine: Engine, raw_image: Template, qcow2_image: Template
) -> None:
    other = unrecorded(engine, raw_image, broken=True)
    idle = base_of(engine, qcow2_image)
    age(idle, 9 * DAY)
    done = engine.cache.prune()
    assert {each.action for each in done.outcomes} == {"kept"}
    assert other.exists()
    [fault] = done.faults
    assert "disk.info" in fault


def test_nova_s_file_that_is_broken_stops_nothing_where_ours_says_all(
    make_engine: MakeEngine, raw_image: Template, qcow2_image: Template
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    age(base_of(engine, qcow2_image), 9 * DAY)
    (engine.host.instances / "web1/disk.info").write_text("{")
    (engine.host.instances / "web1/console.log").write_text("booting")
    assert actions(engine) == {("local", raw_image.name): "kept", ("local", qcow2_image.name): "removed"}
