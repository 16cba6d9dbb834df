"""Whose a disk is: its record decides, not what is configured today."""

import json
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.types import Mi
from labs.contents import bytes_of, write_as_guest
from labs.engines import MakeEngine
from labs.images import qcow2, qemu_img, sparse_raw
from labs.templates import Template

OTHER = {"raw": "qcow2", "qcow2": "raw"}


def test_old_disks_work_after_images_type_was_switched(
    make_engine: MakeEngine, images_type: str, raw_image: Template, raw_content: Path, tmp_path: Path
) -> None:
    make_engine({"images_type": images_type}).disk("web1").cache(raw_image, raw_image.name)
    engine = make_engine({"images_type": OTHER[images_type]})
    disk = engine.disk("web1")
    assert (disk.backend.name, disk.info().format) == (images_type, images_type)
    assert disk.cache(raw_image, raw_image.name, 9 * Mi).way == "exists"
    disk.extract(tmp_path / "out", "raw")
    assert (tmp_path / "out").read_bytes() == raw_content.read_bytes() + bytes(Mi)
    new = engine.disk("web2")
    new.cache(raw_image, raw_image.name)
    assert [(str(found.id), found.info().format) for found in engine.disks()] == [
        ("web1/disk", images_type),
        ("web2/disk", OTHER[images_type]),
    ]
    disk.remove()
    again = engine.disk("web1")
    again.cache(raw_image, raw_image.name)
    assert again.info().format == OTHER[images_type]


def test_another_images_type_than_the_recorded_is_refused_with_both(
    make_engine: MakeEngine, images_type: str, raw_image: Template
) -> None:
    engine = make_engine({"images_type": images_type})
    engine.disk("web1").cache(raw_image, raw_image.name)
    with pytest.raises(errors.DiskError, match=f"kept by the backend {images_type}.*{OTHER[images_type]} was asked"):
        engine.disk("web1", images_type=OTHER[images_type])
    disk = engine.backend(OTHER[images_type]).disk(engine.disk("web1").id)
    with pytest.raises(errors.DiskError, match="kept by the backend"):
        disk.cache(raw_image, raw_image.name)
    with pytest.raises(errors.DiskError, match="kept by the backend"):
        disk.remove()
    assert engine.disk("web1", images_type=images_type).exists()


def test_record_without_a_disk_binds_nobody(
    make_engine: MakeEngine, images_type: str, raw_image: Template, instances: Path
) -> None:
    make_engine({"images_type": images_type}).disk("web1").cache(raw_image, raw_image.name)
    (instances / "web1" / "disk").unlink()
    engine = make_engine({"images_type": OTHER[images_type]})
    disk = engine.disk("web1", images_type=OTHER[images_type])
    assert disk.exists() is False
    disk.cache(raw_image, raw_image.name)
    assert engine.disk("web1").info().format == OTHER[images_type]


def test_backend_that_is_no_longer_configured_is_for_the_operator(make_engine: MakeEngine, raw_image: Template) -> None:
    make_engine({"images_type": "fast", "fast.driver": "raw"}).disk("web1").cache(raw_image, raw_image.name)
    with pytest.raises(errors.ConfigError, match=r"made on the backend fast \(driver raw\)"):
        make_engine({"images_type": "raw"}).disk("web1")
    assert make_engine({"images_type": "raw", "fast.driver": "raw"}).disk("web1").backend.name == "fast"


@pytest.mark.parametrize("images_type", ["raw", "qcow2"])
@pytest.mark.parametrize("stated", ["raw", "qcow2"])
def test_disk_of_nova_is_what_disk_info_says_and_not_what_it_looks_like(
    make_engine: MakeEngine, instances: Path, tmp_path: Path, images_type: str, stated: str
) -> None:
    """Its bytes look like a qcow2 either way; disk.info was written where the instances were then."""
    path = instances / "web1" / "disk"
    path.parent.mkdir()
    qcow2(path, 8 * Mi)
    length = path.stat().st_size
    told = {"/var/lib/nova/instances/web1/disk": stated}
    (instances / "web1" / "disk.info").write_text(json.dumps(told))
    engine = make_engine({"images_type": images_type})
    disk = engine.disk("web1")
    assert (disk.info().format, disk.info().size) == (stated, 8 * Mi if stated == "qcow2" else length)
    assert [str(found.id) for found in engine.disks()] == ["web1/disk"]
    disk.resize(16 * Mi)
    assert disk.info().size == 16 * Mi
    disk.extract(tmp_path / "out", "raw")
    assert (tmp_path / "out").stat().st_size == 16 * Mi
    if stated == "qcow2":
        qemu_img("check", "-q", "-f", "qcow2", str(path))
    else:
        assert (tmp_path / "out").read_bytes()[:length] == path.read_bytes()[:length]
    disk.remove()
    assert not path.exists()


@pytest.mark.parametrize("format", ["vmdk", "ploop", ""])
def test_disk_of_nova_in_a_format_that_nobody_keeps_is_refused(
    make_engine: MakeEngine, instances: Path, format: str
) -> None:
    (instances / "web1").mkdir()
    sparse_raw(instances / "web1" / "disk", Mi)
    (instances / "web1" / "disk.info").write_text(json.dumps({"/i/web1/disk": format}))
    with pytest.raises(errors.DiskError, match="which no backend here keeps"):
        make_engine().disk("web1")


def test_two_sections_of_one_driver_are_two_backends(make_engine: MakeEngine, raw_image: Template) -> None:
    engine = make_engine({"images_type": "one", "one.driver": "raw", "two.driver": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    engine.disk("web2", images_type="two").cache(raw_image, raw_image.name)
    assert [(disk.backend.name, disk.info().format) for disk in engine.disks()] == [("one", "raw"), ("two", "qcow2")]
    assert [str(disk_id) for disk_id in engine.backend("one").list_disks()] == ["web1/disk"]
    assert {"one", "two", "raw", "qcow2"} <= set(engine.backend_names())


def test_flat_qcow2_stays_one_after_force_raw_images_was_switched_on(
    make_engine: MakeEngine, instances: Path, qcow2_image: Template, raw_content: Path
) -> None:
    make_engine({"images_type": "raw", "force_raw_images": False}).disk("web1").cache(qcow2_image, qcow2_image.name)
    disk = make_engine({"images_type": "raw"}).disk("web1")
    assert disk.info().format == "qcow2"
    write_as_guest(instances / "web1" / "disk", "qcow2", 0, b"guest" * 1024)
    assert bytes_of(disk)[5120:] == raw_content.read_bytes()[5120:]


def test_unknown_images_type_names_what_is_installed(make_engine: MakeEngine) -> None:
    with pytest.raises(errors.ConfigError, match=r"no driver zfs; installed are: .*qcow2, raw.*imgbackend-zfs"):
        make_engine({"images_type": "zfs"}).disk("web1")


@pytest.mark.parametrize(("cow", "format"), [(True, "qcow2"), (False, "raw")])
def test_default_and_flat_mean_what_they_mean_in_nova(make_engine: MakeEngine, cow: bool, format: str) -> None:
    assert make_engine({"use_cow_images": cow}).disk("web1").backend.name == format
    assert make_engine({"use_cow_images": cow, "images_type": "flat"}).disk("web1").backend.name == "raw"
