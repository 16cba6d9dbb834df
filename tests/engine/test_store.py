"""The engine's part of a backend whose store keeps the bases and clones: proved on one whose store is a folder."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from oslo_config import cfg

from imgbackend import Backend, Disk, Engine, errors
from imgbackend.bases.store import generated_name
from imgbackend.config import plugins
from imgbackend.driver.abilities import Cloneable, HoldsBases, SharedStore
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.state.digests import content_digest
from imgbackend.types import (
    Cached,
    Capacity,
    Declared,
    DiskId,
    DiskInfo,
    FileSource,
    ImageInfo,
    Location,
    Mi,
    Plan,
    Progress,
    StoreBase,
    Traits,
    Way,
    ignore,
)
from labs.able import lock_file
from labs.contents import entries
from labs.engines import MakeEngine
from labs.templates import Template, in_threads


class ShelfDisk(Disk["ShelfBackend"], Cloneable):
    """A file on the shelf; a clone is a copy that appears at once, by a rename."""

    @property
    def path(self) -> Path:
        return self.backend.shelf / f"disk-{self.id.instance}-{self.id.name}"

    def find(self) -> DiskInfo | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return DiskInfo(format="raw", size=status.st_size, allocated=status.st_blocks * 512)

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        ShelfBackend.planned.append(base)
        return Plan(way="clone")

    @staticmethod
    def planned_of(disk: Disk[Any], image: Template) -> ImageInfo | None:
        """The base that the driver is told of when its plan is asked for."""
        disk.explain(image, image.name)
        return ShelfBackend.planned.pop()

    def create_image(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        assert base.path is None, "the store keeps the bases"
        prepare_template(base)
        before = ShelfBackend.before_clone
        if before:
            before.pop()(self.backend, base.name)
        self._copy(self.backend.base(base.name))
        return "clone"

    def _copy(self, parent: Path) -> None:
        unfinished = self.path.with_name(f".{self.path.name}")
        try:
            shutil.copyfile(parent, unfinished)
        except FileNotFoundError as exc:
            raise errors.BaseMissing(f"{parent.name} has just gone") from exc
        unfinished.rename(self.path)

    def parent(self, location: str) -> ImageInfo | str:
        scheme, _, name = location.partition("://")
        if scheme != "shelf":
            return f"{scheme} is no shelf"
        path = self.backend.shelf / name
        if not path.exists():
            return f"there is no {name} on the shelf"
        return ImageInfo(format="raw", virtual_size=path.stat().st_size)

    def clone_image(self, location: str) -> Way:
        self._copy(self.backend.shelf / location.partition("://")[2])
        return "clone"

    def discard(self) -> None:
        self.path.with_name(f".{self.path.name}").unlink(missing_ok=True)

    def resize_image(self, size: int) -> None:
        os.truncate(self.path, size)

    def remove_image(self) -> None:
        self.path.unlink(missing_ok=True)

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        shutil.copyfile(self.path, target)

    def source(self) -> FileSource:
        return FileSource(path=self.path, format="raw")


class ShelfBackend(Backend, HoldsBases, SharedStore):
    """A folder beside the instances; other hosts would have it mounted too."""

    disk_type = ShelfDisk
    traits = Traits(granularity=4096, shared=True)
    before_clone: ClassVar[list["Meanwhile"]] = []
    """What happens, once, between the base's being found and the clone."""
    imports: ClassVar[list[str]] = []
    locked: ClassVar[list[str]] = []
    planned: ClassVar[list[ImageInfo | None]] = []

    @property
    def shelf(self) -> Path:
        return self.host.instances.with_name("shelf")

    def base(self, name: str) -> Path:
        return self.shelf / f"base-{name}"

    def open(self) -> None:
        self.shelf.mkdir(exist_ok=True)

    def list_disks(self) -> Iterator[DiskId]:
        for path in sorted(self.shelf.glob("disk-*")):
            _, instance, name = path.name.split("-", 2)
            yield DiskId(instance=instance, name=name)

    def capacity(self) -> Capacity:
        usage = shutil.disk_usage(self.shelf)
        return Capacity(total=usage.total, free=usage.free)

    def find_base(self, name: str) -> StoreBase | None:
        try:
            status, tags = self.base(name).stat(), json.loads(self._tags(name).read_text())
        except FileNotFoundError:
            return None
        return StoreBase(
            name=name,
            size=status.st_size,
            allocated=status.st_blocks * 512,
            children=None,
            touched=status.st_mtime,
            tags=tags,
        )

    def _tags(self, name: str) -> Path:
        return self.shelf / f"tags-{name}"

    def list_bases(self) -> Iterator[StoreBase]:
        for path in self.shelf.glob("base-*"):
            found = self.find_base(path.name.removeprefix("base-"))
            if found is not None:
                yield found

    def touch_base(self, name: str) -> None:
        os.utime(self.base(name))

    def remove_base(self, name: str) -> None:
        self.base(name).unlink(missing_ok=True)

    def import_base(
        self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress
    ) -> StoreBase:
        self.imports.append(name)
        progress("import", 0, info.virtual_size)
        unfinished = self.shelf / f".{name}"
        shutil.copyfile(path, unfinished)
        self._tags(name).write_text(json.dumps(dict(tags)))
        unfinished.rename(self.base(name))
        found = self.find_base(name)
        assert found is not None
        return found

    @contextlib.contextmanager
    def store_lock(self, name: str, progress: Progress = ignore) -> Iterator[None]:
        with (self.shelf / "lock").open("w") as lock:
            lock_file(lock.fileno(), progress)
            self.locked.append(name)
            yield


