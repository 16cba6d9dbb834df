"""Leftovers of snapshots that were worked on: folders of ``[libvirt] snapshots_directory``."""

import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from imgbackend import errors
from imgbackend.cache.garbage.collect import Candidate, Guard, LeftoverState
from imgbackend.cache.policy import Policy, span
from imgbackend.cache.ports import Ports, SnapshotFolder
from imgbackend.system import files
from imgbackend.system.clock import FileSystemClock
from imgbackend.system.host import Host


class Workrooms:
    """Looks for them."""

    def __init__(self, host: Host, ports: Ports, policy: Policy) -> None:
        """Keep them; nothing is looked at."""
        self._host, self._ports, self._policy = host, ports, policy
        self.faults: list[str] = []
        """What could not be looked at, a line each."""

    def candidates(self) -> Iterator[Candidate]:
        """All of them, those that are worked in too."""
        try:
            found = list(self._ports.snapshot_folders())
        except OSError as exc:
            self.faults.append(str(files.as_error(exc, self._host.instances)))
            return
        except errors.Error as exc:
            self.faults.append(f"what is left of snapshots is not known: {exc}")
            return
        for room in found:
            yield Candidate(
                kind="snapshot",
                name=os.path.relpath(room.path, self._host.instances)
                if room.path.is_relative_to(self._host.instances)
                else str(room.path),
                guard=Guard(file=room.path, take=room.held),
                look=functools.partial(self._state, room),
                remove=functools.partial(shutil.rmtree, room.path),
            )

    def _state(self, room: SnapshotFolder) -> LeftoverState:
        """Its lock is free: on the host that made it, its maker is gone; of another, the lock may not reach us."""
        size, changed = _seen(room.path)
        if room.is_of(self._host.settings.hostname):
            return LeftoverState(size=size, time=changed, dead=True, reason="the process that made it is gone")
        age, told = FileSystemClock(room.path.parent)() - changed, f"by {room.host}"
        if age >= self._policy.lease:
            return LeftoverState(size=size, time=changed, dead=True, reason=f"unchanged for {span(age)} {told}")
        reason = f"changed {span(age)} ago {told}, and left for {span(self._policy.lease)}"
        return LeftoverState(size=size, time=changed, dead=False, reason=reason)


def _seen(folder: Path) -> tuple[int, float]:
    """Bytes below a folder, and when something of it was last changed."""
    size, changed = 0, os.stat(folder).st_mtime
    for root, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(os.path.join(root, name))
            size, changed = size + found.st_blocks * 512, max(changed, found.st_mtime)
    return size, changed
