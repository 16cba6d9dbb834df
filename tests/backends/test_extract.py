"""Export of a whole disk: what a guest sees, under its name when it is whole, and never over another file."""

import os
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Mi
from labs.contents import bytes_of, write_as_guest
from labs.engines import MakeEngine
from labs.holders import guest_on
from labs.images import qemu_img, same_for_guest
from labs.templates import Template

WAYS = [("raw", False), ("qcow2", False), ("qcow2", True)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


@pytest.mark.parametrize(("format", "compress"), WAYS)
@pytest.mark.parametrize("delivered", ["raw", "qcow2"])
def test_export_is_what_the_guest_sees(
    engine: Engine,
    instances: Path,
    images_type: str,
    request: pytest.FixtureRequest,
    out: Path,
    delivered: str,
    format: str,
    compress: bool,
) -> None:
    image: Template = request.getfixturevalue(f"{delivered}_image")
    disk = engine.disk("web1")
    disk.cache(image, image.name, 12 * Mi)
    path = instances / "web1" / "disk"
    write_as_guest(path, images_type, 3 * Mi + 5120, os.urandom(70_000 // 512 * 512))
    target = out / "disk, exported:1"
    told: list[str] = []
    disk.extract(target, format, compress=compress, progress=lambda phase, *_: told.append(phase))
    assert same_for_guest(target, format, path, images_type)
    if format == "raw":
        assert target.read_bytes() == bytes_of(disk)
    else:
        info = qemu_img("info", "-f", "qcow2", str(target))
        assert "backing file" not in info
    assert set(told) <= {"extract"}
    assert os.listdir(out) == [target.name]


def test_compressed_export_is_smaller(engine: Engine, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"the same words again and again " * 100_000)
    text = Template(content=path, image_id="text", format="raw")
    disk = engine.disk("web1")
    disk.cache(text, text.name)
    for compress in (False, True):
        disk.extract(out / f"{compress}", "qcow2", compress=compress)
    assert (out / "True").stat().st_size < (out / "False").stat().st_size / 4


@pytest.mark.parametrize("kind", ["file", "empty file", "dangling link", "folder"])
def test_export_never_overwrites(engine: Engine, raw_image: Template, out: Path, kind: str) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    target = out / "there"
    if kind == "folder":
        target.mkdir()
    elif kind == "dangling link":
        target.symlink_to(out / "nowhere")
    else:
        target.write_bytes(b"mine" if kind == "file" else b"")
    before = os.lstat(target)
    with pytest.raises(errors.DiskError, match="there already"):
        disk.extract(target, "raw")
    assert os.lstat(target) == before
    assert os.listdir(out) == ["there"]


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_export_does_not_overwrite_what_appears_meanwhile(
    engine: Engine, raw_image: Template, out: Path, format: str
) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    target = out / "there"

    def appear(*_: object) -> None:
        target.write_bytes(b"mine")

    with pytest.raises(errors.DiskError, match="there already"):
        disk.extract(target, format, progress=appear)
    assert target.read_bytes() == b"mine"
    assert os.listdir(out) == ["there"]


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_cancelled_export_leaves_nothing(engine: Engine, raw_image: Template, out: Path, format: str) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    raised = BrokenPipeError("enough")

    def cancel(*_: object) -> None:
        raise raised

    with pytest.raises(BrokenPipeError) as caught:
        disk.extract(out / "it", format, progress=cancel)
    assert caught.value is raised
    assert os.listdir(out) == []


@pytest.mark.parametrize(
    ("target", "format", "compress", "words"),
    [
        ("it", "vmdk", False, "no format to export to"),
        ("it", "raw", True, "only qcow2"),
        ("nowhere/it", "raw", False, "no folder"),
    ],
)
def test_bad_order_is_refused_with_what_to_do(
    engine: Engine, raw_image: Template, out: Path, target: str, format: str, compress: bool, words: str
) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    with pytest.raises(errors.DiskError, match=words):
        disk.extract(out / target, format, compress=compress)
    assert os.listdir(out) == []


def test_export_of_an_absent_disk_leaves_nothing(engine: Engine, out: Path) -> None:
    with pytest.raises(errors.DiskNotFound):
        engine.disk("web1").extract(out / "it", "raw")
    assert os.listdir(out) == []


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_export_under_a_running_guest_is_refused(
    engine: Engine, instances: Path, images_type: str, raw_image: Template, out: Path, format: str
) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    with guest_on(instances / "web1" / "disk", images_type), pytest.raises(errors.DiskBusy, match="stop its guest"):
        disk.extract(out / "it", format)
    assert os.listdir(out) == []
    disk.extract(out / "it", format)


def test_flat_qcow2_disk_is_exported_too(
    make_engine: MakeEngine, qcow2_image: Template, raw_content: Path, out: Path
) -> None:
    disk = make_engine({"images_type": "raw", "force_raw_images": False}).disk("web1")
    disk.cache(qcow2_image, qcow2_image.name)
    disk.extract(out / "raw", "raw")
    disk.extract(out / "qcow2", "qcow2", compress=True)
    assert (out / "raw").read_bytes() == raw_content.read_bytes()
    assert same_for_guest(out / "qcow2", "qcow2", raw_content, "raw")
