"""A base that went, was replaced, was damaged, or lost its manifest: what becomes of its disks."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.bases import instance_folders
from imgbackend.state import manifests
from imgbackend.types import Mi
from imgbackend_qcow2 import driver, empty
from imgbackend_qcow2.driver import Qcow2Disk
from labs.contents import bytes_of, entries, partial, write_as_guest
from labs.engines import MakeEngine
from labs.images import qcow2, qemu_img, sparse_raw
from labs.templates import Template


@pytest.fixture
def base(instances: Path, raw_image: Template) -> Path:
    """Where the base of ``raw_image`` is, or will be."""
    return instances / "_base" / raw_image.name


def set_aside(base: Path) -> list[Path]:
    return sorted(base.parent.glob(f"{base.name}.bad-*"))


def damaged(base: Path, how: str) -> None:
    base.chmod(0o640)
    if how == "truncated":
        os.truncate(base, 4 * Mi)
    elif how == "grown":
        os.truncate(base, 9 * Mi)
    elif how == "first block flipped":
        with base.open("r+b") as file:
            first = file.read(1)
            file.seek(0)
            file.write(bytes([first[0] ^ 0xFF]))
    elif how == "replaced":
        base.unlink()
        base.write_bytes(b"other".ljust(8 * Mi, b"\0"))
    elif how == "replaced by a container":
        base.unlink()
        qcow2(base, 8 * Mi)


@pytest.mark.parametrize("how", ["truncated", "grown", "first block flipped", "replaced", "replaced by a container"])
def test_damaged_base_is_put_aside_and_fetched_again(
    engine: Engine, raw_image: Template, raw_content: Path, base: Path, how: str
) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    damaged(base, how)
    bad = base.read_bytes()
    disk = engine.disk("web2")
    cached = disk.cache(raw_image, raw_image.name)
    assert (cached.fetched, raw_image.fetches) == (True, 2)
    assert bytes_of(disk) == raw_content.read_bytes()
    [aside] = set_aside(base)
    assert aside.read_bytes() == bad


def test_base_that_was_copied_back_is_known_by_its_content(
    engine: Engine, raw_image: Template, raw_content: Path, base: Path
) -> None:
    """After a restore it is another inode with the same bytes: nothing is fetched."""
    engine.disk("web1").cache(raw_image, raw_image.name)
    shutil.copy2(base, base.with_name("copy"))
    base.with_name("copy").rename(base)
    disk = engine.disk("web2")
    assert disk.cache(raw_image, raw_image.name).fetched is False
    assert bytes_of(disk) == raw_content.read_bytes()
    assert set_aside(base) == []


def test_base_that_is_a_link_is_refused(engine: Engine, raw_image: Template, base: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret" * 1024)
    base.parent.mkdir(parents=True)
    base.symlink_to(tmp_path / "secret")
    with pytest.raises(errors.Error):
        engine.disk("web1").cache(raw_image, raw_image.name)
    assert engine.disk("web1").exists() is False
    assert (tmp_path / "secret").read_bytes() == b"secret" * 1024


@pytest.fixture
def overlay(make_engine: MakeEngine, raw_image: Template, instances: Path) -> Engine:
    """An overlay on which a guest wrote; its base is still there."""
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name, 9 * Mi)
    write_as_guest(instances / "web1" / "disk", "qcow2", Mi, b"guest" * 1024)
    return engine


def test_base_that_went_is_brought_back_and_the_disk_not_touched(
    overlay: Engine, raw_image: Template, instances: Path, base: Path
) -> None:
    disk, path = overlay.disk("web1"), instances / "web1" / "disk"
    view, before = bytes_of(disk), (path.read_bytes(), path.stat().st_mtime_ns)
    base.unlink()
    manifests.path_of(base).unlink()
    cached = disk.cache(raw_image, raw_image.name, 9 * Mi)
    assert (cached.way, cached.fetched, cached.grown) == ("exists", True, False)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert bytes_of(disk) == view


@pytest.mark.parametrize("call", ["extract", "flatten", "snapshot"])
def test_what_needs_a_base_that_went_says_so_and_leaves_the_disk(
    overlay: Engine, instances: Path, base: Path, tmp_path: Path, call: str
) -> None:
    disk, path = overlay.disk("web1"), instances / "web1" / "disk"
    base.unlink()
    before = path.read_bytes()
    assert isinstance(disk, Qcow2Disk)
    calls: dict[str, Callable[[], None]] = {
        "extract": lambda: disk.extract(tmp_path / "target", "raw"),
        "flatten": disk.flatten,
        "snapshot": lambda: disk.create_snap("first"),
    }
    with pytest.raises(errors.BaseMissing, match="create the disk again"):
        calls[call]()
    assert path.read_bytes() == before
    assert not (tmp_path / "target").exists()
    assert disk.info().size == 9 * Mi
    disk.resize(10 * Mi)  # and what does not need it works


@pytest.mark.parametrize("how", ["other content", "gone", "down", "unsafe"])
def test_base_that_cannot_be_had_again_is_missing_and_the_disk_not_touched(
    overlay: Engine, raw_image: Template, instances: Path, base: Path, tmp_path: Path, how: str
) -> None:
    disk, path = overlay.disk("web1"), instances / "web1" / "disk"
    base.unlink()
    manifests.path_of(base).unlink()
    before = path.read_bytes()
    image = raw_image
    if how == "other content":
        image = raw_image.but(content=sparse_raw(tmp_path / "other", 8 * Mi, data={0: b"other"}))
    elif how == "unsafe":
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", str(tmp_path / "evil"), "8M")
        image = raw_image.but(content=tmp_path / "evil", format="qcow2")
    else:
        failure = errors.ImageNotFound("gone") if how == "gone" else errors.SourceUnavailable("down")

        def fail(*_: object) -> None:
            raise failure

        image = raw_image.but(before=fail)
    with pytest.raises(errors.BaseMissing, match=raw_image.name):
        disk.cache(image, image.name, 9 * Mi)
    assert path.read_bytes() == before
    assert not base.exists()
    assert partial(instances) == set()


def test_base_that_went_needs_the_image_that_the_disk_was_made_from(
    overlay: Engine, raw_image: Template, qcow2_image: Template, base: Path
) -> None:
    base.unlink()
    with pytest.raises(errors.DiskError, match="web1/disk was made of the image raw-image"):
        overlay.disk("web1").cache(qcow2_image, qcow2_image.name, 9 * Mi)
    assert qcow2_image.fetches == 0


def test_base_that_goes_while_a_disk_is_made_is_brought_back(
    make_engine: MakeEngine, raw_image: Template, raw_content: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web0").cache(raw_image, raw_image.name)
    real = empty.empty_overlay

    def remove_meanwhile(*arguments: object) -> object:
        base.unlink()
        return real(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(driver, "empty_overlay", remove_meanwhile)
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    assert raw_image.fetches == 2
    assert bytes_of(disk) == raw_content.read_bytes()


def test_base_that_is_replaced_while_a_disk_is_made_undoes_the_disk(
    make_engine: MakeEngine, raw_image: Template, base: Path, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web0").cache(raw_image, raw_image.name)
    real = empty.empty_overlay

    def replace_meanwhile(*arguments: object) -> object:
        damaged(base, "replaced")
        manifests.path_of(base).unlink()
        return real(*arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(driver, "empty_overlay", replace_meanwhile)
    with pytest.raises(errors.BaseMissing, match="replaced"):
        engine.disk("web1").cache(raw_image, raw_image.name)
    assert engine.disk("web1").exists() is False
    assert not any(name.startswith("web1/") for name in entries(instances))


def test_raw_copy_has_the_bytes_of_the_base_that_was_checked(
    make_engine: MakeEngine, raw_image: Template, raw_content: Path, base: Path
) -> None:
    """It reads the descriptor that was opened under the base's lock: what the name means later is nothing to it."""
    engine = make_engine({"images_type": "raw"})
    engine.disk("web0").cache(raw_image, raw_image.name)

    def replace_meanwhile(phase: str, done: int, total: int | None) -> None:
        if phase == "copy" and base.exists():
            base.unlink()

    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name, progress=replace_meanwhile)
    assert bytes_of(disk) == raw_content.read_bytes()


