"""A folder that the real Nova made is taken over as it is, and stays Nova's too."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.driver.abilities import Flattenable, Snapshottable
from imgbackend.driver.contract import Disk
from imgbackend.types import Declared, Delivered, Gi, Mi, Progress, base_name
from labs.corpus import SECRET, patch
from labs.images import same_for_guest
from labs.nova import Nova
from takeover.conftest import FLAT, FLAT_QCOW2, LEGACY, LEGACY_QCOW2, ON_QCOW2, OVERLAY, Host, MakeEngine


def _never(_target: Path, _progress: Progress) -> None:
    raise AssertionError("it is cached, and was fetched nevertheless")


class _Image:
    """An image that Nova knew by ``image_id``, from where Nova had it."""

    def __init__(self, host: Host, image_id: str, format: str) -> None:
        self.declared = Declared(image_id=image_id, source=f"test:{image_id}", format=format)
        self.path = host.images[image_id]
        self.fetched = 0

    def __call__(self, target: Path, _progress: Progress) -> Delivered:
        self.fetched += 1
        target.write_bytes(self.path.read_bytes())
        return Delivered(size=target.stat().st_size)


def _disk(engine: Engine, which: str) -> Disk[Any]:
    instance, _, name = which.partition("/")
    return engine.disk(instance, name)


def _formats_by_nova(instances: Path, instance: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((instances / instance / "disk.info").read_text())
    return found


@pytest.mark.parametrize("images_type", ["qcow2", "raw", "default", "flat"])
def test_disks_are_listed_in_nova_s_formats(images_type: str, host: Host, make_engine: MakeEngine) -> None:
    engine = make_engine(images_type=images_type)
    assert {str(disk.id): disk.info().format for disk in engine.disks()} == host.disks


def test_bases_are_listed(host: Host, make_engine: MakeEngine) -> None:
    engine = make_engine()
    names = {base_name(image_id) for image_id in ("raw", "qcow2", "kept", "kernel")}
    enlarged = {f"{base_name('raw')}_2", f"{base_name('kept')}_2"}
    assert {base.name for base in engine.bases()} == names | enlarged | {"swap_4"}
    users = engine.users()
    assert users[base_name("raw")] == [f"{OVERLAY}/disk"]
    assert users[f"{base_name('raw')}_2"] == [f"{LEGACY}/disk"]


@pytest.mark.parametrize("images_type", ["qcow2", "raw"])
def test_extract_gives_what_the_guest_sees(
    images_type: str, host: Host, make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = make_engine(images_type=images_type)
    for at, (which, seen) in enumerate(host.seen.items()):
        for kind in ("raw", "qcow2"):
            out = tmp_path / f"out{at}.{kind}"
            _disk(engine, which).extract(out, kind)
            assert same_for_guest(out, kind, seen, "raw")


def test_grown_disk_is_what_nova_expects(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    engine = make_engine()
    for which, kept in host.disks.items():
        if which.endswith("kernel"):
            continue
        instance, _, name = which.partition("/")
        disk = _disk(engine, which)
        disk.resize(3 * Gi)
        assert disk.info().size == 3 * Gi
        backend = "flat" if instance in (FLAT, FLAT_QCOW2) else "qcow2"
        told = nova.do("look", backend=backend, instance=instance, name=name)
        assert told == {"format": kept, "size": 3 * Gi, "exists": True}
        assert same_for_guest(host.instances / which, kept, host.seen[which], "raw")
        assert (host.instances / which).stat().st_blocks * 512 < 8 * Mi, "a container is not padded"


def test_snapshot_of_nova_s_disk_rolls_back(host: Host, make_engine: MakeEngine) -> None:
    disk = make_engine().disk(OVERLAY)
    assert isinstance(disk, Snapshottable)
    disk.create_snap("before")
    patch(host.instances / OVERLAY / "disk", (host.instances / OVERLAY / "disk").stat().st_size, b"")
    disk.resize(16 * Mi)
    disk.rollback_to_snap("before")
    assert disk.info().size == 8 * Mi
    assert same_for_guest(host.instances / OVERLAY / "disk", "qcow2", host.seen[f"{OVERLAY}/disk"], "raw")


def test_flattened_disk_needs_no_base(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    for instance, image_id in ((OVERLAY, "raw"), (ON_QCOW2, "kept")):
        disk = make_engine().disk(instance)
        assert isinstance(disk, Flattenable)
        disk.flatten()
        host.base(image_id).unlink()
        assert same_for_guest(host.instances / instance / "disk", "qcow2", host.seen[f"{instance}/disk"], "raw")


@pytest.mark.parametrize("images_type", ["qcow2", "raw"])
@pytest.mark.parametrize("image_id", ["raw", "qcow2", "kept"])
def test_nova_s_base_is_used_without_a_fetch(
    image_id: str, images_type: str, host: Host, make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = make_engine(images_type=images_type)
    made = engine.disk("new").cache(_never, base_name(image_id), 6 * Mi)
    assert not made.fetched
    assert made.size == 6 * Mi
    engine.disk("new").extract(tmp_path / "out", "raw")
    assert same_for_guest(tmp_path / "out", "raw", host.images["raw"], "raw")
    [base] = [base for base in engine.bases() if base.name == base_name(image_id)]
    assert base.manifest is not None
    assert base.manifest.format == ("qcow2" if image_id == "kept" else "raw")


def test_nova_goes_on_with_a_base_of_ours(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    engine = make_engine()
    image = engine.image("image.qcow2")
    engine.disk("new").cache(image, image.filename)
    nova.do("image", id=image.id, path="/nowhere", disk_format="qcow2")
    made = nova.do("disk", backend="qcow2", instance="0a1b-new", name="disk", image_id=image.id, size=4 * Mi)
    assert made["base"] == image.filename
    assert same_for_guest(Path(made["path"]), "qcow2", host.images["raw"], "raw")
    assert engine.disk("0a1b-new").info().size == 4 * Mi


def test_disk_of_ours_is_nova_s_too(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    for images_type, backend, kept in (("qcow2", "qcow2", "qcow2"), ("raw", "flat", "raw")):
        instance = f"0a1b-{images_type}"
        engine = make_engine(images_type=images_type)
        image = engine.image("image.qcow2")
        engine.disk(instance).cache(image, image.filename, 4 * Mi)
        told = nova.do("look", backend=backend, instance=instance, name="disk")
        assert told == {"format": kept, "size": 4 * Mi, "exists": True}


def test_our_writes_keep_nova_s_disk_info(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    before = _formats_by_nova(host.instances, OVERLAY)
    engine = make_engine(images_type="raw")
    image = engine.image("image.raw")
    engine.disk(OVERLAY, "disk.eph0").cache(image, image.filename)
    path = str(host.instances / OVERLAY / "disk.eph0")
    assert _formats_by_nova(host.instances, OVERLAY) == {**before, path: "raw"}
    assert nova.do("look", backend="flat", instance=OVERLAY, name="disk.eph0")["format"] == "raw"
    assert nova.do("look", backend="qcow2", instance=OVERLAY, name="disk")["format"] == "qcow2"
    engine.disk(OVERLAY, "disk.eph0").remove()
    assert _formats_by_nova(host.instances, OVERLAY) == before


def test_deleted_disk_takes_nothing_with_it(host: Host, make_engine: MakeEngine, nova: Nova) -> None:
    engine = make_engine()
    bases = {base.name for base in engine.bases()}
    for which in host.disks:
        if which != f"{OVERLAY}/kernel":
            _disk(engine, which).remove()
            assert not (host.instances / which).exists()
    assert [str(disk.id) for disk in engine.disks()] == [f"{OVERLAY}/kernel"]
    assert _formats_by_nova(host.instances, OVERLAY) == {str(host.instances / OVERLAY / "kernel"): "raw"}
    assert (host.instances / OVERLAY / "console.log").exists()
    assert not (host.instances / FLAT).exists()
    assert {base.name for base in engine.bases()} == bases
    assert nova.do("look", backend="flat", instance=OVERLAY, name="kernel")["exists"]


@pytest.mark.parametrize(
    ("instance", "image_id"), [(OVERLAY, "raw"), (ON_QCOW2, "kept"), (LEGACY, "raw"), (LEGACY_QCOW2, "kept")]
)
def test_base_that_is_gone_comes_back(instance: str, image_id: str, host: Host, make_engine: MakeEngine) -> None:
    for path in host.instances.glob(f"_base/{base_name(image_id)}*"):
        path.unlink()
    engine = make_engine()
    image = _Image(host, image_id, "qcow2" if image_id == "kept" else "raw")
    made = engine.disk(instance).cache(image, base_name(image_id))
    assert (made.way, made.fetched, image.fetched) == ("exists", True, 1)
    assert same_for_guest(host.instances / instance / "disk", "qcow2", host.seen[f"{instance}/disk"], "raw")


def test_other_base_does_not_come_back_in_its_place(host: Host, make_engine: MakeEngine) -> None:
    host.base("kept").unlink()
    engine = make_engine()
    with pytest.raises(errors.BaseMissing):
        engine.disk(ON_QCOW2).cache(_Image(host, "raw", "raw"), base_name("raw"))
    with pytest.raises(errors.BaseMissing):
        engine.disk(ON_QCOW2).extract(host.instances / "out", "raw")


# Which backend: the record's, whatever is configured today


@pytest.mark.parametrize(("old", "new"), [("raw", "qcow2"), ("qcow2", "raw")])
def test_switching_images_type_leaves_old_disks_working(
    old: str, new: str, host: Host, make_engine: MakeEngine, tmp_path: Path
) -> None:
    image = make_engine().image("image.raw")
    make_engine(images_type=old).disk("web1").cache(image, image.filename, 4 * Mi)
    engine = make_engine(images_type=new)
    disk = engine.disk("web1")
    assert disk.backend.name == old
    assert disk.cache(image, image.filename, 6 * Mi).grown
    assert disk.info().format == old
    disk.extract(tmp_path / "out", "raw")
    assert same_for_guest(tmp_path / "out", "raw", host.images["raw"], "raw")
    engine.disk("web2").cache(image, image.filename)
    assert {str(disk.id): disk.info().format for disk in engine.disks() if "web" in disk.id.instance} == {
        "web1/disk": old,
        "web2/disk": new,
    }


@pytest.mark.parametrize(("old", "new"), [("raw", "qcow2"), ("qcow2", "raw")])
def test_other_images_type_asked_for_is_refused(old: str, new: str, host: Host, make_engine: MakeEngine) -> None:
    engine = make_engine()
    image = engine.image("image.raw")
    engine.disk("web1", images_type=old).cache(image, image.filename)
    with pytest.raises(errors.DiskError, match=f"backend {old} .* {new} was asked for"):
        engine.disk("web1", images_type=new)
    with pytest.raises(errors.DiskError, match=r"backend raw .* qcow2 was asked for"):
        engine.disk(FLAT, images_type="qcow2")
    with pytest.raises(errors.DiskError, match=r"backend qcow2 .* raw was asked for"):
        engine.disk(OVERLAY, images_type="raw")


def test_recorded_backend_that_is_gone_is_an_error(host: Host, make_engine: MakeEngine) -> None:
    engine = make_engine(images_type="fast", fast__driver="raw")
    image = engine.image("image.raw")
    engine.disk("web1").cache(image, image.filename)
    later = make_engine()
    for images_type in (None, "qcow2"):
        with pytest.raises(errors.ConfigError, match="web1/disk was made on the backend fast"):
            later.disk("web1", images_type=images_type)
    assert str(engine.disk(OVERLAY).id) in {str(disk.id) for disk in later.disks()}


def test_forged_header_on_nova_s_raw_disk_is_only_bytes(host: Host, make_engine: MakeEngine, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET)
    name = str(secret).encode()
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 104, len(name), 16, 1 << 30, 0, 1, 0, 0, 0, 0, 0)
    path = host.instances / FLAT / "disk"
    patch(path, 0, header.ljust(104, b"\0") + name)
    for images_type in ("qcow2", "raw"):
        engine = make_engine(images_type=images_type)
        disk = engine.disk(FLAT)
        disk.extract(tmp_path / images_type, "raw")
        assert (tmp_path / images_type).read_bytes() == path.read_bytes()
        disk.resize(disk.info().size + Mi)
        assert engine.users().get("secret") is None


def test_broken_disk_info_is_no_licence_to_guess(host: Host, make_engine: MakeEngine) -> None:
    for text in ("", "{", "[]", '{"/x/disk": 1}'):
        (host.instances / FLAT / "disk.info").write_text(text)
        with pytest.raises(errors.DiskError, match=r"disk\.info"):
            make_engine().disk(FLAT)
