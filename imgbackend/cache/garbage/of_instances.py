"""Leftovers of instances: folders of those that were being destroyed, and folders that lost their last disk."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from imgbackend.bases import instance_folders
from imgbackend.bases.folders_seen import FoldersSeen
from imgbackend.cache.clocks import Clocks
from imgbackend.cache.garbage.collect import Candidate, Guard, LeftoverState, aged
from imgbackend.cache.policy import Policy
from imgbackend.cache.ports import Ports
from imgbackend.state import records
from imgbackend.system import locks
from imgbackend.system.host import Host
from imgbackend.types import DiskId

GOING: Final = "_del"
"""What the folder of an instance that is being destroyed has behind the instance's name."""


class InstanceFolders:
    """Looks for them, on one host."""

    def __init__(
        self,
        host: Host,
        ports: Ports,
        policy: Policy,
        clocks: Clocks,
        alive: Callable[[], object] = instance_folders.nothing,
        seen: FoldersSeen | None = None,
    ) -> None:
        """Keep them; nothing is looked at.  ``alive`` is called before each folder, and may raise.

        ``seen``: what was just seen in folders; one in which there were records is not looked at for being empty.
        """
        self._seen = seen or FoldersSeen()
        self._host, self._ports, self._policy, self._clocks, self._alive = host, ports, policy, clocks, alive

    def candidates(self) -> Iterator[Candidate]:
        """All of them."""
        yield from self._going()
        yield from self._emptied()

    def _guard(self, name: str, take: Callable[..., Any]) -> Guard:
        return Guard(file=self._host.instances / "locks" / name, take=take)

    def _going(self) -> Iterator[Candidate]:
        """Folders of instances that were being destroyed by us; a Nova's own has nothing of ours in it."""
        for folder in instance_folders.each_instance(self._host, self._alive):
            if not folder.endswith(GOING):
                continue
            name, path = folder.removesuffix(GOING), self._host.instances / folder
            try:
                DiskId(instance=name, name="disk")
            except ValueError:
                continue
            guard = self._guard(f"{locks.INSTANCE_PREFIX}{name}", functools.partial(self._host.locks.instance, name))
            if any(os.path.exists(each) for each in (guard.file, path / records.OURS, path / records.DOMAIN)):
                yield Candidate(
                    kind="instance",
                    name=folder,
                    guard=guard,
                    look=functools.partial(self._folder, path),
                    remove=functools.partial(self._ports.finish_destroying, name),
                )

    def _emptied(self) -> Iterator[Candidate]:
        """Folders whose last record was being taken away, as the lock tells that was taken for it; Nova takes none."""
        try:
            taken = set(os.listdir(self._host.instances / "locks"))
        except OSError:
            return  # nobody took one, or who looks for leftovers there tells why not
        for instance in instance_folders.each_instance(self._host, self._alive):
            lock = f"{locks.RECORD_PREFIX}{instance}"
            if lock not in taken or self._seen.recorded(instance):
                continue
            path = self._host.instances / instance
            if _holds_nothing(path):
                yield Candidate(
                    kind="instance",
                    name=instance,
                    guard=self._guard(lock, functools.partial(self._host.locks.record, instance)),
                    look=functools.partial(self._empty_folder, path),
                    remove=functools.partial(_remove_empty, path),
                )

    def _empty_folder(self, path: Path) -> LeftoverState | None:
        if not _holds_nothing(path):
            return None
        return self._aged_folder(path, "the removal of its last disk was broken off")

    def _folder(self, path: Path) -> LeftoverState | None:
        try:
            return self._aged_folder(path, "its destruction was broken off")
        except FileNotFoundError:
            return None

    def _aged_folder(self, path: Path, reason: str) -> LeftoverState:
        found = os.stat(path)
        return aged(self._policy.lease, found.st_mtime, self._clocks.of_file(found), reason, _allocated_below(path))


def _allocated_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
    return total


def _holds_nothing(folder: Path) -> bool:
    """No disk, no record of ours; a link to a folder is its maker's."""
    try:
        return not folder.is_symlink() and set(os.listdir(folder)) <= {records.NOVAS}
    except OSError:
        return False


def _remove_empty(folder: Path) -> None:
    (folder / records.NOVAS).unlink(missing_ok=True)
    folder.rmdir()
