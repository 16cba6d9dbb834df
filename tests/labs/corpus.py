"""Images that nobody should use: each names what is wrong with it, and how it is refused.

Made by the real qemu-img where that can make them, else by patching what it made.  The
offsets are those of QEMU's docs/interop/qcow2.txt, of VMware's "Virtual Disk Format 5.0",
Microsoft's "Virtual Hard Disk Image Format Specification", and QEMU's block/vdi.c.
"""

import gzip
import lzma
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.types import Gi, Ki, Mi
from labs.images import qemu_img

SECRET: Final = b"root:secret-of-this-host:0:0\n" * 1024
"""What a file of this host holds that no image may reach."""

Make = Callable[[Path, Path], None]
"""``make(image, secret)``: makes the image, which may try to refer to the file ``secret``."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """One image that is to be refused."""

    name: str
    file: str
    """Its file's name: the suffixes are what is declared."""
    refused: type[errors.Error]
    make: Make
    servable: bool = True
    """A file whose bytes a server can send; else something that only a folder can hold."""
    refused_by_http: type[errors.Error] | None = None
    """Where the source sees by itself what it is."""


ALL: Final[list[Hostile]] = []


def _hostile(
    file: str,
    refused: type[errors.Error] = errors.TemplateUnsafe,
    *,
    servable: bool = True,
    by_http: type[errors.Error] | None = None,
) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        ALL.append(Hostile(make.__name__.lstrip("_").replace("_", "-"), file, refused, make, servable, by_http))
        return make

    return keep


def patch(path: Path, at: int, data: bytes) -> None:
    """Overwrite bytes; ``at`` below 0 counts from the end."""
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        file.write(data)


def content(size: int = Mi) -> bytes:
    """Bytes of a guest, which no packing makes smaller; the same each time."""
    return random.Random(size).randbytes(size)


def filled(path: Path, format: str, size: int = Mi, *options: str) -> None:
    """An image whose disk is full of :func:`content`."""
    raw = path.with_name(f"{path.name}.content")
    raw.write_bytes(content(size))
    try:
        qemu_img("convert", "-f", "raw", "-O", format, *(f"-o{option}" for option in options), str(raw), str(path))
    finally:
        raw.unlink()


def _qcow2(path: Path, *options: str, size: str = "1M") -> None:
    qemu_img("create", "-q", "-f", "qcow2", *options, str(path), size)


# qcow2: references to other files


@_hostile("backing.qcow2")
def _qcow2_backing_absolute(path: Path, secret: Path) -> None:
    _qcow2(path, "-u", "-b", str(secret), "-F", "raw")


@_hostile("backing.qcow2")
def _qcow2_backing_relative(path: Path, secret: Path) -> None:
    _qcow2(path, "-u", "-b", os.path.relpath(secret, path.parent), "-F", "raw")


