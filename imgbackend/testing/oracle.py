"""What a guest sees of a disk: by QEMU's own tools, through ``source()``, never by the driver.

The format is the one that the source states; nothing is guessed.
"""

import contextlib
import json
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

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


@contextlib.contextmanager
def guest_on(source: DiskSource) -> Iterator[None]:
    """A process of QEMU's has the disk open for writing meanwhile, as that of a running guest has.

    It holds what tells of it: QEMU's locks on a file or a device, a watcher on an RBD image.

    :raises OracleError: if it cannot open the disk.
    """
    with tempfile.TemporaryFile() as said:
        guest = subprocess.Popen(
            ["qemu-io", spec(source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, bufsize=0
        )
        try:
            _await_answer(guest, said)
            yield
        finally:
            guest.kill()
            guest.communicate()


def _await_answer(guest: "subprocess.Popen[bytes]", said: IO[bytes]) -> None:
    """It answers a question when it has opened the disk; else it ends."""
    assert guest.stdin is not None
    assert guest.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        guest.stdin.write(b"length\n")
    told, end = b"", time.monotonic() + _SECONDS
    while b"B\n" not in told and b" bytes\n" not in told:
        ready, _, _ = select.select([guest.stdout], [], [], max(end - time.monotonic(), 0))
        data = guest.stdout.read(4096) if ready else b""
        if not data:
            said.seek(0)
            raise OracleError(f"a guest cannot open the disk: {said.read().decode(errors='replace').strip()}")
        told += data


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
