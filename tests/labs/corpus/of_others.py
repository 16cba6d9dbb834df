"""VHD, VHDX and VDI, two formats at once, and what is not what its name says.

Offsets are those of Microsoft's "Virtual Hard Disk Image Format Specification", and of QEMU's
block/vdi.c.
"""

import os
import struct
from pathlib import Path

from imgbackend import errors
from imgbackend.types import Ki, Mi
from labs.corpus.making import content, filled, hostile, make_qcow2, patch

# VHD, VHDX, VDI


@hostile("cut.vhd", errors.TemplateCorrupt)
def _vhd_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vpc")
    os.truncate(path, path.stat().st_size - 300 * Ki)


@hostile("parent.vhd")
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


@hostile("bomb.vhd", errors.TemplateTooLarge)
def _vhd_size_bomb(path: Path, _secret: Path) -> None:
    filled(path, "vpc")
    patch(path, 40, struct.pack(">QQ", 1 << 45, 1 << 45))


@hostile("cut.vhdx", errors.TemplateCorrupt)
def _vhdx_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vhdx", 40 * Mi)
    os.truncate(path, path.stat().st_size - 9 * Mi)


@hostile("parent.vhdx", errors.TemplateCorrupt)
def _vhdx_differencing(path: Path, _secret: Path) -> None:
    filled(path, "vhdx")
    data = path.read_bytes()
    guid = struct.pack("<IHH", 0xCAA16737, 0xFA36, 0x4D43) + bytes.fromhex("B3B633F0AA44E76B")
    metadata = data.index(b"metadata")
    at = data.index(guid, metadata)
    patch(path, metadata + struct.unpack_from("<I", data, at + 16)[0] + 4, struct.pack("<I", 2))


@hostile("cut.vdi", errors.TemplateCorrupt)
def _vdi_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vdi", 3 * Mi)
    os.truncate(path, path.stat().st_size - Mi - 300 * Ki)


@hostile("parent.vdi", errors.TemplateCorrupt)
def _vdi_differencing(path: Path, _secret: Path) -> None:
    filled(path, "vdi")
    patch(path, 0x1B8, b"\x11" * 16)


@hostile("bomb.vdi", errors.TemplateTooLarge)
def _vdi_size_bomb(path: Path, _secret: Path) -> None:
    filled(path, "vdi")
    patch(path, 0x170, struct.pack("<Q", 1 << 45))


# Two at once, and what is not what its name says


@hostile("both.qcow2")
def _qcow2_and_iso(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 32 * Ki, b"\x01CD001\x01")


@hostile("both.qcow2")
def _qcow2_and_partition_table(path: Path, _secret: Path) -> None:
    make_qcow2(path)
    patch(path, 446, b"\x80\x01\x01\x00\x83\x01\x01\x00\x01\x00\x00\x00\x00\x08\x00\x00")
    patch(path, 510, b"\x55\xaa")


@hostile("both.iso")
def _vmdk_and_iso(path: Path, _secret: Path) -> None:
    filled(path, "vmdk")
    patch(path, 32 * Ki, b"\x01CD001\x01")


@hostile("named.raw")
def _qcow2_named_raw(path: Path, secret: Path) -> None:
    make_qcow2(path, "-u", "-b", str(secret), "-F", "raw")


@hostile("named.iso")
def _qcow2_named_iso(path: Path, _secret: Path) -> None:
    filled(path, "qcow2")


@hostile("named.qcow2")
def _raw_named_qcow2(path: Path, _secret: Path) -> None:
    path.write_bytes(content())


@hostile("page.qcow2", by_http=errors.ImageNotFound)
def _page_named_qcow2(path: Path, _secret: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>Please log in</body></html>\n")


@hostile("empty.qcow2", errors.TemplateCorrupt)
def _empty_qcow2(path: Path, _secret: Path) -> None:
    path.write_bytes(b"")


@hostile("empty.raw", errors.TemplateCorrupt)
def _empty_raw(path: Path, _secret: Path) -> None:
    path.write_bytes(b"")


@hostile("all.tar", errors.TemplateError)
def _archive(path: Path, _secret: Path) -> None:
    path.write_bytes(content())


# What only a folder holds


@hostile("fifo.raw", errors.ImageNotFound, servable=False)
def _fifo(path: Path, _secret: Path) -> None:
    os.mkfifo(path)


@hostile("device.raw", errors.ImageNotFound, servable=False)
def _device(path: Path, _secret: Path) -> None:
    path.symlink_to("/dev/zero")


@hostile("folder.raw", errors.ImageNotFound, servable=False)
def _folder(path: Path, _secret: Path) -> None:
    path.mkdir()


@hostile("dangling.raw", errors.ImageNotFound, servable=False)
def _dangling_symlink(path: Path, _secret: Path) -> None:
    path.symlink_to("nowhere")


@hostile("loop.raw", errors.ImageNotFound, servable=False)
def _looping_symlink(path: Path, _secret: Path) -> None:
    path.symlink_to(path.name)