class Meanwhile:
    """Something that happens to a base of the store."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, backend: ShelfBackend, name: str) -> None:
        backend.remove_base(name)


@pytest.fixture
def engine(make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """One whose configuration names the shelf."""
    monkeypatch.setattr(ShelfBackend, "before_clone", [])
    monkeypatch.setattr(ShelfBackend, "imports", [])
    monkeypatch.setattr(ShelfBackend, "locked", [])
    real = plugins.load_driver
    monkeypatch.setattr(plugins, "load_driver", lambda name: ShelfBackend if name == "shelf" else real(name))
    return make_engine({"images_type": "shelf", "force_raw_images": False})


@pytest.fixture
def shelf(instances: Path) -> Path:
    return instances.with_name("shelf")


def test_base_is_imported_once_for_all_who_ask_and_the_local_copy_goes(
    engine: Engine, instances: Path, shelf: Path, qcow2_image: Template, raw_content: Path
) -> None:
    found = in_threads(8, lambda number: engine.disk(f"web{number}").cache(qcow2_image, qcow2_image.name, 9 * Mi))
    assert [type(each) for each in found] == [Cached] * 8
    assert qcow2_image.fetches == 1
    assert ShelfBackend.imports == [qcow2_image.name]
    assert [name for name in entries(instances) if name.startswith("_base/")] == []
    for number in range(8):
        assert (shelf / f"disk-web{number}-disk").read_bytes() == raw_content.read_bytes() + bytes(Mi)
    assert sorted(cached.fetched for cached in found if isinstance(cached, Cached)) == [False] * 7 + [True]


def test_only_an_import_waits_for_other_hosts(engine: Engine, shelf: Path, raw_image: Template) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    with (shelf / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert engine.disk("web2").cache(raw_image, raw_image.name).way == "clone"
    assert ShelfBackend.locked == [raw_image.name]


def test_waiting_for_another_host_can_be_cancelled_and_leaves_nothing(
    engine: Engine, instances: Path, shelf: Path, raw_image: Template
) -> None:
    class CancelledError(Exception):
        pass

    def cancel(phase: str, _done: int, _total: int | None) -> None:
        if phase == "wait":
            raise CancelledError

    engine.backend("shelf")
    with (shelf / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CancelledError):
            engine.disk("web1").cache(raw_image, raw_image.name, progress=cancel)
    assert raw_image.fetches == 0
    assert [path.name for path in shelf.iterdir()] == ["lock"]
    assert engine.disk("web1").cache(raw_image, raw_image.name).fetched


def test_import_is_from_raw_whatever_force_raw_images_says_and_the_tags_keep_the_manifest(
    engine: Engine, qcow2_image: Template, raw_content: Path
) -> None:
    cached = engine.disk("web1").cache(qcow2_image, qcow2_image.name)
    assert (cached.way, cached.base) == ("clone", qcow2_image.name)
    backend = engine.backend("shelf")
    assert isinstance(backend, ShelfBackend)
    [base] = backend.list_bases()
    assert base.size == 8 * Mi
    assert base.tags["image_id"] == qcow2_image.image_id
    assert base.tags["format"] == "raw"
    assert len(base.tags["digest"]) == 64
    records = []
    for instance in ("web1", "web2"):
        engine.disk(instance).cache(qcow2_image, qcow2_image.name)
        record = engine.disk(instance).recorded
        assert record is not None
        records.append((record.image_id, record.base, record.digest, record.format))
    assert records == [(qcow2_image.image_id, qcow2_image.name, base.tags["digest"], "raw")] * 2


def test_import_is_from_raw_where_the_local_base_is_a_qcow2_that_a_disk_hangs_on(
    engine: Engine, instances: Path, shelf: Path, qcow2_image: Template, raw_content: Path
) -> None:
    overlay = engine.disk("web1", images_type="qcow2")
    overlay.cache(qcow2_image, qcow2_image.name)
    cached = engine.disk("web2").cache(qcow2_image, qcow2_image.name)
    assert (cached.way, cached.fetched) == ("clone", False)
    assert (shelf / "disk-web2-disk").read_bytes() == raw_content.read_bytes()
    backend = engine.backend("shelf")
    assert isinstance(backend, ShelfBackend)
    [base] = backend.list_bases()
    with raw_content.open("rb") as content:
        assert base.tags["digest"] == content_digest(content.fileno())
    assert {name for name in entries(instances) if name.startswith("_base/")} == {
        f"_base/{qcow2_image.name}",
        f"_base/{qcow2_image.name}.json",
    }
    assert overlay.info().size == 8 * Mi


def test_local_copy_that_no_disk_hangs_on_goes_with_the_import(
    engine: Engine, instances: Path, qcow2_image: Template
) -> None:
    overlay = engine.disk("web1", images_type="qcow2")
    overlay.cache(qcow2_image, qcow2_image.name)
    overlay.remove()
    assert not engine.disk("web2").cache(qcow2_image, qcow2_image.name).fetched
    assert [name for name in entries(instances) if name.startswith("_base/")] == []


def test_failed_import_leaves_nothing_and_the_next_call_succeeds(
    engine: Engine, instances: Path, shelf: Path, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> StoreBase:
        raise errors.StorageFull("the shelf", 8 * Mi, 0)

    with monkeypatch.context() as patched:
        patched.setattr(ShelfBackend, "import_base", full)
        with pytest.raises(errors.StorageFull):
            engine.disk("web1").cache(raw_image, raw_image.name)
    assert entries(instances) == set()
    assert [path.name for path in shelf.iterdir() if path.name != "lock"] == []
    assert engine.disk("web1").cache(raw_image, raw_image.name).way == "clone"


def test_base_that_vanishes_before_the_clone_is_imported_again_once(
    engine: Engine, raw_image: Template, raw_content: Path, shelf: Path
) -> None:
    engine.disk("web0").cache(raw_image, raw_image.name)
    ShelfBackend.before_clone.append(Meanwhile(1))
    cached = engine.disk("web1").cache(raw_image, raw_image.name)
    assert cached.fetched is True
    assert ShelfBackend.imports == [raw_image.name] * 2
    assert (shelf / "disk-web1-disk").read_bytes() == raw_content.read_bytes()


def test_base_that_vanishes_again_and_again_is_an_error_and_leaves_no_disk(
    engine: Engine, instances: Path, raw_image: Template
) -> None:
    engine.disk("web0").cache(raw_image, raw_image.name)
    ShelfBackend.before_clone.extend([Meanwhile(1), Meanwhile(2)])
    with pytest.raises(errors.BaseMissing, match="just gone"):
        engine.disk("web1").cache(raw_image, raw_image.name)
    assert engine.disk("web1").exists() is False
    assert not any(name.startswith("web1/") for name in entries(instances))


def test_sizes_are_rounded_to_what_the_store_can_make(engine: Engine, raw_image: Template) -> None:
    cached = engine.disk("web1").cache(raw_image, raw_image.name, 8 * Mi + 1)
    assert cached.size == engine.disk("web1").info().size == 8 * Mi + 4096
    assert cached.grown is True


def test_base_of_the_store_that_is_too_large_is_refused(engine: Engine, raw_image: Template) -> None:
    engine.disk("web0").cache(raw_image, raw_image.name)
    with pytest.raises(errors.TemplateTooLarge) as caught:
        engine.disk("web1").cache(raw_image, raw_image.name, Mi)
    assert (caught.value.needed, caught.value.allowed) == (8 * Mi, Mi)
    assert engine.disk("web1").exists() is False


class Located(Template):
    """An image that its source keeps on the shelf as well."""

    @property
    def declared(self) -> Declared:
        told = super().declared
        places = (Location(url="tape://reel/1"), Location(url="shelf://glance-image", format="raw"))
        return Declared(
            image_id=told.image_id, source=told.source, format=told.format, locations=places, min_disk=told.min_disk
        )


@pytest.fixture
def located(raw_content: Path, shelf: Path) -> Located:
    shelf.mkdir()
    shutil.copyfile(raw_content, shelf / "glance-image")
    return Located(content=raw_content, image_id="located", format="raw")


def test_disk_is_cloned_from_a_location_without_a_fetch_or_a_base(
    engine: Engine, shelf: Path, located: Located, raw_content: Path
) -> None:
    cached = engine.disk("web1").cache(located, located.name, 9 * Mi)
    assert (cached.way, cached.fetched, cached.grown, cached.reason) == ("clone", False, True, "")
    assert located.fetches == 0
    assert ShelfBackend.imports == []
    assert (shelf / "disk-web1-disk").read_bytes() == raw_content.read_bytes() + bytes(Mi)


@pytest.mark.parametrize("min_disk", [0, 16 * Mi])
def test_parent_that_is_too_large_is_refused_before_the_clone(
    engine: Engine, instances: Path, located: Located, min_disk: int
) -> None:
    with pytest.raises(errors.TemplateTooLarge):
        engine.disk("web1").cache(located.but(min_disk=min_disk), located.name, Mi if not min_disk else 9 * Mi)
    assert engine.disk("web1").exists() is False
    assert entries(instances) == set()


def test_location_that_cannot_be_cloned_is_fetched_and_the_reason_told(
    engine: Engine, shelf: Path, located: Located
) -> None:
    (shelf / "glance-image").unlink()
    cached = engine.disk("web1").cache(located, located.name)
    assert (cached.way, cached.fetched) == ("clone", True)
    assert "no glance-image on the shelf" in cached.reason


def test_location_of_another_format_is_never_a_disk(
    engine: Engine, shelf: Path, raw_content: Path, qcow2_image: Template
) -> None:
    """A guest would read the container's bytes."""
    shelf.mkdir()
    shutil.copyfile(qcow2_image.content, shelf / "glance-image")

    class Qcow2Located(Template):
        @property
        def declared(self) -> Declared:
            return dataclasses.replace(super().declared, locations=(Location(url="shelf://glance-image"),))

    image = Qcow2Located(content=qcow2_image.content, image_id="kept-as-qcow2", format="qcow2")
    cached = engine.disk("web1").cache(image, image.name)
    assert (cached.fetched, cached.reason) == (True, "the image is qcow2: imported once")
    assert (shelf / "disk-web1-disk").read_bytes() == raw_content.read_bytes()