@_hostile("backing.qcow2")
def _qcow2_backing_json(path: Path, secret: Path) -> None:
    _qcow2(path, "-u", "-b", f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{secret}"}}}}', "-F", "raw")


@_hostile("backing.qcow2")
def _qcow2_backing_over_the_network(path: Path, _secret: Path) -> None:
    _qcow2(path, "-u", "-b", "nbd://127.0.0.1:9/secret", "-F", "raw")


@_hostile("backing.qcow2")
def _qcow2_backing_without_format(path: Path, secret: Path) -> None:
    _qcow2(path, "-u", "-b", str(secret), "-F", "raw")
    patch(path, path.read_bytes()[:512].index(b"\xe2\x79\x2a\xca"), b"\x12\x34\x56\x78")


@_hostile("backing.img")
def _qcow2_backing_undeclared(path: Path, secret: Path) -> None:
    _qcow2(path, "-u", "-b", str(secret), "-F", "raw")


@_hostile("backing.qcow2")
def _qcow2_v2_backing(path: Path, secret: Path) -> None:
    _qcow2(path, "-u", "-b", str(secret), "-F", "raw", "-o", "compat=0.10")


@_hostile("data.qcow2")
def _qcow2_data_file(path: Path, secret: Path) -> None:
    _qcow2(path, "-o", f"data_file={secret}")
    secret.write_bytes(SECRET)  # qemu-img emptied it


@_hostile("data.qcow2")
def _qcow2_data_file_raw(path: Path, secret: Path) -> None:
    _qcow2(path, "-o", f"data_file={secret},data_file_raw=on")
    secret.write_bytes(SECRET)


@_hostile("data.qcow2")
def _qcow2_data_file_by_bit(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 79, b"\x04")


# qcow2: what is unknown, broken or absurd


@_hostile("unknown.qcow2")
def _qcow2_unknown_feature(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 79, b"\x20")


@_hostile("unknown.qcow2")
def _qcow2_unknown_last_feature(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 72, b"\x80")


@_hostile("version.qcow2")
def _qcow2_unknown_version(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 4, struct.pack(">I", 4))


@_hostile("compression.qcow2", errors.TemplateCorrupt)
def _qcow2_unknown_compression(path: Path, _secret: Path) -> None:
    _qcow2(path, "-o", "compression_type=zstd")
    patch(path, 104, b"\x4d")


@_hostile("corrupt.qcow2", errors.TemplateCorrupt)
def _qcow2_marked_corrupt(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    patch(path, 79, b"\x02")


@_hostile("refcounts.qcow2", errors.TemplateCorrupt)
def _qcow2_broken_refcounts(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    table = struct.unpack(">Q", path.read_bytes()[48:56])[0]
    block = struct.unpack(">Q", path.read_bytes()[table : table + 8])[0]
    patch(path, block, bytes(64))


@_hostile("l2.qcow2", errors.TemplateCorrupt)
def _qcow2_data_beyond_the_end(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    patch(path, _first_l2(path), struct.pack(">Q", 1 << 63 | 1 << 40))


@_hostile("l1.qcow2", errors.TemplateCorrupt)
def _qcow2_table_beyond_the_end(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    patch(path, _l1(path), struct.pack(">Q", 1 << 63 | 1 << 40))


@_hostile("overlap.qcow2", errors.TemplateCorrupt)
def _qcow2_table_in_itself(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    patch(path, _l1(path), struct.pack(">Q", 1 << 63 | _l1(path)))


@_hostile("cut.qcow2", errors.TemplateCorrupt)
def _qcow2_truncated(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    os.truncate(path, path.stat().st_size - 200 * Ki)


@_hostile("cut.qcow2")
def _qcow2_truncated_header(path: Path, _secret: Path) -> None:
    _qcow2(path)
    os.truncate(path, 60)


@_hostile("snapshots.qcow2", errors.TemplateCorrupt)
def _qcow2_absurd_snapshots(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 60, struct.pack(">IQ", 0xFFFFFFFF, 1 << 16))


@_hostile("snapshots.qcow2", errors.TemplateCorrupt)
def _qcow2_snapshots_beyond_the_end(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 60, struct.pack(">IQ", 1, 1 << 40))


@_hostile("l1.qcow2", errors.TemplateCorrupt)
def _qcow2_huge_l1(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 36, struct.pack(">I", 0x7FFFFFFF))


@_hostile("clusters.qcow2", errors.TemplateCorrupt)
def _qcow2_tiny_clusters(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 20, struct.pack(">I", 8))


@_hostile("clusters.qcow2", errors.TemplateCorrupt)
def _qcow2_giant_clusters(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 20, struct.pack(">I", 31))


@_hostile("clusters.qcow2", errors.TemplateCorrupt)
def _qcow2_small_clusters_short_l1(path: Path, _secret: Path) -> None:
    _qcow2(path, "-o", "cluster_size=512")
    patch(path, 24, struct.pack(">Q", 64 * Gi))


@_hostile("header.qcow2", errors.TemplateCorrupt)
def _qcow2_absurd_extension(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 112, struct.pack(">II", 0x6803F857, 0x7FFFFFFF))


@_hostile("bomb.qcow2", errors.TemplateTooLarge)
def _qcow2_size_bomb(path: Path, _secret: Path) -> None:
    _qcow2(path, size="3T")


@_hostile("bomb.img", errors.TemplateTooLarge)
def _qcow2_undeclared_size_bomb(path: Path, _secret: Path) -> None:
    _qcow2(path, size="3T")


@_hostile("bomb.qcow2", errors.TemplateTooLarge)
def _qcow2_largest_size(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 24, b"\xff" * 8)


@_hostile("secret.qcow2")
def _qcow2_encrypted(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 32, struct.pack(">I", 2))


@_hostile("secret.qcow2")
def _qcow2_encrypted_the_old_way(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 32, struct.pack(">I", 1))


# Other containers of QEMU


@_hostile("old.qcow2")
def _qcow_version_1(path: Path, _secret: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow", str(path), "1M")


@_hostile("old.img")
def _qed(path: Path, _secret: Path) -> None:
    qemu_img("create", "-q", "-f", "qed", str(path), "1M")


@_hostile("luks.img")
def _luks(path: Path, _secret: Path) -> None:
    header = struct.pack(">6sH32s32s32sII", b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256", 4096, 64)
    path.write_bytes(header.ljust(4096 * 512, b"\0") + content())


def _l1(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[40:48], "big")


def _first_l2(path: Path) -> int:
    at = _l1(path)
    return int.from_bytes(path.read_bytes()[at : at + 8], "big") & 0x00FFFFFFFFFFFE00 or 0


# VMDK


def _vmdk(path: Path, kind: str) -> None:
    qemu_img("create", "-q", "-f", "vmdk", "-o", f"subformat={kind}", str(path), "1M")


def _described(path: Path, old: bytes, new: bytes, *, pad: int = 0) -> None:
    """Replace text in the embedded descriptor, or in one that is the whole file."""
    data = path.read_bytes()
    if not data.startswith(b"KDMV"):
        path.write_bytes(data.replace(old, new))
        return
    sectors = struct.unpack_from("<Q", data, 36)[0]
    text = data[512 : 512 + sectors * 512].rstrip(b"\0")
    assert old in text
    patch(path, 512, text.replace(old, new).ljust(sectors * 512, b"\0"))


@_hostile("flat.vmdk")
def _vmdk_flat(path: Path, secret: Path) -> None:
    _vmdk(path, "monolithicFlat")
    _described(path, f"{path.stem}-flat.vmdk".encode(), str(secret).encode())
    path.with_name(f"{path.stem}-flat.vmdk").unlink()


@_hostile("flat.img")
def _vmdk_flat_undeclared(path: Path, secret: Path) -> None:
    _vmdk_flat_named(path, secret, "monolithicFlat")


@_hostile("vmfs.vmdk")
def _vmdk_vmfs(path: Path, secret: Path) -> None:
    _vmdk_flat_named(path, secret, "vmfs")


@_hostile("flat.raw")
def _vmdk_flat_as_raw(path: Path, secret: Path) -> None:
    _vmdk_flat_named(path, secret, "monolithicFlat")


def _vmdk_flat_named(path: Path, secret: Path, kind: str) -> None:
    extent = "VMFS" if kind == "vmfs" else "FLAT"
    lines = ["# Disk DescriptorFile", "version=1", "CID=fffffffe", "parentCID=ffffffff", f'createType="{kind}"']
    lines += [f'RW 56 {extent} "{secret}"' + ("" if kind == "vmfs" else " 0"), 'ddb.adapterType = "ide"', ""]
    path.write_text("\n".join(lines) + "# \n" * 4096)


@_hostile("split.vmdk")
def _vmdk_two_gb_sparse(path: Path, secret: Path) -> None:
    _vmdk(path, "twoGbMaxExtentSparse")
    _described(path, f"{path.stem}-s001.vmdk".encode(), str(secret).encode())
    path.with_name(f"{path.stem}-s001.vmdk").unlink()


@_hostile("split.vmdk")
def _vmdk_two_gb_flat(path: Path, secret: Path) -> None:
    _vmdk(path, "twoGbMaxExtentFlat")
    _described(path, f"{path.stem}-f001.vmdk".encode(), str(secret).encode())
    path.with_name(f"{path.stem}-f001.vmdk").unlink()


@_hostile("extent.vmdk")
def _vmdk_sparse_naming_a_path(path: Path, secret: Path) -> None:
    filled(path, "vmdk")
    _described(path, f'"{path.name}"'.encode(), f'"{secret}"'.encode())


@_hostile("hidden.vmdk")
def _vmdk_without_capacity(path: Path, secret: Path) -> None:
    """QEMU takes the embedded descriptor of such a file at its word, and finds the second createType."""
    filled(path, "vmdk")
    patch(path, 12, bytes(8))
    name = str(secret).replace("/", "\\u002f")
    extent = f"RW 56 FLAT \"json:{{'driver':'file','filename':'{name}'}}\" 0"
    _described(path, b'createType="monolithicSparse"', b'CREATETYPE="monolithicSparse"\ncreateType="monolithicFlat"')
    text = path.read_bytes()[512 : 512 + 20 * 512].rstrip(b"\0").decode()
    line = next(line for line in text.splitlines() if line.startswith("RW "))
    _described(path, line.encode(), extent.encode())


@_hostile("parent.vmdk")
def _vmdk_with_parent(path: Path, secret: Path) -> None:
    filled(path, "vmdk")
    _described(path, b"parentCID=ffffffff", f'parentCID=00000001\nparentFileNameHint="{secret}"'.encode())


@_hostile("stream.vmdk")
def _vmdk_footer_with_another_descriptor(path: Path, _secret: Path) -> None:
    filled(path, "vmdk", Mi, "subformat=streamOptimized")
    _with_footer(path, descriptor=64)


@_hostile("stream.vmdk")
def _vmdk_footer_of_another_size(path: Path, _secret: Path) -> None:
    filled(path, "vmdk", Mi, "subformat=streamOptimized")
    _with_footer(path, capacity=1 << 40)


def _with_footer(path: Path, *, capacity: int | None = None, descriptor: int = 1) -> None:
    """Have the header say that the footer is the true one, as the tools of VMware do."""
    header = bytearray(path.read_bytes()[:512])
    patch(path, 56, b"\xff" * 8)
    if capacity is not None:
        struct.pack_into("<Q", header, 12, capacity)
    struct.pack_into("<Q", header, 28, descriptor)
    with path.open("ab") as file:
        file.write(struct.pack("<QII", 1, 0, 3).ljust(512, b"\0") + header + bytes(512))


@_hostile("cut.vmdk", errors.TemplateCorrupt)
def _vmdk_stream_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vmdk", Mi, "subformat=streamOptimized")
    os.truncate(path, path.stat().st_size - 8 * Ki)


@_hostile("cut.vmdk", errors.TemplateCorrupt)
def _vmdk_sparse_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vmdk")
    os.truncate(path, path.stat().st_size - 300 * Ki)


@_hostile("bomb.vmdk", errors.TemplateTooLarge)
def _vmdk_size_bomb(path: Path, _secret: Path) -> None:
    filled(path, "vmdk")
    patch(path, 12, struct.pack("<Q", 1 << 50))


# VHD, VHDX, VDI


@_hostile("cut.vhd", errors.TemplateCorrupt)
def _vhd_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vpc")
    os.truncate(path, path.stat().st_size - 300 * Ki)


@_hostile("parent.vhd")
def _vhd_differencing(path: Path, secret: Path) -> None:
    """Of type 4; its parent's name is in the dynamic header."""
    filled(path, "vpc")
    locator = os.fsencode(secret.name).decode().encode("utf-16-be")[:512]
    patch(path, 512 + 64, locator)
    for at, length, checksum in ((0, 512, 64), (path.stat().st_size - 512, 512, 64), (512, 1024, 36)):
        if at != 512:
            patch(path, at + 60, struct.pack(">I", 4))
        patch(path, at + checksum, bytes(4))
        total = ~sum(path.read_bytes()[at : at + length]) & 0xFFFFFFFF
        patch(path, at + checksum, struct.pack(">I", total))


@_hostile("bomb.vhd", errors.TemplateTooLarge)
def _vhd_size_bomb(path: Path, _secret: Path) -> None:
    filled(path, "vpc")
    patch(path, 40, struct.pack(">QQ", 1 << 45, 1 << 45))


@_hostile("cut.vhdx", errors.TemplateCorrupt)
def _vhdx_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vhdx", 40 * Mi)
    os.truncate(path, path.stat().st_size - 9 * Mi)


@_hostile("parent.vhdx", errors.TemplateCorrupt)
def _vhdx_differencing(path: Path, _secret: Path) -> None:
    filled(path, "vhdx")
    data = path.read_bytes()
    guid = struct.pack("<IHH", 0xCAA16737, 0xFA36, 0x4D43) + bytes.fromhex("B3B633F0AA44E76B")
    metadata = data.index(b"metadata")
    at = data.index(guid, metadata)
    patch(path, metadata + struct.unpack_from("<I", data, at + 16)[0] + 4, struct.pack("<I", 2))


@_hostile("cut.vdi", errors.TemplateCorrupt)
def _vdi_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vdi", 3 * Mi)
    os.truncate(path, path.stat().st_size - Mi - 300 * Ki)


@_hostile("parent.vdi", errors.TemplateCorrupt)
def _vdi_differencing(path: Path, _secret: Path) -> None:
    filled(path, "vdi")
    patch(path, 0x1B8, b"\x11" * 16)


@_hostile("bomb.vdi", errors.TemplateTooLarge)
def _vdi_size_bomb(path: Path, _secret: Path) -> None:
    filled(path, "vdi")
    patch(path, 0x170, struct.pack("<Q", 1 << 45))


# Two at once, and what is not what its name says


@_hostile("both.qcow2")
def _qcow2_and_iso(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 32 * Ki, b"\x01CD001\x01")


@_hostile("both.qcow2")
def _qcow2_and_partition_table(path: Path, _secret: Path) -> None:
    _qcow2(path)
    patch(path, 446, b"\x80\x01\x01\x00\x83\x01\x01\x00\x01\x00\x00\x00\x00\x08\x00\x00")
    patch(path, 510, b"\x55\xaa")


@_hostile("both.iso")
def _vmdk_and_iso(path: Path, _secret: Path) -> None:
    filled(path, "vmdk")
    patch(path, 32 * Ki, b"\x01CD001\x01")


@_hostile("named.raw")
def _qcow2_named_raw(path: Path, secret: Path) -> None:
    _qcow2(path, "-u", "-b", str(secret), "-F", "raw")


@_hostile("named.iso")
def _qcow2_named_iso(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")


@_hostile("named.qcow2")
def _raw_named_qcow2(path: Path, _secret: Path) -> None:
    path.write_bytes(content())


@_hostile("page.qcow2", by_http=errors.ImageNotFound)
def _page_named_qcow2(path: Path, _secret: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Please log in</body></html>\n")


@_hostile("empty.qcow2", errors.TemplateCorrupt)
def _empty_qcow2(path: Path, _secret: Path) -> None:
    path.write_bytes(b"")


@_hostile("empty.raw", errors.TemplateCorrupt)
def _empty_raw(path: Path, _secret: Path) -> None:
    path.write_bytes(b"")


@_hostile("all.tar", errors.TemplateError)
def _archive(path: Path, _secret: Path) -> None:
    path.write_bytes(content())


# Packed


def zst(data: bytes) -> bytes:
    """Packed by zstd."""
    import zstandard

    return zstandard.ZstdCompressor(level=3).compress(data)


PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "xz": lambda data: lzma.compress(data, preset=1),
    "zst": zst,
}


def _packed() -> None:
    for suffix, pack in PACKERS.items():

        def bomb(path: Path, _secret: Path, pack: Callable[[bytes], bytes] = pack) -> None:
            path.write_bytes(pack(bytes(128 * Mi)))

        def cut(path: Path, _secret: Path, pack: Callable[[bytes], bytes] = pack) -> None:
            path.write_bytes(pack(os.urandom(Mi))[:-100])

        def trailing(path: Path, _secret: Path, pack: Callable[[bytes], bytes] = pack) -> None:
            path.write_bytes(pack(content()) + b"and so on")

        def never(path: Path, _secret: Path) -> None:
            path.write_bytes(content())

        def nothing(path: Path, _secret: Path, pack: Callable[[bytes], bytes] = pack) -> None:
            path.write_bytes(pack(b""))

        def twice(path: Path, _secret: Path, pack: Callable[[bytes], bytes] = pack) -> None:
            path.write_bytes(pack(PACKERS["gz"](content())))

        def backed(path: Path, secret: Path, pack: Callable[[bytes], bytes] = pack) -> None:
            inner = path.with_name("inner")
            _qcow2(inner, "-u", "-b", str(secret), "-F", "raw")
            path.write_bytes(pack(inner.read_bytes()))
            inner.unlink()

        def large(path: Path, _secret: Path, pack: Callable[[bytes], bytes] = pack) -> None:
            inner = path.with_name("inner")
            _qcow2(inner, size="3T")
            path.write_bytes(pack(inner.read_bytes()))
            inner.unlink()

        corrupt, unsafe, too_large = errors.TemplateCorrupt, errors.TemplateUnsafe, errors.TemplateTooLarge
        ALL.extend(
            [
                Hostile(f"{suffix}-bomb", f"bomb.raw.{suffix}", too_large, bomb),
                Hostile(f"{suffix}-truncated", f"cut.raw.{suffix}", corrupt, cut),
                Hostile(f"{suffix}-trailing-garbage", f"more.raw.{suffix}", corrupt, trailing),
                Hostile(f"{suffix}-not-packed", f"never.raw.{suffix}", corrupt, never),
                Hostile(f"{suffix}-of-nothing", f"nothing.raw.{suffix}", corrupt, nothing),
                Hostile(f"{suffix}-of-gz", f"twice.raw.{suffix}", corrupt, twice),
                Hostile(f"{suffix}-of-backed-qcow2", f"backed.qcow2.{suffix}", unsafe, backed),
                Hostile(f"{suffix}-of-backed-qcow2-as-raw", f"backed.raw.{suffix}", unsafe, backed),
                Hostile(f"{suffix}-of-size-bomb", f"large.qcow2.{suffix}", too_large, large),
            ]
        )


_packed()


@_hostile("twice.raw.gz.gz", errors.TemplateError)
def _named_as_packed_twice(path: Path, _secret: Path) -> None:
    path.write_bytes(gzip.compress(gzip.compress(content())))


# What only a folder holds


@_hostile("fifo.raw", errors.ImageNotFound, servable=False)
def _fifo(path: Path, _secret: Path) -> None:
    os.mkfifo(path)


@_hostile("device.raw", errors.ImageNotFound, servable=False)
def _device(path: Path, _secret: Path) -> None:
    path.symlink_to("/dev/zero")


@_hostile("folder.raw", errors.ImageNotFound, servable=False)
def _folder(path: Path, _secret: Path) -> None:
    path.mkdir()


@_hostile("dangling.raw", errors.ImageNotFound, servable=False)
def _dangling_symlink(path: Path, _secret: Path) -> None:
    path.symlink_to("nowhere")


@_hostile("loop.raw", errors.ImageNotFound, servable=False)
def _looping_symlink(path: Path, _secret: Path) -> None:
    path.symlink_to(path.name)
