"""VMDK; offsets are those of VMware's "Virtual Disk Format 5.0"."""

import os
import struct
from pathlib import Path

from imgbackend import errors
from imgbackend.types import Ki, Mi
from labs.corpus.making import filled, hostile, patch
from labs.images import qemu_img

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


@hostile("flat.vmdk")
def _vmdk_flat(path: Path, secret: Path) -> None:
    _vmdk(path, "monolithicFlat")
    _described(path, f"{path.stem}-flat.vmdk".encode(), str(secret).encode())
    path.with_name(f"{path.stem}-flat.vmdk").unlink()


@hostile("flat.img")
def _vmdk_flat_undeclared(path: Path, secret: Path) -> None:
    _vmdk_flat_named(path, secret, "monolithicFlat")


@hostile("vmfs.vmdk")
def _vmdk_vmfs(path: Path, secret: Path) -> None:
    _vmdk_flat_named(path, secret, "vmfs")


@hostile("flat.raw")
def _vmdk_flat_as_raw(path: Path, secret: Path) -> None:
    _vmdk_flat_named(path, secret, "monolithicFlat")


def _vmdk_flat_named(path: Path, secret: Path, kind: str) -> None:
    extent = "VMFS" if kind == "vmfs" else "FLAT"
    lines = ["# Disk DescriptorFile", "version=1", "CID=fffffffe", "parentCID=ffffffff", f'createType="{kind}"']
    lines += [f'RW 56 {extent} "{secret}"' + ("" if kind == "vmfs" else " 0"), 'ddb.adapterType = "ide"', ""]
    path.write_text("\n".join(lines) + "# \n" * 4096)


@hostile("split.vmdk")
def _vmdk_two_gb_sparse(path: Path, secret: Path) -> None:
    _vmdk(path, "twoGbMaxExtentSparse")
    _described(path, f"{path.stem}-s001.vmdk".encode(), str(secret).encode())
    path.with_name(f"{path.stem}-s001.vmdk").unlink()


@hostile("split.vmdk")
def _vmdk_two_gb_flat(path: Path, secret: Path) -> None:
    _vmdk(path, "twoGbMaxExtentFlat")
    _described(path, f"{path.stem}-f001.vmdk".encode(), str(secret).encode())
    path.with_name(f"{path.stem}-f001.vmdk").unlink()


@hostile("extent.vmdk")
def _vmdk_sparse_naming_a_path(path: Path, secret: Path) -> None:
    filled(path, "vmdk")
    _described(path, f'"{path.name}"'.encode(), f'"{secret}"'.encode())


@hostile("hidden.vmdk")
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


@hostile("parent.vmdk")
def _vmdk_with_parent(path: Path, secret: Path) -> None:
    filled(path, "vmdk")
    _described(path, b"parentCID=ffffffff", f'parentCID=00000001\nparentFileNameHint="{secret}"'.encode())


@hostile("stream.vmdk")
def _vmdk_footer_with_another_descriptor(path: Path, _secret: Path) -> None:
    filled(path, "vmdk", Mi, "subformat=streamOptimized")
    _with_footer(path, descriptor=64)


@hostile("stream.vmdk")
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


@hostile("cut.vmdk", errors.TemplateCorrupt)
def _vmdk_stream_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vmdk", Mi, "subformat=streamOptimized")
    os.truncate(path, path.stat().st_size - 8 * Ki)


@hostile("cut.vmdk", errors.TemplateCorrupt)
def _vmdk_sparse_truncated(path: Path, _secret: Path) -> None:
    filled(path, "vmdk")
    os.truncate(path, path.stat().st_size - 300 * Ki)


@hostile("bomb.vmdk", errors.TemplateTooLarge)
def _vmdk_size_bomb(path: Path, _secret: Path) -> None:
    filled(path, "vmdk")
    patch(path, 12, struct.pack("<Q", 1 << 50))