def test_explain_tells_of_the_clone_and_of_why_not(engine: Engine, shelf: Path, located: Located) -> None:
    plan = engine.disk("web1").explain(located, located.name, 9 * Mi)
    assert plan == Plan(way="clone")
    with pytest.raises(errors.TemplateTooLarge):
        engine.disk("web1").explain(located, located.name, Mi)
    (shelf / "glance-image").unlink()
    other = engine.disk("web1").explain(located, located.name, 9 * Mi)
    assert other is not None
    assert "no glance-image on the shelf" in other.reason
    assert (located.fetches, ShelfBackend.imports) == (0, [])
    assert engine.disk("web1").exists() is False


def test_explain_knows_the_base_that_the_store_has(engine: Engine, raw_image: Template) -> None:
    assert ShelfDisk.planned_of(engine.disk("web1"), raw_image) is None
    engine.disk("web0").cache(raw_image, raw_image.name)
    assert ShelfDisk.planned_of(engine.disk("web1"), raw_image) == ImageInfo(format="raw", virtual_size=8 * Mi)
    with pytest.raises(errors.TemplateTooLarge):
        engine.disk("web1").explain(raw_image, raw_image.name, Mi)


def test_secret_never_becomes_a_base_of_the_store(
    engine: Engine, instances: Path, shelf: Path, raw_image: Template
) -> None:
    secret = raw_image.but(role="private", image_id="")
    with pytest.raises(errors.ConfigError, match="never becomes a base"):
        engine.disk("web1", "disk.config").cache(secret, secret.name)
    assert secret.fetches == 0
    assert entries(instances) == set()
    assert ShelfBackend.imports == []


