"""qcow2, and the other formats of QEMU's own; offsets are those of QEMU's docs/interop/qcow2.txt."""

import os
import struct
from pathlib import Path

from imgbackend import errors
from imgbackend.types import Gi, Ki
from labs.corpus.making import SECRET, content, filled, hostile, make_qcow2, patch
from labs.images import qemu_img

# qcow2: references to other files


@hostile("backing.qcow2")
def _qcow2_backing_absolute(path: Path, secret: Path) -> None:
    make_qcow2(path, "-u", "-b", str(secret), "-F", "raw")


@hostile("backing.qcow2")
def _qcow2_backing_relative(path: Path, secret: Path) -> None:
    make_qcow2(path, "-u", "-b", os.path.relpath(secret, path.parent), "-F", "raw")


@hostile("backing.qcow2")
def _qcow2_backing_json(path: Path, secret: Path) -> None:
    make_qcow2(
        path, "-u", "-b", f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{secret}"}}}}', "-F", "raw"
    )


@hostile("backing.qcow2")
def _qcow2_backing_over_the_network(path: Path, _secret: Path) -> None:
    make_qcow2(path, "-u", "-b", "nbd://127.0.0.1:9/secret", "-F", "raw")


@hostile("backing.qcow2")
def _qcow2_backing_without_format(path: Path, secret: Path) -> None:
    make_qcow2(path, "-u", "-b", str(secret), "-F", "raw")
    patch(path, path.read_bytes()[:512].index(b"\xe2\x79\x2a\xca"), b"\x12\x34\x56\x78")


@hostile("backing.img")
def _qcow2_backing_undeclared(path: Path, secret: Path) -> None:
    make_qcow2(path, "-u", "-b", str(secret), "-F", "raw")


@hostile("backing.qcow2")
def _qcow2_v2_backing(path: Path, secret: Path) -> None:
    make_qcow2(path, "-u", "-b", str(secret), "-F", "raw", "-o", "compat=0.10")


@hostile("data.qcow2")
def _qcow2_data_file(path: Path, secret: Path) -> None:
    make_qcow2(path, "-o", f"data_file={secret}")
    secret.write_bytes(SECRET)  # qemu-img emptied it


@hostile("data.qcow2")
def _qcow2_data_file_raw(path: Path, secret: Path) -> None:
    make_qcow2(path, "-o", f"data_file={secret},data_file_raw=on")
    secret.write_bytes(SECRET)


@hostile("data.qcow2")
def _qcow2_data_file_by_bit(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 79, b"\x04")


# qcow2: what is unknown, broken or absurd


@hostile("unknown.qcow2")
def _qcow2_unknown_feature(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 79, b"\x20")


@hostile("unknown.qcow2")
def _qcow2_unknown_last_feature(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 72, b"\x80")


@hostile("version.qcow2")
def _qcow2_unknown_version(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 4, struct.pack(">I", 4))


@hostile("compression.qcow2", errors.TemplateCorrupt)
def _qcow2_unknown_compression(path: Path, _secret: Path) -> None:
    make_qcow2(path, "-o", "compression_type=zstd")
    patch(path, 104, b"\x4d")


@hostile("corrupt.qcow2", errors.TemplateCorrupt)
def _qcow2_marked_corrupt(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    patch(path, 79, b"\x02")


@hostile("refcounts.qcow2", errors.TemplateCorrupt)
def _qcow2_broken_refcounts(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    table = struct.unpack(">Q", path.read_bytes()[48:56])[0]
    block = struct.unpack(">Q", path.read_bytes()[table : table + 8])[0]
    patch(path, block, bytes(64))


@hostile("l2.qcow2", errors.TemplateCorrupt)
def _qcow2_data_beyond_the_end(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    patch(path, _first_l2(path), struct.pack(">Q", 1 << 63 | 1 << 40))


@hostile("l1.qcow2", errors.TemplateCorrupt)
def _qcow2_table_beyond_the_end(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    patch(path, _l1(path), struct.pack(">Q", 1 << 63 | 1 << 40))


@hostile("overlap.qcow2", errors.TemplateCorrupt)
def _qcow2_table_in_itself(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    patch(path, _l1(path), struct.pack(">Q", 1 << 63 | _l1(path)))


@hostile("cut.qcow2", errors.TemplateCorrupt)
def _qcow2_truncated(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")
    os.truncate(path, path.stat().st_size - 200 * Ki)


@hostile("cut.qcow2")
def _qcow2_truncated_header(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    os.truncate(path, 60)


@hostile("snapshots.qcow2", errors.TemplateCorrupt)
def _qcow2_absurd_snapshots(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 60, struct.pack(">IQ", 0xFFFFFFFF, 1 << 16))


@hostile("snapshots.qcow2", errors.TemplateCorrupt)
def _qcow2_snapshots_beyond_the_end(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 60, struct.pack(">IQ", 1, 1 << 40))


@hostile("l1.qcow2", errors.TemplateCorrupt)
def _qcow2_huge_l1(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 36, struct.pack(">I", 0x7FFFFFFF))


@hostile("clusters.qcow2", errors.TemplateCorrupt)
def _qcow2_tiny_clusters(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 20, struct.pack(">I", 8))


@hostile("clusters.qcow2", errors.TemplateCorrupt)
def _qcow2_giant_clusters(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 20, struct.pack(">I", 31))


@hostile("clusters.qcow2", errors.TemplateCorrupt)
def _qcow2_small_clusters_short_l1(path: Path, _secret: Path) -> None:
    make_qcow2(path, "-o", "cluster_size=512")
    patch(path, 24, struct.pack(">Q", 64 * Gi))


@hostile("header.qcow2", errors.TemplateCorrupt)
def _qcow2_absurd_extension(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 112, struct.pack(">II", 0x6803F857, 0x7FFFFFFF))


@hostile("bomb.qcow2", errors.TemplateTooLarge)
def _qcow2_size_bomb(path: Path, _secret: Path) -> None:
    make_qcow2(path, size="3T")


@hostile("bomb.img", errors.TemplateTooLarge)
def _qcow2_undeclared_size_bomb(path: Path, _secret: Path) -> None:
    make_qcow2(path, size="3T")


@hostile("bomb.qcow2", errors.TemplateTooLarge)
def _qcow2_largest_size(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 24, b"\xff" * 8)


@hostile("secret.qcow2")
def _qcow2_encrypted(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 32, struct.pack(">I", 2))


@hostile("secret.qcow2")
def _qcow2_encrypted_the_old_way(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 32, struct.pack(">I", 1))


# Other containers of QEMU


@hostile("old.qcow2")
def _qcow_version_1(path: Path, _secret: Path) -> None:
    qemu_img("create", "-q", "-f", "qcow", str(path), "1M")


@hostile("old.img")
def _qed(path: Path, _secret: Path) -> None:
    qemu_img("create", "-q", "-f", "qed", str(path), "1M")


@hostile("luks.img")
def _luks(path: Path, _secret: Path) -> None:
    header = struct.pack(">6sH32s32s32sII", b"LUKS\xba\xbe", 1, b"aes", b"xts-plain64", b"sha256", 4096, 64)
    path.write_bytes(header.ljust(4096 * 512, b"\0") + content())


def _l1(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[40:48], "big")


def _first_l2(path: Path) -> int:
    at = _l1(path)
    return int.from_bytes(path.read_bytes()[at : at + 8], "big") & 0x00FFFFFFFFFFFE00 or 0
