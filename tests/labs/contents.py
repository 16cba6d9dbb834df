"""What is in an ``instances_path``, and what a guest would read of a disk."""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from imgbackend.driver.contract import Disk
from imgbackend.state import folder_marker
from imgbackend.types import FileSource
from labs.images import qemu_img


def guest_view(path: Path, format: str) -> bytes:
    """All bytes that a guest reads; of a container by qemu-img, into a file."""
    if format == "raw":
        return path.read_bytes()
    with tempfile.TemporaryDirectory() as folder:  # the disk's own may be full
        target = Path(folder) / "view"
        qemu_img("convert", "-U", "-f", format, "-O", "raw", str(path), str(target))
        return target.read_bytes()


def bytes_of(disk: Disk[Any]) -> bytes:
    """All bytes that a guest reads of a disk that is a file."""
    source = disk.source()
    assert isinstance(source, FileSource)
    return guest_view(source.path, source.format)


def write_as_guest(path: Path, format: str, at: int, data: bytes) -> None:
    """What a guest writes: by qemu-io, through the disk's format."""
    pattern = path.with_name(f"{path.name}.pattern")
    pattern.write_bytes(data)
    try:
        command = f"write -q -s {pattern} {at} {len(data)}"
        subprocess.run(["qemu-io", "-f", format, "-c", command, str(path)], check=True, timeout=60, capture_output=True)
    finally:
        pattern.unlink()


def entries(instances: Path) -> set[str]:
    """Every file but what stays: the locks of bases, failures shared with who waits, the list of hosts, the marker.

    The folder of an instance stays too: its caller may have made it.
    """
    found = {str(path.relative_to(instances)) for path in instances.rglob("*") if not path.is_dir()}
    kept = {name for name in found if name.startswith("locks/nova-") or name.endswith(".failed")}
    return found - kept - {"locks/imgbackend-space", "compute_nodes", "imgbackend_hosts.json", folder_marker.NAME}


def partial(instances: Path) -> set[str]:
    """Files that only an unfinished, or a killed, call has."""
    return {name for name in entries(instances) if name.endswith((".part", ".converted", ".tmp", ".reserved"))}