def test_generated_template_is_a_base_of_the_store_like_any_other(engine: Engine, raw_image: Template) -> None:
    name = generated_name("swap", 8 * Mi)
    swap = raw_image.but(role="generated", image_id="")
    found = [engine.disk(f"web{number}", "disk.swap").cache(swap, name) for number in range(2)]
    assert [(cached.way, cached.base, cached.fetched) for cached in found] == [
        ("clone", name, True),
        ("clone", name, False),
    ]
    record = engine.disk("web1", "disk.swap").recorded
    assert record is not None
    assert record.base == name


def test_stores_lock_is_held_while_a_base_is_looked_for_and_imported(
    engine: Engine, raw_image: Template, shelf: Path
) -> None:
    """Another host that holds it makes this one wait."""
    shelf.mkdir()
    done = threading.Event()

    def work() -> None:
        engine.disk("web1").cache(raw_image, raw_image.name)
        done.set()

    with (shelf / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=work)
        thread.start()
        end = time.monotonic() + 30
        while raw_image.name not in _waiting_bases(engine) and time.monotonic() < end:
            time.sleep(0.01)
        assert raw_image.fetches == 0
        assert not done.is_set()
        fcntl.flock(lock, fcntl.LOCK_UN)
    thread.join(60)
    assert done.is_set()


def _waiting_bases(engine: Engine) -> set[str]:
    """The bases whose locks there are."""
    return {path.name.removeprefix("nova-") for path in (engine.host.instances / "locks").glob("nova-*")}


def test_disks_on_the_shelf_are_listed_by_record_and_by_the_store(engine: Engine, raw_image: Template) -> None:
    for instance in ("web1", "web2"):
        engine.disk(instance).cache(raw_image, raw_image.name)
    wanted = ["web1/disk", "web2/disk"]
    assert [str(disk.id) for disk in engine.disks()] == wanted
    assert [str(disk_id) for disk_id in engine.backend("shelf").list_disks()] == wanted
    engine.disk("web1").remove()
    assert [str(disk.id) for disk in engine.disks()] == wanted[1:]


def test_disk_that_the_store_knows_without_a_record_is_recorded_by_the_next_call_for_it(
    engine: Engine, raw_image: Template
) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    engine.host.records.forget(disk.id, durable=False)
    assert list(engine.disks()) == []
    assert engine.disk("web1").cache(raw_image, raw_image.name).way == "exists"
    [found] = engine.disks()
    assert found.recorded is not None
    assert (found.recorded.backend, found.recorded.format, found.recorded.way) == ("shelf", "raw", "exists")
    assert raw_image.fetches == 1


def test_bases_are_listed_of_a_store_that_holds_them_only_with_some_options(
    engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Either(Backend):
        opts = ShelfBackend.opts

        @classmethod
        def for_options(cls, _conf: cfg.ConfigOpts.GroupAttr) -> type[Backend]:
            return ShelfBackend

    engine.disk("web1").cache(raw_image, raw_image.name)
    monkeypatch.setattr(plugins, "load_driver", lambda _name: Either)
    assert [base.name for base in engine.cache.bases().bases] == [raw_image.name]
