"""What a guest sees of a disk: by QEMU's own tools, through ``source()``, never by the driver.

The format is the one that the source states; nothing is guessed.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

from imgbackend.types import BlockSource, DiskSource, FileSource, NetworkSource

_SECONDS: Final = 120


class OracleError(AssertionError):
    """QEMU cannot do with the disk what a guest would."""


def spec(source: DiskSource) -> str:
    """The disk as QEMU's tools are told of it, each layer's driver named.

    :raises OracleError: if it is on a network that the oracle cannot reach.
    """
    match source:
        case FileSource():
            file: dict[str, Any] = {"driver": "file", "filename": str(source.path)}
        case BlockSource():
            file = {"driver": "host_device", "filename": str(source.path)}
        case NetworkSource(protocol="rbd"):
            pool, _, image = source.name.partition("/")
            file = {"driver": "rbd", "pool": pool, "image": image}
            file |= {"conf": source.conf} if source.conf else {}
            file |= {"user": source.user} if source.user else {}
        case _:
            raise OracleError(f"the oracle cannot reach disks by {source.protocol}")
    return "json:" + json.dumps({"driver": source.format, "file": file})


def read(source: DiskSource, scratch: Path) -> bytes:
    """All bytes of the disk; ``scratch`` is a folder for a moment."""
    if isinstance(source, FileSource | BlockSource) and source.format == "raw":
        try:
            return source.path.read_bytes()  # what QEMU's raw driver reads, byte for byte
        except OSError as exc:
            raise OracleError(f"a guest cannot read {source.path}: {exc.strerror}") from exc
    target = scratch / "read.raw"
    try:
        _run("qemu-img", "convert", "-U", "-O", "raw", spec(source), str(target))
        return target.read_bytes()
    finally:
        target.unlink(missing_ok=True)


def expect(got: bytes, wanted: bytes, what: str) -> None:
    """Assert that bytes are the same; megabytes are no reading matter, so the first difference is told.

    :raises AssertionError: if they are not.
    """
    if got == wanted:
        return
    for at in range(0, max(len(got), len(wanted)), 512):
        if got[at : at + 512] != wanted[at : at + 512]:
            break
    raise AssertionError(
        f"{what}: {len(got)} bytes instead of {len(wanted)}, and other ones from sector {at // 512}: "
        f"{got[at : at + 8].hex(' ') or 'none'} instead of {wanted[at : at + 8].hex(' ') or 'none'}"
    )


def size(source: DiskSource) -> int:
    """The bytes that a guest sees."""
    told: dict[str, Any] = json.loads(_run("qemu-img", "info", "-U", "--output=json", spec(source)))
    return int(told["virtual-size"])


def write(source: DiskSource, at: int, count: int, byte: int) -> None:
    """Have a guest write ``count`` times the same byte."""
    _run("qemu-io", "-c", f"write -q -P {byte} {at} {count}", "-c", "flush", spec(source))


def write_from(source: DiskSource, at: int, file: Path) -> None:
    """Have a guest write what is in a file."""
    _run("qemu-io", "-c", f"write -q -s {file} {at} {file.stat().st_size}", "-c", "flush", spec(source))


def file_bytes(path: Path, format: str, scratch: Path) -> bytes:
    """What a guest reads of an exported file."""
    return read(FileSource(path=path, format=format), scratch)


def file_facts(path: Path, format: str) -> dict[str, Any]:
    """What qemu-img says of an exported file."""
    told: dict[str, Any] = json.loads(
        _run("qemu-img", "info", "--output=json", spec(FileSource(path=path, format=format)))
    )
    return told


def make_qcow2(raw: Path, target: Path) -> None:
    """A qcow2 with the bytes of a raw image."""
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target))


def make_overlay(raw: Path, target: Path) -> None:
    """A qcow2 on top of a raw image."""
    _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(raw), "-F", "raw", str(target))


def _run(*argv: str) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode != 0 or "failed" in done.stdout:
        raise OracleError(f"{argv[0]} {argv[1]} on {argv[-1]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout
