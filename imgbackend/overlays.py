"""Which disks hang on which base, by their headers: no process is started.

A file that is recorded as raw is not read: a guest writes on it what it likes.  Of one that
nobody recorded, the header is believed only to say that a base is in use, never what
the base's format is.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgbackend import errors, qcow2
from imgbackend.host import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A qcow2 file of an instance that refers to a base."""

    instance: str
    name: str
    base: str
    """The name of the base."""
    format: str | None
    """That of the base, as the header states it."""
    recorded: bool


def overlays(host: Host) -> Iterator[Overlay]:
    """All overlays of all instances on bases of the base folder.

    Folders of instances that Nova is moving or removing (``_resize``, ``_del``) count too.
    """
    bases = os.path.realpath(host.bases)
    for instance in instances(host):
        formats = _recorded(host, instance)
        for entry in _files(host.instances / instance):
            if formats.get(entry.name, "qcow2") != "qcow2" or not entry.is_file(follow_symlinks=False):
                continue
            header = _header(Path(entry.path))
            if header is None or header.backing_file is None:
                continue
            folder, base = os.path.split(header.backing_file)
            if os.path.realpath(folder) == bases:
                yield Overlay(
                    instance=instance,
                    name=entry.name,
                    base=base,
                    format=header.backing_format,
                    recorded=entry.name in formats,
                )


def _recorded(host: Host, instance: str) -> dict[str, str]:
    """The formats on record; of broken records nothing is believed, and their disks count all the same."""
    try:
        recorded = {name: record.format for name, record in host.records.all(instance).items()}
        return {**host.records.nova_formats(instance), **recorded}
    except errors.DiskError:
        return {}


def _files(folder: Path) -> "list[os.DirEntry[str]]":
    """What is in a folder, by name; nothing if it has just gone."""
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []


def instances(host: Host) -> list[str]:
    """The folders of instances, by name."""
    skipped = {host.settings.bases, "locks", "snapshots"}
    found = _files(host.instances)
    return [entry.name for entry in found if entry.is_dir(follow_symlinks=False) and entry.name not in skipped]


def stated_formats(host: Host, base: Path) -> set[str]:
    """The formats that recorded overlays of a base state for it; at most one, if all is well."""
    return {
        overlay.format
        for overlay in overlays(host)
        if overlay.base == base.name and overlay.recorded and overlay.format is not None
    }


def _header(path: Path) -> qcow2.Header | None:
    try:
        return qcow2.read(path)
    except (errors.DiskError, FileNotFoundError):
        return None
