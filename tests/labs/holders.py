"""Processes that have a disk open, as a guest has; and who has files of a folder open."""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_PATIENCE = 30.0


@contextlib.contextmanager
def guest_on(path: Path, format: str) -> Iterator[None]:
    """A real QEMU has the disk open for writing meanwhile; its guest does not run."""
    argv = ["qemu-system-x86_64", "-S", "-nodefaults", "-display", "none", "-m", "16", "-qmp", "stdio"]
    kind = "host_device" if path.is_block_device() else "file"
    argv += ["-blockdev", f"driver={kind},node-name=file,filename={str(path).replace(',', ',,')}"]
    argv += ["-blockdev", f"driver={format},node-name=disk,file=file", "-device", "virtio-blk,drive=disk"]
    qemu = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        assert b"QMP" in qemu.stdout.readline()
        qemu.stdin.write(b'{"execute": "qmp_capabilities"}')
        qemu.stdin.flush()
        assert b"return" in qemu.stdout.readline()  # answered when the machine is made, its disks open
        yield
    finally:
        qemu.kill()
        qemu.communicate()


def holders(folder: Path) -> set[str]:
    """The processes but this one that have a file below ``folder`` open, each with its command."""
    inside, found = f"{folder}/", set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        with contextlib.suppress(OSError):
            links = [os.readlink(fd) for fd in (process / "fd").iterdir()]
            if any(link.startswith(inside) for link in links):
                found.add(f"{process.name} {(process / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()}")
    return found


def wait_until_none_holds(folder: Path) -> None:
    """Until no other process has a file below ``folder`` open; fails after half a minute."""
    end = time.monotonic() + _PATIENCE
    while left := holders(folder):
        assert time.monotonic() < end, f"these still have files open: {left}"
        time.sleep(0.01)
