"""The reader of qcow2 headers: against qemu-img, and against whatever a stranger writes."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imgbackend import errors
from imgbackend.system import qcow2
from imgbackend.types import Gi, Ki, Mi, SnapshotInfo
from labs import images

CLUSTERS = [512 << step for step in range(13)]  # 512 bytes to 2 MiB


@pytest.mark.parametrize("cluster_size", CLUSTERS)
def test_header_is_what_qemu_img_says(tmp_path: Path, cluster_size: int) -> None:
    path = images.qcow2(tmp_path / "image", 3 * Gi + 512, cluster_size=cluster_size)
    told = json.loads(images.qemu_img("info", "--output=json", "-f", "qcow2", str(path)))
    header = qcow2.read(path)
    assert (header.virtual_size, header.cluster_size) == (told["virtual-size"], told["cluster-size"])
    assert (header.version, header.backing_file, header.backing_format) == (3, None, None)


@pytest.mark.parametrize(("compat", "version"), [("0.10", 2), ("1.1", 3)])
def test_versions_2_and_3_tell_their_base(tmp_path: Path, compat: str, version: int) -> None:
    base = images.sparse_raw(tmp_path / "base, with comma", Mi)
    path = tmp_path / "overlay"
    images.qemu_img(
        "create", "-q", "-f", "qcow2", f"-ocompat={compat}", "-b", str(base), "-F", "raw", str(path), str(2 * Mi)
    )
    header = qcow2.read(path)
    assert (header.version, header.virtual_size) == (version, 2 * Mi)
    assert (header.backing_file, header.backing_format) == (str(base), "raw")


def test_a_base_without_a_stated_format_is_told_so(tmp_path: Path) -> None:
    header = bytearray(qcow2_head(backing="/b"))
    assert qcow2.parse(bytes(header), "x").backing_format is None


def test_data_file_and_unknown_features_are_refused(tmp_path: Path) -> None:
    path = images.qcow2(tmp_path / "image", Mi, data_file=str(tmp_path / "data"))
    with pytest.raises(errors.DiskError, match="another file"):
        qcow2.refuse_foreign(qcow2.read(path), "it")
    for bit, words in ((1, "corrupt"), (5, "not known"), (63, "not known")):
        with pytest.raises(errors.DiskError, match=words):
            qcow2.refuse_foreign(qcow2.parse(qcow2_head(incompatible=1 << bit), "it"), "it")


@pytest.mark.parametrize("options", [{}, {"compression_type": "zstd"}, {"extended_l2": "on", "cluster_size": 128 * Ki}])
def test_features_that_qemu_img_makes_are_accepted(tmp_path: Path, options: dict[str, Any]) -> None:
    qcow2.refuse_foreign(qcow2.read(images.qcow2(tmp_path / "image", Mi, **options)), "it")


def test_snapshots_are_what_qemu_img_lists(tmp_path: Path) -> None:
    path = images.qcow2(tmp_path / "image", Mi)
    for name in ("one", "two-with-a-longer-name", "three"):
        images.qemu_img("snapshot", "-c", name, str(path))
        images.qemu_img("resize", "-q", "-f", "qcow2", str(path), "+1M")
    told = json.loads(images.qemu_img("info", "--output=json", "-f", "qcow2", str(path)))["snapshots"]
    found = _snapshots(path)
    assert [snap.name for snap in found] == [snap["name"] for snap in told]
    assert [snap.size for snap in found] == [Mi, 2 * Mi, 3 * Mi]
    assert [int(snap.time) for snap in found] == [snap["date-sec"] for snap in told]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (64, struct.pack(">Q", 1 << 63)),  # the table is beyond what a file can have
        (64, struct.pack(">Q", 1 << 40)),  # and beyond the end of this one
        (60, struct.pack(">I", 0xFFFFFFFF)),  # more snapshots than there are
    ],
)
def test_a_broken_table_of_snapshots_is_an_error(tmp_path: Path, at: int, value: bytes) -> None:
    path = images.qcow2(tmp_path / "image", Mi)
    images.qemu_img("snapshot", "-c", "one", str(path))
    _write(path, at, value)
    with pytest.raises(errors.DiskError, match="snapshots"):
        _snapshots(path)


def test_a_snapshot_that_claims_gigabytes_of_data_is_not_read(tmp_path: Path) -> None:
    path = images.qcow2(tmp_path / "image", Mi)
    images.qemu_img("snapshot", "-c", "one", str(path))
    _write(path, qcow2.read(path).snapshots_at + 36, struct.pack(">I", 0xFFFFFFF0))
    with pytest.raises(errors.DiskError, match="snapshots"):
        _snapshots(path)


@pytest.mark.parametrize("length", [0, 3, 4, 71, 72, 79, 80, 103])
def test_a_header_that_is_cut_off_is_an_error(length: int) -> None:
    with pytest.raises(errors.DiskError):
        qcow2.parse(qcow2_head()[:length], "it")


def test_a_name_with_a_zero_byte_is_an_error() -> None:
    """No path has one; what is asked of the file system with it is no OSError."""
    with pytest.raises(errors.DiskError):
        qcow2.parse(qcow2_head(backing="/etc\0/passwd"), "it")


@given(head=st.binary(max_size=300))
@example(head=b"")
def test_bytes_of_any_kind_raise_nothing_but_disk_errors(head: bytes) -> None:
    _parsed(head)
    _parsed(qcow2.MAGIC + head)


@given(at=st.integers(0, 111), value=st.binary(min_size=1, max_size=8))
def test_a_changed_header_raises_nothing_but_disk_errors(at: int, value: bytes) -> None:
    head = bytearray(qcow2_head(backing="/base"))
    head[at : at + len(value)] = value
    _parsed(bytes(head))


@given(at=st.integers(0, 71), value=st.binary(min_size=1, max_size=8), far=st.integers(0, 60))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_file_raises_nothing_but_disk_errors(tmp_path: Path, at: int, value: bytes, far: int) -> None:
    path = tmp_path / "image"
    if not path.exists():
        images.qcow2(path, Mi)
        images.qemu_img("snapshot", "-c", "one", str(path))
        (tmp_path / "good").write_bytes(path.read_bytes())
    path.write_bytes((tmp_path / "good").read_bytes())
    table = qcow2.read(path).snapshots_at
    _write(path, at, value)
    _write(path, table + far, value)
    try:
        _snapshots(path)
    except errors.DiskError:
        return


def qcow2_head(*, backing: str = "", incompatible: int = 0, size: int = Mi) -> bytes:
    """The header of a version 3, with no extensions, and 4 KiB in all."""
    name = backing.encode()
    fixed = struct.pack(
        ">4sIQIIQIIQQIIQ", qcow2.MAGIC, 3, 112 if name else 0, len(name), 16, size, 0, 1, 196608, 65536, 1, 0, 0
    )
    return (fixed + struct.pack(">QQQII", incompatible, 0, 0, 4, 104) + bytes(8) + name).ljust(4096, b"\0")


def _parsed(head: bytes) -> None:
    try:
        header = qcow2.parse(head, "it")
        qcow2.refuse_foreign(header, "it")
    except errors.DiskError as exc:
        assert "\n" not in str(exc)  # noqa: PT017 - any other error fails the test by itself


def _snapshots(path: Path) -> list[SnapshotInfo]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(qcow2.snapshots(fd, "it"))
    finally:
        os.close(fd)


def _write(path: Path, at: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(value)


def _with_long_extension(path: Path, base: Path, length: int) -> Path:
    """An overlay before whose other extensions there is one that nobody knows, and whose base's name follows it."""
    images.qemu_img("create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(path), str(Mi))
    head = path.read_bytes()[: 64 * Ki]
    at, count = struct.unpack_from(">QI", head, 8)
    [begin] = struct.unpack_from(">I", head, 100)
    extensions, name = head[begin:at], head[at : at + count]
    head = head[:begin] + struct.pack(">II", 0x1234ABCD, length) + bytes(length) + extensions + name
    head = head[:8] + struct.pack(">Q", len(head) - count) + head[16:]
    with path.open("r+b") as file:
        file.write(head)
    return path


@pytest.mark.parametrize("length", [0, 8, *range(3200, 4096, 64), 4096, 40 * Ki])
def test_header_that_is_longer_than_what_is_read_first_is_read_whole(tmp_path: Path, length: int) -> None:
    base = images.sparse_raw(tmp_path / "base", Mi)
    path = _with_long_extension(tmp_path / "overlay", base, length)
    told = json.loads(images.qemu_img("info", "--output=json", "-f", "qcow2", str(path)))
    header = qcow2.read(path)
    assert (header.backing_file, header.backing_format) == (told["backing-filename"], told["backing-filename-format"])
    assert header == qcow2.parse(path.read_bytes(), "all of it")


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_header_as_qemu_writes_it_takes_one_short_read(
    tmp_path: Path, compat: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = images.sparse_raw(tmp_path / "base", Mi)
    path = tmp_path / "overlay"
    images.qemu_img("create", "-q", "-f", "qcow2", f"-ocompat={compat}", "-b", str(base), "-F", "raw", str(path))
    real, counts = os.pread, list[int]()

    def pread(fd: int, count: int, at: int) -> bytes:
        counts.append(count)
        return real(fd, count, at)

    monkeypatch.setattr(os, "pread", pread)
    assert qcow2.read(path).backing_file == str(base)
    assert counts == [4096]
