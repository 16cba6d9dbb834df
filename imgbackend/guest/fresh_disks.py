"""What this host makes itself: fresh file systems and swap areas.

Each is a template as any other: a base under a name of everything that its bytes depend
on, made once, and disks that are made from it.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from imgbackend.bases.store import generated_name
from imgbackend.errors import CommandFailed, ConfigError
from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.system.runner import CommandLimits
from imgbackend.types import Declared, Gi, Progress, Role

SWAP_LABEL: Final = "swap"
_MKFS: Final[Mapping[str, tuple[str, ...]]] = {
    "ext2": ("mkfs.ext2", "-q", "-F", "-L", "{label}", "{target}"),
    "ext3": ("mkfs.ext3", "-q", "-F", "-L", "{label}", "{target}"),
    "ext4": ("mkfs.ext4", "-q", "-F", "-L", "{label}", "{target}"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-L", "{label}", "{target}"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "-L", "{label}", "{target}"),
    "vfat": ("mkfs.vfat", "-n", "{label}", "{target}"),
    "ntfs": ("mkfs.ntfs", "--force", "--fast", "--label", "{label}", "{target}"),
}
_BY_SYSTEM: Final = {"linux": "ext4", "windows": "ntfs"}
_OTHERWISE: Final = "vfat"
_MKSWAP: Final = ("mkswap", "-L", "{label}", "{target}")


class Generated:
    """Makes a disk's first content: a :class:`~imgbackend.types.FetchFunc` of a generated template."""

    role: Role = "generated"

    def __init__(self, host: Host, kind: str, size: int, command: Sequence[str], label: str, filesystem: str) -> None:
        """``command`` has ``{label}`` and ``{target}`` in it; ``kind`` is ``ephemeral`` or ``swap``."""
        self._host, self._size, self._label = host, size, label
        self._command = tuple(command)
        self._what = f"{kind} {filesystem}".strip()
        self.filename = generated_name(kind, size, filesystem, label, shlex.join(command))
        """The name of the base."""

    @property
    def declared(self) -> Declared:
        """A raw image without an id, of the size that was asked for."""
        return Declared(
            image_id="", source=self._what, role="generated", format="raw", size=self._size, virtual_size=self._size
        )

    def __call__(self, target: Path, progress: Progress, /) -> None:
        """Make the file, and have the command write to it.

        :raises ConfigError: if the command is not installed.
        :raises CommandFailed: if it fails: the size may be too small for the file system.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        with files.open_fd(target, flags) as fd:
            os.ftruncate(fd, self._size)
        told = {"{label}": self._label, "{target}": str(target)}
        limits = CommandLimits(cpu_seconds=60 + self._size // Gi, address_space=4 * Gi, file_size=self._size)
        try:
            self._host.run([_filled(word, told) for word in self._command], limits=limits)
        except CommandFailed as exc:
            if exc.reason is not None:
                raise
            said = exc.output.partition("\nUsage:")[0].strip()  # what follows would hide it
            advice = f"{said}; {self._size} bytes may be too few for it"
            raise CommandFailed(exc.argv, exc.status, advice, printed=exc.printed) from exc
        progress("fetch", self._size, self._size)


def ephemeral(
    host: Host, size: int, number: int, filesystem: str | None, *, os_type: str | None, commands: Mapping[str, str]
) -> Generated:
    """A fresh file system, labelled ``ephemeral<number>``.

    ``commands`` are those of the option ``virt_mkfs``, by os_type; with one of them the
    file system is what it makes, unless ``filesystem`` says which is wanted.

    :raises ConfigError: if nobody here knows how to make this file system.
    """
    label = f"ephemeral{number}"
    told = commands.get(os_type or "default") or commands.get("default")
    if filesystem is None and told is not None:
        return Generated(host, "ephemeral", size, _own_command(told), label, "")
    wanted = filesystem or _BY_SYSTEM.get(os_type or "linux", _OTHERWISE)
    if wanted not in _MKFS:
        raise ConfigError(
            f"ephemeral: there is no way to make {wanted} here; there are {', '.join(_MKFS)}, or virt_mkfs"
        )
    return Generated(host, "ephemeral", size, _MKFS[wanted], label, wanted)


def swap(host: Host, size: int) -> Generated:
    """A swap area, labelled ``swap``."""
    return Generated(host, "swap", size, _MKSWAP, SWAP_LABEL, "")


def mkfs_commands(told: Sequence[str]) -> dict[str, str]:
    """The option ``virt_mkfs``: ``os_type=command``, with ``%(fs_label)s`` and ``%(target)s`` in the command.

    :raises ConfigError: if an entry is not of this form.
    """
    found: dict[str, str] = {}
    for entry in told:
        system, equals, command = entry.partition("=")
        if not equals or not system.strip() or "%(target)s" not in command:
            raise ConfigError(f"virt_mkfs: {entry!r} is not os_type=command with %(target)s in the command")
        found[system.strip()] = command.strip()
    return found


def _own_command(told: str) -> list[str]:
    """As an operator wrote it; no shell sees it."""
    try:
        words = shlex.split(told)
    except ValueError as exc:
        raise ConfigError(f"virt_mkfs: {told!r}: {exc}") from exc
    return [word.replace("%(fs_label)s", "{label}").replace("%(target)s", "{target}") for word in words]


def _filled(word: str, told: Mapping[str, str]) -> str:
    for mark, value in told.items():
        word = word.replace(mark, value)
    return word
