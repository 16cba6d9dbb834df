"""What a guest writes on its own raw disk is never taken for what the disk is.

The guest writes a qcow2 header whose backing, or data, file is a secret of the host.  Then
the configuration changes, and the record is lost.  No call may give the secret away.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine, errors
from imgbackend.driver.contract import Disk
from imgbackend.types import Mi
from labs.contents import entries
from labs.engines import MakeEngine
from labs.images import qemu_img, sparse_raw
from labs.templates import Template

_SECRET = b"TOP SECRET OF THIS HOST"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return sparse_raw(tmp_path / "secret", 8 * Mi, data=dict.fromkeys(range(0, 8 * Mi, Mi), _SECRET * 100))


@pytest.fixture(params=["backing file", "data file", "backing file among the bases", "zero byte"])
def header(request: pytest.FixtureRequest, tmp_path: Path, secret: Path, instances: Path) -> bytes:
    """What the guest writes at the beginning of its disk."""
    path = tmp_path / "header"
    if request.param == "data file":
        qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={secret},data_file_raw=on", str(path), "8M")
        secret.write_bytes(_SECRET.ljust(8 * Mi, b"."))  # qemu-img emptied it
    else:
        name = str(secret)
        if request.param == "backing file among the bases":
            name = f"{instances}/_base/../../{secret.name}"
        qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", str(path), "8M")
    content = path.read_bytes()
    if request.param == "zero byte":
        content = content.replace(str(secret).encode(), b"\0" + str(secret).encode()[1:], 1)
    return content


@pytest.fixture
def written(make_engine: MakeEngine, raw_image: Template, instances: Path, header: bytes) -> Path:
    """A raw disk on which a guest wrote the header."""
    make_engine({"images_type": "raw"}).disk("web1").cache(raw_image, raw_image.name)
    path = instances / "web1" / "disk"
    with path.open("r+b") as file:
        file.write(header)
    return path


def every_call(engine: Engine, disk: Disk[Any], image: Template, out: Path) -> Iterator[Callable[[], object]]:
    """All that reads a disk, or what is on it; each may refuse."""
    yield disk.exists
    yield disk.info
    yield lambda: disk.resize(9 * Mi)
    yield lambda: disk.extract(out / "raw", "raw")
    yield lambda: disk.extract(out / "qcow2", "qcow2")
    yield lambda: disk.cache(image, image.name, 10 * Mi)
    yield lambda: disk.explain(image, image.name, 10 * Mi)
    yield lambda: disk.create_snap("first")  # type: ignore[attr-defined]  # of qcow2; raw has none
    yield lambda: disk.snaps()  # type: ignore[attr-defined]  # as above
    yield lambda: disk.flatten()  # type: ignore[attr-defined]  # as above
    yield lambda: list(engine.disks())
    yield lambda: list(engine.bases())
    yield engine.users


def called(engine: Engine, disk: Disk[Any], image: Template, out: Path) -> list[type[BaseException] | None]:
    """What each call raised; none but ours."""
    out.mkdir()
    found: list[type[BaseException] | None] = []
    for call in every_call(engine, disk, image, out):
        found.append(None)
        with contextlib.suppress(AttributeError):
            try:
                call()
            except errors.Error as exc:
                assert _SECRET.decode() not in str(exc)  # noqa: PT017 - it may be refused, or work
                found[-1] = type(exc)
    return found


def assert_no_secret(*folders: Path) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                assert _SECRET not in path.read_bytes(), path


def test_recorded_raw_disk_is_raw_whatever_is_configured(
    make_engine: MakeEngine, raw_image: Template, written: Path, header: bytes, tmp_path: Path, instances: Path
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    disk = engine.disk("web1")
    assert (disk.backend.name, disk.info().format, disk.info().size) == ("raw", "raw", 8 * Mi)
    assert called(engine, disk, raw_image, tmp_path / "out").count(None) > 8
    assert (tmp_path / "out" / "raw").read_bytes()[: len(header)] == header
    assert disk.info().size == 10 * Mi
    qemu_img("compare", "-f", "raw", "-F", "qcow2", str(tmp_path / "out" / "raw"), str(tmp_path / "out" / "qcow2"))
    assert_no_secret(instances, tmp_path / "out")


@pytest.mark.parametrize("lost", [["disks.json"], ["disks.json", "disk.info"]])
def test_disk_without_a_record_gives_no_secret_away(
    make_engine: MakeEngine,
    raw_image: Template,
    written: Path,
    header: bytes,
    tmp_path: Path,
    instances: Path,
    secret: Path,
    lost: list[str],
) -> None:
    for name in lost:
        (instances / "web1" / name).unlink()
    before = secret.read_bytes()
    engine = make_engine({"images_type": "qcow2"})
    disk = engine.disk("web1")
    refused = called(engine, disk, raw_image, tmp_path / "out")
    if lost == ["disks.json"]:
        assert disk.info().format == "raw"  # Nova's file still tells
    else:
        assert any(refused)
        assert not any(kind is errors.StorageError for kind in refused)
    assert_no_secret(instances, tmp_path / "out")
    assert secret.read_bytes() == before


def test_stray_header_stops_nobody_else(
    make_engine: MakeEngine, raw_image: Template, qcow2_image: Template, written: Path, instances: Path
) -> None:
    """A disk without a record, whose header is broken, is only its owner's trouble."""
    for name in ("disks.json", "disk.info"):
        (instances / "web1" / name).unlink()
    for path in (instances / "_base").glob("*.json"):
        path.unlink()
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web2").cache(raw_image, raw_image.name)
    engine.disk("web3").cache(qcow2_image, qcow2_image.name)
    assert [str(disk.id) for disk in engine.disks()] == ["web2/disk", "web3/disk"]
    assert sorted(engine.users()) == sorted([raw_image.name, qcow2_image.name])


def test_overlay_whose_header_was_changed_to_a_host_file_is_refused(
    make_engine: MakeEngine, raw_image: Template, instances: Path, secret: Path, tmp_path: Path
) -> None:
    """No guest can do that; whoever restored the file from elsewhere can."""
    engine = make_engine({"images_type": "qcow2"})
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    path = instances / "web1" / "disk"
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(path))
    before = path.read_bytes()
    with pytest.raises(errors.DiskError, match="no base of this host"):
        disk.extract(tmp_path / "out", "raw")
    with pytest.raises(errors.DiskError, match="no base of this host"):
        disk.cache(raw_image, raw_image.name)
    assert path.read_bytes() == before
    assert not (tmp_path / "out").exists()
    assert "web1/.disk.part" not in entries(instances)


def test_overlay_that_takes_its_base_for_another_format_is_refused(
    make_engine: MakeEngine, raw_image: Template, instances: Path, tmp_path: Path
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    base, path = instances / "_base" / raw_image.name, instances / "web1" / "disk"
    qemu_img("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(path))
    with pytest.raises(errors.DiskError, match="takes its base for qcow2"):
        disk.extract(tmp_path / "out", "raw")
