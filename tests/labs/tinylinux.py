"""A Linux guest that tells what it was given; ``tinylinux.sh`` in this folder makes it, and says in which words."""

import base64
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from labs.require import installed

_SCRIPT: Final = Path(__file__).with_name("tinylinux.sh")
_TIMEOUT: Final = 300.0

DONE: Final = "GUEST DONE"
"""Its last words."""
CMDLINE: Final = "console=ttyS0 quiet nokaslr"
"""For the kernel: without random addresses it boots a second sooner where there is no KVM."""


@dataclass(frozen=True, kw_only=True)
class TinyLinux:
    """What is booted."""

    kernel: Path
    ramdisk: Path


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a guest said of itself."""

    disks: dict[str, int] = field(default_factory=dict)
    """Bytes of each, by the guest's name for it."""
    sums: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the first MiB of each, before anything of it was used."""
    labels: dict[str, str] = field(default_factory=dict)
    """The disks that have a label that guests look for, by the label."""
    free: dict[str, int] = field(default_factory=dict)
    """Bytes that are free in the file systems that it mounted, by their labels."""
    swap: dict[str, int] = field(default_factory=dict)
    """Bytes of swap, by disk."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Of the config drive."""
    cmdline: str = ""


def told(console: str) -> Told:
    """Read a console on which :data:`DONE` was said."""

    def words(kind: str, form: str) -> list[tuple[str, ...]]:
        return [match.groups() for match in re.finditer(rf"^GUEST {kind} {form}\r?$", console, re.MULTILINE)]

    disks = words("DISK", r"(\w+) bytes=(\d+) sum=(\w+)")
    return Told(
        disks={name: int(size) for name, size, _ in disks},
        sums={name: digest for name, _, digest in disks},
        labels=dict(words("LABEL", r"(\S+)=(\w+)")),  # type: ignore[arg-type]  # pairs, by their form
        free={label: int(size) for label, size in words("MOUNTED", r"(\w+) \w+ free=(\d+)")},
        swap={name: int(size) for name, size in words("SWAP", r"(\w+) bytes=(\d+)")},
        files={name: base64.b64decode(content) for name, content in words("FILE", r"(\S+) (\S*)")},
        cmdline=" ".join(line for (line,) in words("CMDLINE", "(.*?)")).strip(),
    )


@pytest.fixture(scope="session")
def tiny_linux() -> TinyLinux:
    """A kernel and a ramdisk."""
    folder = Path(installed("libvirt", _SCRIPT, _TIMEOUT))
    return TinyLinux(kernel=folder / "vmlinuz", ramdisk=folder / "ramdisk.gz")
