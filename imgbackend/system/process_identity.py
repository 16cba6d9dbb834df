"""Who is at something: a process of a host, known again after restarts of either.

Noted as ``host``, ``machine``, ``boot``, ``pid_namespace``, ``pid`` and ``started``.  A process's number is given out
again, and so is the same on another host, or in another container of one kernel.  Its start in this boot, with the
namespace that its number is of, is its own.  Two hosts may have one name by mistake; their machine ids tell them apart.

What cannot be told is ``elsewhere``, never ``gone``: to keep what nobody needs loses nothing.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

State = Literal["alive", "gone", "elsewhere"]
"""elsewhere: another host's, or of another container, of which nothing can be told here."""

_UNSET: Final = "uninitialized"
"""What systemd has in machine-id of an image that was never started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """One process."""

    host: str | None
    """The name by which other hosts know its host; None: not noted."""
    boot: str
    """The kernel's ``boot_id``."""
    pid: int
    started: str | None
    """In clock ticks since the boot."""
    machine: str | None = None
    """The host's ``/etc/machine-id``; None: it has none, or an older version did not note it."""
    pid_namespace: int | None = None
    """The inode of the namespace that ``pid`` is of; None: an older version did not note it."""

    @classmethod
    def me(cls, host: str) -> "ProcessIdentity":
        """This process, on the host of that name."""
        return cls(
            host=host,
            boot=boot_id(),
            pid=os.getpid(),
            started=_started(os.getpid()),
            machine=machine_id(),
            pid_namespace=_pid_namespace(),
        )

    @classmethod
    def noted(cls, note: object) -> "ProcessIdentity":
        """The process that :meth:`note` was of.

        :raises KeyError: if it is no such note.
        """
        if not isinstance(note, Mapping):
            raise KeyError("boot")
        return cls(
            host=note.get("host"),
            boot=note["boot"],
            pid=note["pid"],
            started=note["started"],
            machine=note.get("machine"),
            pid_namespace=note.get("pid_namespace"),
        )

    def note(self) -> dict[str, Any]:
        """What to note of it."""
        return asdict(self)

    def state(self, host: str) -> State:
        """Whether it is there still, as far as the host of that name can tell."""
        if not self.is_of_this_boot():
            restarted = self.host == host and self.machine is not None and self.machine == machine_id()
            return "gone" if restarted else "elsewhere"
        if self.pid_namespace not in (None, _pid_namespace()):
            return "elsewhere"
        if self.started is not None and _started(self.pid) == self.started:
            return "alive"
        is_hidden = _is_there(self.pid) and _started(self.pid) is None
        return "elsewhere" if self.pid_namespace is None or is_hidden else "gone"

    def is_of_this_boot(self) -> bool:
        """Whether it ran on the kernel that runs here now."""
        return self.boot == boot_id()


@functools.cache
def machine_id() -> str | None:
    """What tells this installation of a system from every other, whatever their names; None: it has no such thing."""
    try:
        found = Path("/etc/machine-id").read_text().strip()
    except OSError:
        return None
    return None if found in ("", _UNSET) else found


@functools.cache
def boot_id() -> str:
    """What tells this start of the kernel from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> int | None:
    """The namespace of process numbers; None where /proc does not tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process of this boot started; None where it is gone, or /proc does not show it to this user."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return stat.rpartition(")")[2].split()[19]


def _is_there(pid: int) -> bool:
    """Whether there is a process of that number, though /proc may hide it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
