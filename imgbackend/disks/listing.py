"""The disks of a folder of instances, by what is on record; what is broken is told, and hides no other."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from imgbackend import errors
from imgbackend.bases import instance_folders
from imgbackend.disks.owners import Owners
from imgbackend.disks.record_binding import Binding
from imgbackend.driver.contract import Disk
from imgbackend.system.host import Host
from imgbackend.types import DiskId, Record

LOG = logging.getLogger(__name__)

Broken: TypeAlias = Callable[[str, str | None, Exception], object]
"""Told of an instance, and a disk of it or None for all of them, that cannot be looked at, and why."""


def warn(instance: str, disk: str | None, reason: Exception) -> None:
    """Log it."""
    what = f"the disks of {instance}" if disk is None else f"{instance}/{disk}"
    LOG.warning("Cannot look at %s: %s", what, reason)


def disks(
    host: Host, owners: Owners, binding: Binding, instance: str | None, *, all_hosts: bool, broken: Broken
) -> Iterator[Disk[Any]]:
    """See :meth:`imgbackend.engine.Engine.disks`."""
    owners.expect_mounted()
    for folder in [instance] if instance else instance_folders.instances(host):
        names, known = set[str](), dict[str, Record]()
        try:
            known = host.records.all(folder)
            names |= known.keys()
            names |= host.records.nova_formats(folder).keys()
        except (errors.DiskError, OSError) as exc:
            if instance and not known:
                raise
            broken(folder, None, exc)
        owner = next((record.owner for record in known.values()), None)
        if not all_hosts and not owners.is_mine(folder, owner):
            continue
        for name in sorted(names):
            found = _seen(binding, folder, name, broken)
            if found is not None:
                yield found


def _seen(binding: Binding, instance: str, name: str, broken: Broken) -> Disk[Any] | None:
    """A disk on record, if it is there and can be looked at."""
    try:
        found = binding.disk(DiskId(instance=instance, name=name), None)
    except ValueError:
        return None  # a folder or a file that is none of ours
    except (errors.ConfigError, errors.DiskError, OSError) as exc:
        broken(instance, name, exc)
        return None
    try:
        return found if found.exists() else None
    except (errors.DiskError, errors.StorageError) as exc:
        away = isinstance(exc, errors.StorageError) and not isinstance(exc, errors.WrongStore)
        if away and not found.backend.traits.files:
            raise  # a store that is away has none of its disks
        return found  # it is there and broken, or behind a link that leads nowhere: whoever looks closer is told
