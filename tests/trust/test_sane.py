"""Every kind of image that is accepted gives the guest the right bytes, on both drivers."""

import io
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pycdlib
import pytest

from imgbackend import Engine, types
from imgbackend.types import Gi, Ki, Mi
from labs.corpus import PACKERS, content, patch
from labs.images import qemu_img, same_for_guest, sparse_raw
from trust.conftest import MakeEngine

Make = Callable[[Path, Path], None]
"""``make(raw, image)``: the image of the bytes in ``raw``."""


@dataclass(frozen=True, slots=True)
class Sane:
    name: str
    file: str
    make: Make


def _converted(format: str, *options: str) -> Make:
    def make(raw: Path, image: Path) -> None:
        qemu_img("convert", "-f", "raw", "-O", format, *options, str(raw), str(image))

    return make


def _plain(raw: Path, image: Path) -> None:
    image.write_bytes(raw.read_bytes())


def _resaved_by_virtualbox(raw: Path, image: Path) -> None:
    """A VHD whose geometry says less than its footer's size, as VirtualBox writes it."""
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-oforce_size=on", str(raw), str(image))
    for at in (0, image.stat().st_size - 512):
        patch(image, at + 28, b"vbox")
        _sum_vhd(image, at)


def _enlarged_vhd(raw: Path, image: Path) -> None:
    """A VHD that was smaller once: its original size stays in its footer."""
    qemu_img("convert", "-f", "raw", "-O", "vpc", "-oforce_size=on", str(raw), str(image))
    for at in (0, image.stat().st_size - 512):
        patch(image, at + 40, struct.pack(">Q", Mi))
        _sum_vhd(image, at)


def _sum_vhd(image: Path, at: int) -> None:
    patch(image, at + 64, bytes(4))
    patch(image, at + 64, struct.pack(">I", ~sum(image.read_bytes()[at : at + 512]) & 0xFFFFFFFF))


