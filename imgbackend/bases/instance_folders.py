"""The folders of the instances in ``instances_path``, and what is in a folder."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from imgbackend.state import records
from imgbackend.system import stale
from imgbackend.system.host import Host
from imgbackend.types import DiskId


def nothing() -> None:
    """For whom nobody waits for a sign of life."""


def instances(host: Host) -> list[str]:
    """The folders of instances, by name; one may be a link to a folder elsewhere.

    :raises OSError: if they cannot be listed; where there is no ``instances_path`` yet, there are none.
    """
    skipped = {host.settings.bases, "locks", "snapshots"}
    try:
        return [entry.name for entry in listed(host.instances) if entry.name not in skipped and is_folder(entry)]
    except FileNotFoundError:
        return []


def each_instance(host: Host, alive: Callable[[], object]) -> Iterator[str]:
    """As :func:`instances`; ``alive`` is called before each.  None where they cannot be listed, which others tell."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = instances(host)
    for name in names:
        alive()
        yield name


def lost(instances: str) -> Iterator[str]:
    """The paths of links that stand for folders of instances, elsewhere, where nothing is mounted now."""
    try:
        with os.scandir(instances) as entries:
            links = [entry.path for entry in entries if entry.is_symlink()]
    except OSError:
        return  # who lists the folder tells that, or nothing is there
    for path in links:
        if is_disk(os.path.basename(path), "disk") and not os.path.exists(path):
            yield path


def is_disk(folder: str, name: str) -> bool:
    """Whether a file in a folder has the name of a disk; a console's log may well be somebody else's."""
    try:
        DiskId(instance=folder.removesuffix(records.RESIZED).removesuffix(records.GOING), name=name)
    except ValueError:
        return False
    return True


def listed(folder: Path | str) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; of one that another host replaces meanwhile, what is there then."""

    def names() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)

    return stale.look_again(folder, names)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one that is there."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))
