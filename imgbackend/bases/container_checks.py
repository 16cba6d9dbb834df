"""What oslo.utils' inspectors leave open of a container, read from its own headers.

QEMU sees a file only after this.  The offsets are those of QEMU's docs/interop/qcow2.txt,
VMware's "Virtual Disk Format 5.0", Microsoft's "Virtual Hard Disk Image Format
Specification", and, for VDI, QEMU's block/vdi.c.
"""

import os
import re
import struct
from typing import Final

from imgbackend import errors
from imgbackend.system import qcow2

_FOOTER: Final = 512
_VHD: Final = b"conectix"
_VHD_FIXED: Final = 2
_VHD_DYNAMIC: Final = 3
_SPARSE: Final = struct.Struct("<4sIIQQQQIQQ")
_AT_END: Final = (1 << 64) - 1
_DESCRIPTOR: Final = 1 << 20
_CREATE_TYPE: Final = re.compile(rb"createtype", re.IGNORECASE)
_PARENT: Final = re.compile(
    rb'^\s*(?:parentfilenamehint\b|parentcid\s*=\s*"?(?!"?f{8}\b))', re.IGNORECASE | re.MULTILINE
)


def is_fixed_vhd(fd: int) -> bool:
    """Whether a file ends as a VHD of fixed size does: raw bytes, and a footer of 512 bytes."""
    return _vhd_type(fd, os.fstat(fd).st_size - _FOOTER) == _VHD_FIXED


def check(fd: int, found: str, size: int) -> int:
    """The virtual size of the container that the inspector took for ``found``, and to have ``size``.

    :raises TemplateUnsafe: if it depends on another file, is encrypted, or reads differently to QEMU.
    :raises TemplateCorrupt: if it is broken or cut off.
    """
    if found == "qcow2":
        _check_qcow2(fd)
    elif found == "vmdk":
        _check_vmdk(fd)
    elif found == "vhd":
        return _vhd_size(fd)
    elif found == "vdi":
        _check_vdi(fd)
    return size


def _check_qcow2(fd: int) -> None:
    try:
        header = qcow2.parse(os.pread(fd, 1 << 16, 0), "the image")
    except errors.DiskError as exc:
        raise errors.TemplateCorrupt(str(exc)) from exc
    if header.backing_file is not None or header.incompatible & qcow2.DATA_FILE:
        raise errors.TemplateUnsafe("the image refers to another file")
    if header.encrypted:
        raise errors.TemplateUnsafe("the image is encrypted; decrypt it with qemu-img convert")
    if header.incompatible & qcow2.CORRUPT:
        raise errors.TemplateCorrupt("the image is marked as corrupt; repair it with qemu-img check -r")
    try:
        qcow2.refuse_foreign(header, "the image")
    except errors.DiskError as exc:
        raise errors.TemplateUnsafe(str(exc)) from exc


def _check_vmdk(fd: int) -> None:
    """Its embedded descriptor has one meaning, for every reader.

    QEMU follows the extents of a file whose header states no capacity, and takes the first
    ``createType`` in that very spelling, where others read it in any.
    """
    head = os.pread(fd, _SPARSE.size, 0)
    if len(head) < _SPARSE.size or not head.startswith(b"KDMV"):
        raise errors.TemplateUnsafe("the image is a VMDK that only describes other files")
    _, _, _, capacity, _, at, sectors, _, _, _ = _SPARSE.unpack(head)
    if not capacity:
        raise errors.TemplateUnsafe("the image is a VMDK that states no capacity, as one that only describes others")
    text = os.pread(fd, min(sectors * 512, _DESCRIPTOR), at * 512).partition(b"\0")[0]
    if len(_CREATE_TYPE.findall(text)) != 1 or b'createType="' not in text:
        raise errors.TemplateUnsafe("the image is a VMDK whose descriptor has not one createType")
    if _PARENT.search(text):
        raise errors.TemplateUnsafe("the image refers to another file: it is a VMDK with a parent")


def _vhd_type(fd: int, at: int) -> int | None:
    footer = os.pread(fd, _FOOTER, at) if at >= 0 else b""
    if len(footer) != _FOOTER or not footer.startswith(_VHD):
        return None
    return int(struct.unpack_from(">I", footer, 60)[0])


def _vhd_size(fd: int) -> int:
    """The size that the footer states: of a dynamic one it is at the beginning too.

    Not the product of its geometry, which ends at 127 GiB, and which Hyper-V, Azure and
    VirtualBox ignore.
    """
    at = 0 if _vhd_type(fd, 0) is not None else os.fstat(fd).st_size - _FOOTER
    kind = _vhd_type(fd, at)
    if kind != (_VHD_FIXED if at else _VHD_DYNAMIC):
        raise errors.TemplateUnsafe("the image is a VHD that needs a parent, or of a type that nobody knows")
    size = int.from_bytes(os.pread(fd, 8, at + 48), "big")
    if at and size != at:
        raise errors.TemplateCorrupt(f"the image is a fixed VHD of {size} bytes, and holds {at}")
    return size


def _check_vdi(fd: int) -> None:
    head = os.pread(fd, _FOOTER, 0)
    data = struct.unpack_from("<I", head, 0x158)[0]
    block, _, allocated = struct.unpack_from("<3I", head[0x178:0x17C] + bytes(4) + head[0x184:0x188])
    end, length = data + block * allocated, os.fstat(fd).st_size
    if end > length:
        raise errors.TemplateCorrupt(f"the image is cut off: it holds data up to byte {end}, and has {length}")
