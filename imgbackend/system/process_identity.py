"""Who is at something: a process of a host, known again after restarts of either.

Noted as ``host``, ``boot``, ``pid`` and ``started``: a process's number is given out again, and so is
the same on another host; its start in this boot of this host is its own.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

State = Literal["alive", "gone", "elsewhere"]
"""elsewhere: another host's, of which nothing can be told here."""


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

    @classmethod
    def me(cls, host: str) -> "ProcessIdentity":
        """This process, on the host of that name."""
        return cls(host=host, boot=_boot(), pid=os.getpid(), started=_started(os.getpid()))

    @classmethod
    def noted(cls, told: object) -> "ProcessIdentity":
        """The process that :meth:`note` was of.

        :raises KeyError: if it is no such note.
        """
        if not isinstance(told, Mapping):
            raise KeyError("boot")
        return cls(host=told.get("host"), boot=told["boot"], pid=told["pid"], started=told["started"])

    def note(self) -> dict[str, Any]:
        """What to note of it."""
        return asdict(self)

    def state(self, host: str) -> State:
        """Whether it is there still, as far as the host of that name can tell."""
        if self.boot == _boot():
            return "alive" if self.started is not None and _started(self.pid) == self.started else "gone"
        return "gone" if self.host == host else "elsewhere"


@functools.cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> str | None:
    """When a process of this boot started; None where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[19]