@pytest.mark.parametrize("force_raw", [True, False])
def test_lost_manifest_is_made_again_by_what_overlays_state(
    make_engine: MakeEngine,
    raw_image: Template,
    qcow2_image: Template,
    raw_content: Path,
    instances: Path,
    force_raw: bool,
) -> None:
    image = raw_image if force_raw else qcow2_image
    overrides = {"images_type": "qcow2", "force_raw_images": force_raw}
    make_engine(overrides).disk("web1").cache(image, image.name)
    base = instances / "_base" / image.name
    manifests.path_of(base).unlink()
    disk = make_engine(overrides).disk("web2")
    assert disk.cache(image, image.name).fetched is False
    assert bytes_of(disk) == raw_content.read_bytes()
    made = manifests.read(base)
    assert made is not None
    assert made.format == ("raw" if force_raw else "qcow2")


@pytest.fixture
def nested(tmp_path: Path, raw_content: Path) -> Template:
    """A raw image whose content is a qcow2 that refers to a file of this host: what a guest may upload."""
    secret = sparse_raw(tmp_path / "secret", Mi, data={0: b"TOP SECRET" * 100})
    path = tmp_path / "nested"
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(path), "1M")
    os.truncate(path, -(-path.stat().st_size // 512) * 512)
    return Template(content=path, image_id="nested", format=None, role="image")


def test_raw_image_that_contains_a_container_is_refused_on_its_way_in(engine: Engine, nested: Template) -> None:
    for declared in ("raw", "qcow2", None):
        with pytest.raises(errors.TemplateUnsafe):
            engine.disk("web1").cache(nested.but(format=declared), nested.name)


def test_raw_base_whose_content_is_a_container_stays_raw(
    engine: Engine, images_type: str, nested: Template, instances: Path, tmp_path: Path
) -> None:
    """Declared as untyped (ami), it is raw whatever it contains, and is so for ever."""
    untyped = nested.but(format="ami")
    for instance in ("web1", "web2"):
        disk = engine.disk(instance)
        disk.cache(untyped, untyped.name)
        assert bytes_of(disk) == nested.content.read_bytes()
        disk.extract(tmp_path / f"{instance}.raw", "raw")
        disk.extract(tmp_path / f"{instance}.qcow2", "qcow2")
        assert (tmp_path / f"{instance}.raw").read_bytes() == nested.content.read_bytes()
    [base] = engine.bases()
    assert base.manifest is not None
    assert base.manifest.format == "raw"


def test_raw_base_whose_content_is_a_container_stays_raw_without_its_manifest(
    engine: Engine, images_type: str, nested: Template, instances: Path
) -> None:
    """By the overlays that state it, which we wrote; without any, nobody can tell, and it is refused."""
    untyped = nested.but(format="ami")
    engine.disk("web1").cache(untyped, untyped.name)
    base = instances / "_base" / nested.name
    manifests.path_of(base).unlink()
    disk = engine.disk("web2")
    if images_type == "qcow2":
        disk.cache(untyped, untyped.name)
        assert bytes_of(disk) == nested.content.read_bytes()
    else:
        with pytest.raises(errors.TemplateUnsafe, match="no manifest"):
            disk.cache(untyped, untyped.name)
        assert disk.exists() is False


def test_overlays_that_differ_over_a_base_are_refused(
    make_engine: MakeEngine, raw_image: Template, instances: Path, base: Path
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    for instance in ("web1", "web2"):
        engine.disk(instance).cache(raw_image, raw_image.name)
    path = instances / "web2" / "disk"
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(path))
    manifests.path_of(base).unlink()
    with pytest.raises(errors.TemplateUnsafe, match="differ over its format"):
        engine.disk("web3").cache(raw_image, raw_image.name)


def test_file_that_nobody_recorded_does_not_decide_the_format_of_a_base(
    make_engine: MakeEngine, raw_image: Template, instances: Path, base: Path, raw_content: Path
) -> None:
    """A guest can write such a header on a raw disk, and a raw disk can lose its record."""
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    (instances / "stray").mkdir()
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", str(base), "-F", "qcow2", str(instances / "stray/disk"), "8M")
    manifests.path_of(base).unlink()
    disk = engine.disk("web2")
    disk.cache(raw_image, raw_image.name)
    assert bytes_of(disk) == raw_content.read_bytes()
    assert engine.users()[raw_image.name] == ["stray/disk", "web1/disk", "web2/disk"]


def test_broken_manifest_is_made_again(
    make_engine: MakeEngine, raw_image: Template, base: Path, raw_content: Path
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    manifests.path_of(base).write_text("{")
    disk = engine.disk("web2")
    assert disk.cache(raw_image, raw_image.name).fetched is False
    assert bytes_of(disk) == raw_content.read_bytes()


def test_use_renews_the_lease(engine: Engine, raw_image: Template, base: Path) -> None:
    engine.disk("web1").cache(raw_image, raw_image.name)
    for path in (base, manifests.path_of(base)):
        os.utime(path, (1, 1))
    engine.disk("web2").cache(raw_image, raw_image.name)
    assert manifests.last_used(base) > 1
    assert base.stat().st_mtime > 1


def test_legacy_backing_file_of_nova_is_made_again(
    make_engine: MakeEngine, instances: Path, raw_image: Template, raw_content: Path
) -> None:
    """``<sha1>_<GiB>``: the image, enlarged; an old overlay refers to it."""
    legacy = instances / "_base" / f"{raw_image.name}_1"
    legacy.parent.mkdir()
    shutil.copy2(raw_content, legacy)
    os.truncate(legacy, 1 << 30)
    path = instances / "web1" / "disk"
    path.parent.mkdir()
    qemu_img("create", "-q", "-f", "qcow2", "-b", str(legacy), "-F", "raw", str(path), "1G")
    (instances / "web1" / "disk.info").write_text(f'{{"{path}": "qcow2"}}')
    write_as_guest(path, "qcow2", 2 * Mi, b"guest" * 1024)
    qemu_img("convert", "-f", "qcow2", "-O", "raw", str(path), str(instances.with_name("view")))
    before = path.read_bytes()
    legacy.unlink()
    engine = make_engine({"images_type": "qcow2"})
    cached = engine.disk("web1").cache(raw_image, raw_image.name, 1 << 30)
    assert (cached.way, cached.fetched, raw_image.fetches) == ("exists", True, 1)
    assert path.read_bytes() == before
    assert legacy.stat().st_mode & 0o777 == 0o440
    qemu_img("compare", "-f", "qcow2", "-F", "raw", str(path), str(instances.with_name("view")))
    assert partial(instances) == set()


def test_legacy_backing_file_that_cannot_be_made_leaves_nothing(
    make_engine: MakeEngine, instances: Path, raw_image: Template
) -> None:
    path = instances / "web1" / "disk"
    path.parent.mkdir()
    legacy = instances / "_base" / f"{raw_image.name}_1"
    qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", str(legacy), "-F", "raw", str(path), "1G")
    (instances / "web1" / "disk.info").write_text(f'{{"{path}": "qcow2"}}')

    def cancel(phase: str, done: int, total: int | None) -> None:
        if phase == "copy":
            raise InterruptedError("enough")

    engine = make_engine({"images_type": "qcow2"})
    with pytest.raises(InterruptedError):
        engine.disk("web1").cache(raw_image, raw_image.name, progress=cancel)
    assert partial(instances) == set()
    assert not legacy.exists()


def test_folder_that_goes_while_users_are_looked_for_is_no_error(
    make_engine: MakeEngine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    real = instance_folders.instances
    monkeypatch.setattr(instance_folders, "instances", lambda host: ["gone", *real(host)])
    assert engine.users() == {raw_image.name: ["web1/disk"]}


@pytest.mark.parametrize("name", ["disks.json", "disk.info"])
def test_broken_record_of_one_instance_stops_neither_lists_nor_others(
    make_engine: MakeEngine, raw_image: Template, instances: Path, base: Path, name: str
) -> None:
    """Its own disk is an error; its base counts as used."""
    engine = make_engine({"images_type": "qcow2"})
    for instance in ("web1", "web2"):
        engine.disk(instance).cache(raw_image, raw_image.name)
    (instances / "web1" / name).write_text("{")
    assert engine.users() == {raw_image.name: ["web1/disk", "web2/disk"]}
    assert "web2/disk" in [str(disk.id) for disk in engine.disks()]
    manifests.path_of(base).unlink()
    assert engine.disk("web3").cache(raw_image, raw_image.name).fetched is False
    if name == "disks.json":
        with pytest.raises(errors.DiskError, match="broken"):
            engine.disk("web1").info()
