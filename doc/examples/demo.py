"""From an image to running guests, twice: on overlays, then on raw copies.

``./dev demo`` runs this.  It makes a tiny bootable image and starts a libvirt of its own.
Then the command ``imgbackend`` spawns two instances (the second from the cache), each is
watched until it says that it booted, and what is there is shown; then the same with another
driver, by nothing but ``images_type``.  All are destroyed.  All of it happens in a temporary
folder, and nothing is left.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgbackend import Gi, Mi
from labs import bootsector

_IMAGE_SIZE = 64 * Mi
_DISK_SIZE = 2 * Gi
_MARKER = "Hello from a guest of imgbackend"
_SECONDS = 120
_LAB = Path(__file__).parents[2] / "tests/labs/libvirt-lab.sh"


class DemoError(Exception):
    """Something did not happen as promised; the message says what."""


def main() -> int:
    """The whole of it; the exit status is 0 if the guests booted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="imgbackend-demo-") as name:
            folder = Path(name)
            folder.chmod(0o711)  # imgbackend reads images as nobody where it is root
            with _libvirt(folder / "libvirt") as uri:
                _demonstrate(folder, uri)
    except KeyboardInterrupt:
        print("demo: cancelled; nothing was left", file=sys.stderr)
        return 130
    except (DemoError, subprocess.TimeoutExpired) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"\nDone in {time.monotonic() - start:.1f} s.  Next: ./dev shell, then imgbackend --help.")
    return 0


@contextlib.contextmanager
def _libvirt(folder: Path) -> Iterator[str]:
    """A libvirt for the demonstration alone; of a user that is not root, the user's own."""
    if os.geteuid() != 0:
        yield "qemu:///session"
        return
    env = {**os.environ, "LIBVIRT_LAB_OWNER": str(os.getpid()), "LIBVIRT_LAB_TTL": "600"}
    try:
        done = subprocess.run(
            [_LAB, "start", folder], env=env, stdout=subprocess.PIPE, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode != 0:
            raise DemoError("libvirt did not start; what it said is above")
        yield done.stdout.strip()
    finally:
        subprocess.run([_LAB, "stop", folder], timeout=_SECONDS, check=False)


@dataclass(frozen=True)
class Host:
    """The command, with a configuration and a folder of instances."""

    folder: Path
    configuration: Path

    def call(self, *words: str, shown: str = "") -> str:
        """Run ``imgbackend`` and return what it prints."""
        print(f"$ imgbackend {shown or ' '.join(words)}")
        command = [str(Path(sys.executable).with_name("imgbackend")), "--config-file", str(self.configuration)]
        done = subprocess.run(
            [*command, "--quiet", *words], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode != 0:
            raise DemoError(f"imgbackend ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def console(self, instance: str) -> str:
        """What a guest has said, as soon as it told the size of its disk."""
        path, end = self.folder / "instances" / instance / "console.log", time.monotonic() + _SECONDS
        while bootsector.sectors_in(said := path.read_text(errors="replace")) is None:
            if time.monotonic() > end:
                raise DemoError(f"{instance} did not boot; it said {said!r}")
            time.sleep(0.02)
        return said


def _demonstrate(folder: Path, uri: str) -> None:
    image = folder / "tiny.qcow2"
    bootsector.write_disk(image, _IMAGE_SIZE, format="qcow2", marker=_MARKER)
    print(f"An image: {image.name}, {image.stat().st_size // 1024} KiB that unpack to {_IMAGE_SIZE // Mi} MiB.")
    host = Host(folder, folder / "imgbackend.conf")
    for images_type in ("qcow2", "raw"):
        host.configuration.write_text(
            f"[DEFAULT]\ninstances_path = {folder}/instances\nimages_type = {images_type}\n"
            f"[libvirt]\nconnection_uri = {uri}\nvirt_type = qemu\n"
        )
        print(f"\n--- images_type = {images_type} ---")
        for number in (1, 2):
            _spawn(host, f"{images_type}-{number}", image)
    print("\n--- what is there ---")
    print(host.call("disk", "list", "-c", "instance", "-c", "name", "-c", "format", "-c", "size", "-c", "allocated"))
    for row in json.loads(host.call("instance", "list", "-f", "json")):
        host.call("instance", "destroy", row["instance"])
    left = json.loads(host.call("disk", "list", "-f", "json")) + json.loads(host.call("instance", "list", "-f", "json"))
    if left:
        raise DemoError(f"these are still there: {left}")
    print("  Nothing but the cache of images is left.")


def _spawn(host: Host, instance: str, image: Path) -> None:
    """One instance; what its guest says must be the marker and the disk's size."""
    options = ["--root-size", "2G", "--swap", "64M", "--memory", "64M"]
    shown = f"instance spawn {instance} --image {image.name} {' '.join(options)}"
    start = time.monotonic()
    told = host.call("instance", "spawn", instance, "--image", str(image), *options, "-f", "json", shown=shown)
    facts = json.loads(told)
    said = host.console(instance)
    took = time.monotonic() - start
    for disk in facts["disks"]:
        _tell(disk)
    for line in filter(None, map(str.strip, said.splitlines())):
        print(f"  | {line}")
    if _MARKER not in said or bootsector.sectors_in(said) != _DISK_SIZE // bootsector.SECTOR:
        raise DemoError(f"{instance} said something else than it should")
    print(f"  It booted, {took:.2f} s after the command was called, and sees the 2 GiB that were asked for.")


def _tell(disk: dict[str, Any]) -> None:
    origin = "fetched or made, then" if disk["fetched"] else "from the cache,"
    print(f"  {disk['name']}: {origin} {disk['way']}, in {disk['seconds'] * 1000:.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