def _stream_with_footer(raw: Path, image: Path) -> None:
    """As the tools of VMware write it: the header refers to a footer, which has the offsets."""
    _converted("vmdk", "-osubformat=streamOptimized")(raw, image)
    header = image.read_bytes()[:512]
    patch(image, 56, b"\xff" * 8)
    with image.open("ab") as file:
        file.write(struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") + header + bytes(512))


def _not_closed(raw: Path, image: Path) -> None:
    """With lazy refcounts, and the bit of who has it open for writing: its guest was killed."""
    _converted("qcow2", "-olazy_refcounts=on")(raw, image)
    patch(image, 79, b"\x01")


def _packed(suffix: str, inner: Make) -> Make:
    def make(raw: Path, image: Path) -> None:
        inner(raw, image)
        image.write_bytes(PACKERS[suffix](image.read_bytes()))

    return make


def _two_members(raw: Path, image: Path) -> None:
    """Two gzip members, and zeroes after them, as tapes have it."""
    data = raw.read_bytes()
    image.write_bytes(PACKERS["gz"](data[:Mi]) + PACKERS["gz"](data[Mi:]) + bytes(512))


ALL = [
    Sane("raw", "a.raw", _plain),
    Sane("undeclared-raw", "a.img", _plain),
    Sane("no-suffix", "image", _plain),
    Sane("qcow2", "a.qcow2", _converted("qcow2")),
    Sane("qcow2-named-img", "a.img", _converted("qcow2")),
    Sane("qcow2-v2", "a.qcow2", _converted("qcow2", "-ocompat=0.10")),
    Sane("qcow2-compressed", "a.qcow2", _converted("qcow2", "-c")),
    Sane("qcow2-compressed-zstd", "a.qcow2", _converted("qcow2", "-c", "-ocompression_type=zstd")),
    Sane("qcow2-extended-l2", "a.qcow2", _converted("qcow2", "-oextended_l2=on")),
    Sane("qcow2-512", "a.qcow2", _converted("qcow2", "-ocluster_size=512")),
    Sane("qcow2-2m", "a.qcow2", _converted("qcow2", "-ocluster_size=2M")),
    Sane("qcow2-refcount-1", "a.qcow2", _converted("qcow2", "-orefcount_bits=1")),
    Sane("qcow2-lazy-refcounts", "a.qcow2", _converted("qcow2", "-olazy_refcounts=on")),
    Sane("qcow2-not-closed", "a.qcow2", _not_closed),
    Sane("qcow2-preallocated", "a.qcow2", _converted("qcow2", "-opreallocation=metadata")),
    Sane("vmdk", "a.vmdk", _converted("vmdk")),
    Sane("vmdk-stream", "a.vmdk", _converted("vmdk", "-osubformat=streamOptimized")),
    Sane("vmdk-stream-with-footer", "a.vmdk", _stream_with_footer),
    Sane("vhd", "a.vhd", _converted("vpc")),
    Sane("vhd-exact", "a.vhd", _converted("vpc", "-oforce_size=on")),
    Sane("vhd-fixed", "a.vhd", _converted("vpc", "-osubformat=fixed,force_size=on")),
    Sane("vhd-of-virtualbox", "a.vhd", _resaved_by_virtualbox),
    Sane("vhd-enlarged", "a.vhd", _enlarged_vhd),
    Sane("vhdx", "a.vhdx", _converted("vhdx")),
    Sane("vhdx-fixed", "a.vhdx", _converted("vhdx", "-osubformat=fixed")),
    Sane("vdi", "a.vdi", _converted("vdi")),
    Sane("vdi-static", "a.vdi", _converted("vdi", "-ostatic=on")),
    *(Sane(f"raw-{suffix}", f"a.raw.{suffix}", _packed(suffix, _plain)) for suffix in PACKERS),
    *(Sane(f"qcow2-{suffix}", f"a.qcow2.{suffix}", _packed(suffix, _converted("qcow2"))) for suffix in PACKERS),
    Sane("gz-of-two-members", "a.raw.gz", _two_members),
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """3 MiB and a few sectors, with data, holes, and zeroes that are written."""
    path = sparse_raw(tmp_path / "raw", 3 * Mi + 5 * 512, data={0: content(300 * Ki), Mi: bytes(Mi), 3 * Mi: b"end"})
    tmp_path.chmod(0o755)
    return path


def _guest_sees(engine: Engine, ref: str, raw: Path, out: Path) -> types.Cached:
    image = engine.image(ref)
    disk = engine.disk("web1")
    made = disk.cache(image, image.filename)
    disk.extract(out, "raw")
    assert same_for_guest(out, "raw", raw, "raw")
    assert out.stat().st_size == made.size == disk.info().size
    return made


@pytest.mark.parametrize("sane", ALL, ids=lambda sane: sane.name)
@pytest.mark.parametrize(("images_type", "force_raw"), [("qcow2", False), ("raw", True)])
def test_accepted_image_gives_its_bytes(
    sane: Sane, images_type: str, force_raw: bool, make_engine: MakeEngine, images: Path, raw: Path, tmp_path: Path
) -> None:
    sane.make(raw, images / sane.file)
    engine = make_engine(images_type=images_type, force_raw_images=force_raw, durable_disks=False)
    made = _guest_sees(engine, sane.file, raw, tmp_path / "out")
    assert made.size >= raw.stat().st_size
    [base] = engine.bases()
    assert base.manifest is not None
    assert base.manifest.format == ("qcow2" if not force_raw and "qcow2" in sane.name else "raw")


@pytest.mark.parametrize("length", [1, 511, 513, 65537, 3 * Mi + 7])
def test_raw_of_odd_length_ends_in_zeroes(length: int, make_engine: MakeEngine, images: Path, tmp_path: Path) -> None:
    (images / "odd.raw").write_bytes(random.Random(length).randbytes(length))
    engine = make_engine(images_type="raw")
    image = engine.image("odd.raw")
    disk = engine.disk("web1")
    assert disk.cache(image, image.filename).size == -(-length // 512) * 512
    whole = (tmp_path / "instances/web1/disk").read_bytes()
    assert whole == (images / "odd.raw").read_bytes().ljust(len(whole), b"\0")


def _partitioned(path: Path) -> None:
    """A protective MBR, and the header of a GPT."""
    patch(path, 446, bytes.fromhex("00000200eeffffff01000000ff1f0000"))
    patch(path, 510, b"\x55\xaa" + b"EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")


def _with_boot_code_alone(path: Path) -> None:
    patch(path, 440, b"\xfa" * 70)
    patch(path, 510, b"\x55\xaa")


def _iso(path: Path) -> None:
    made = pycdlib.PyCdlib()
    made.new(interchange_level=3)
    made.add_fp(io.BytesIO(b"hello"), 5, "/HELLO.;1")
    made.write(str(path))
    made.close()


def _hybrid_iso(path: Path) -> None:
    _iso(path)
    os.truncate(path, 4 * Mi)
    patch(path, 446, b"\x80\x01\x01\x00\x83\x01\x01\x00\x01\x00\x00\x00\x00\x08\x00\x00")
    patch(path, 510, b"\x55\xaa")


@pytest.mark.parametrize("images_type", ["qcow2", "raw"])
@pytest.mark.parametrize(
    ("file", "make"),
    [
        ("gpt.raw", _partitioned),
        ("gpt.img", _partitioned),
        ("boot.raw", _with_boot_code_alone),
        ("boot.img", _with_boot_code_alone),
        ("cd.iso", _iso),
        ("cd.img", _iso),
        ("cd.raw", _iso),
        ("hybrid.iso", _hybrid_iso),
        ("hybrid.raw", _hybrid_iso),
    ],
)
def test_what_a_raw_disk_holds_is_its_own(
    file: str, make: Callable[[Path], None], images_type: str, make_engine: MakeEngine, images: Path, tmp_path: Path
) -> None:
    sparse_raw(images / file, 4 * Mi)
    make(images / file)
    engine = make_engine(images_type=images_type)
    _guest_sees(engine, file, images / file, tmp_path / "out")


def test_limit_itself_is_allowed(make_engine: MakeEngine, images: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow2", str(images / "large.qcow2"), "1G")
    engine = make_engine(max_image_virtual_size=Gi)
    image = engine.image("large.qcow2")
    assert engine.disk("web1").cache(image, image.filename).size == Gi
