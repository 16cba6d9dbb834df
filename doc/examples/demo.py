"""From an image to a running guest, twice: on overlays, then on raw copies.

``./dev demo`` runs this.  It makes a tiny bootable image, has the command ``imgbackend``
make disks of it for two instances (the second from the cache), boots one of them in an
emulated machine and shows what the guest writes on its serial console; then the same
with another driver, by nothing but ``images_type``.  Then the library lists what there
is and deletes it.  All of it happens in a temporary folder, and nothing is left.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from imgbackend import Gi, Mi
from labs import bootsector

_IMAGE_SIZE = 64 * Mi
_DISK_SIZE = 2 * Gi
_MARKER = "Hello from a guest of imgbackend"
_MACHINE = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "64", "-nodefaults", "-no-reboot"]
_CONSOLE = ["-display", "none", "-serial", "stdio"]
_SECONDS = 60


class DemoError(Exception):
    """Something did not happen as promised; the message says what."""


@dataclass(frozen=True)
class Disk:
    """What ``imgbackend disk create -f json`` told."""

    instance: str
    way: str
    format: str
    location: str
    fetched: bool
    allocated: int
    size: int
    seconds: float


def main() -> int:
    """The whole of it; the exit status is 0 if the guests booted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="imgbackend-demo-") as folder:
            _demonstrate(Path(folder))
    except KeyboardInterrupt:
        print("demo: cancelled; nothing was left", file=sys.stderr)
        return 130
    except (DemoError, subprocess.TimeoutExpired) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - start:.1f} s.  Next: ./dev shell, then imgbackend --help.")
    return 0


def _demonstrate(folder: Path) -> None:
    image = folder / "tiny.qcow2"
    bootsector.write_disk(image, _IMAGE_SIZE, format="qcow2", marker=_MARKER, end="poweroff")
    print(f"An image: {image.name}, {image.stat().st_size // 1024} KiB that unpack to {_IMAGE_SIZE // Mi} MiB.")
    configuration = folder / "imgbackend.conf"
    for images_type in ("qcow2", "raw"):
        configuration.write_text(f"[DEFAULT]\ninstances_path = {folder}/instances\nimages_type = {images_type}\n")
        print(f"\n--- images_type = {images_type} ---")
        disks = [_create(configuration, f"{images_type}-{number}", image) for number in (1, 2)]
        _boot(disks[-1])
    _clear(configuration)


def _create(configuration: Path, instance: str, image: Path) -> Disk:
    """One disk, through the command."""
    words = ["disk", "create", instance, "--image", str(image), "--size", "2G"]
    print(f"$ imgbackend {' '.join(words[:3])} --image {image.name} --size 2G")
    command = [str(Path(sys.executable).with_name("imgbackend")), "--config-file", str(configuration), "--quiet"]
    start = time.monotonic()
    done = subprocess.run(
        [*command, *words, "-f", "json"], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    took = time.monotonic() - start
    if done.returncode != 0:
        raise DemoError(f"imgbackend ended with {done.returncode}: {done.stderr.strip()}")
    facts = json.loads(done.stdout)
    disk = Disk(**{name: facts[name] for name in Disk.__dataclass_fields__})
    origin = "fetched, then" if disk.fetched else "from the cache,"
    print(
        f"  {origin} {disk.way}: {disk.size // Gi} GiB {disk.format}, {disk.allocated // 1024} KiB on disk,"
        f" in {disk.seconds * 1000:.1f} ms; the whole command {took:.2f} s"
    )
    return disk


def _boot(disk: Disk) -> None:
    """Start a machine from the disk; what it says must be the marker and the disk's size."""
    drive = f"file={disk.location.replace(',', ',,')},format={disk.format},if=virtio"
    print(f"$ qemu-system-x86_64 -drive {disk.instance}'s disk,format={disk.format}")
    command = [*_MACHINE, *_CONSOLE, "-drive", drive]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
    console = done.stdout.decode("ascii", "replace")
    for line in filter(None, map(str.strip, console.splitlines())):
        print(f"  | {line}")
    if done.returncode != 0 or _MARKER not in console:
        raise DemoError(f"{disk.instance} did not boot: {done.stderr.decode(errors='replace').strip() or 'no marker'}")
    sectors = bootsector.sectors_in(console)
    if sectors != _DISK_SIZE // bootsector.SECTOR:
        raise DemoError(f"{disk.instance} sees {sectors} sectors, not the {_DISK_SIZE // bootsector.SECTOR} asked for")
    print(f"  It booted, and sees {sectors} sectors: the {_DISK_SIZE // Gi} GiB that were asked for.")


def _clear(configuration: Path) -> None:
    """The library's side: what is there, and away with it."""
    from imgbackend import Engine

    print("\n--- the library ---")
    with Engine.from_config([configuration]) as engine:
        for disk in list(engine.disks()):
            record = disk.recorded
            print(f"  {disk.id}: {record.format if record else '?'} by {record.way if record else '?'}")
            disk.remove()
        left = list(engine.disks())
    if left:
        raise DemoError(f"these disks are still there: {', '.join(str(disk.id) for disk in left)}")
    print("  All are deleted.")


if __name__ == "__main__":
    sys.exit(main())
