"""The end of an instance: nothing of it is left, whatever was gone before, and nothing else is touched.

The folder is renamed first: from then on no instance of that name is there, and a call that
was killed is finished by the next one, or by the next spawn of that name.  Then go the
domain, the disks that are kept elsewhere, and the folder.  Of those, each goes by its record, never by its name alone.
"""

import contextlib
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgbackend import errors
from imgbackend.disks import record_stores
from imgbackend.guest import console
from imgbackend.guest.closed_disks import kept_closed
from imgbackend.guest.hypervisor import OFF, FoundDomain, Hypervisor
from imgbackend.guest.marked_disks import strays
from imgbackend.guest.own_instances import OwnInstances
from imgbackend.state.records import GOING, OURS
from imgbackend.system import audit, files
from imgbackend.types import DiskId, Record

if TYPE_CHECKING:
    from imgbackend.engine import Engine

LOG = logging.getLogger(__name__)

_TRIES, _PAUSE = 5, 0.5
"""A network file system may keep a file that was open a little longer."""


def destroy(engine: "Engine", hypervisor: Hypervisor, own: OwnInstances, name: str) -> None:
    """Take an instance away, with the instance's lock held.

    :raises InstanceNotFound: if nothing of it is there.
    :raises InstanceElsewhere: if it is another host's, or another folder's.
    :raises InstanceError: if the domain or the folder of that name is not imgbackend's.
    :raises DiskBusy: if somebody else has a disk open; calling again goes on.
    :raises WrongStore: if the store of a disk is not the one that it was made in; nothing was changed.
    """
    own.check(name)
    folder, going = engine.host.instances / name, _going(engine, name)
    found = own.domain(name)
    if folder.is_dir() and found is None and not (own.has_folder(name) or _is_ours(folder)):
        raise errors.InstanceError(f"{folder} is not a folder that imgbackend made; it is left alone")
    _expect_stores(engine, name)
    if found is None and not folder.is_dir() and not going.is_dir() and not strays(engine, name):
        raise errors.InstanceNotFound(f"there is no instance {name}")
    if folder.is_dir():
        if going.is_dir():
            _clear_former(engine, name)
        _rename(engine, found, name)
    _end(engine, hypervisor, found, name)


def finish(engine: "Engine", hypervisor: Hypervisor, own: OwnInstances, name: str) -> None:
    """Go on with a :func:`destroy` that was killed, if one was; before an instance of that name is made.

    :raises InstanceElsewhere: if another host's was.
    """
    if _going(engine, name).is_dir() and not (engine.host.instances / name).is_dir():
        clear(engine, hypervisor, own, name)


def clear(engine: "Engine", hypervisor: Hypervisor, own: OwnInstances, name: str) -> None:
    """Take away what a :func:`destroy` that was killed left, with the instance's lock held.

    :raises InstanceElsewhere: if that was another host's.
    :raises InstanceError: if the domain of that name is not imgbackend's.
    :raises WrongStore: if the store of a disk is not the one that it was made in; nothing was changed.
    """
    own.check(name)
    _expect_stores(engine, name)
    if (engine.host.instances / name).is_dir():
        _clear_former(engine, name)
        return
    _end(engine, hypervisor, own.domain(name), name)


def _expect_stores(engine: "Engine", name: str) -> None:
    """See that the disks of an instance, and of one that is going, are in the stores that they were made in.

    Else what is going would count as gone, and its record would go.  A store that cannot be opened is told of later.

    :raises WrongStore: with both stores of the first that is not.
    """
    for folder in (name, f"{name}{GOING}"):
        for disk_name, record in engine.host.records.all(folder).items():
            if record.store is None:
                continue
            try:
                disk = engine.backend(record.backend).disk(DiskId(instance=name, name=disk_name))
            except (errors.ConfigError, errors.StorageError):
                continue
            disk.given_record = record if folder != name else None
            record_stores.expect_same(disk, record)


def _clear_former(engine: "Engine", name: str) -> None:
    """Take away what an instance left that had the name before the one that is there now."""
    _remove_disks(engine, name, spared=set(engine.host.records.all(name)))
    _remove_folder(_going(engine, name))


def _rename(engine: "Engine", found: FoundDomain | None, name: str) -> None:
    """From then on there is no instance of that name.

    A guest that our own libvirt does not know of, another host's, is told by its lock of a disk; nobody opens one
    between the look and the renaming.
    """
    folder, going = engine.host.instances / name, _going(engine, name)
    with contextlib.ExitStack() as stack:
        if found is None or found.state in OFF:
            stack.enter_context(kept_closed(engine.host, name))
        folder.rename(going)
    engine.host.flush_folders([folder.parent])


def _is_ours(folder: Path) -> bool:
    """Whether it has broken records that were put aside, or nothing but what a spawn makes before it writes any."""
    return any(folder.glob(f"{OURS}.broken*")) or all(
        path.suffix in (".part", ".tmp") if path.name.startswith(".") else _is_empty_console(path)
        for path in folder.iterdir()
    )


def _is_empty_console(path: Path) -> bool:
    return path.name == console.NAME and path.is_file() and not path.stat().st_size


def is_there(engine: "Engine", name: str) -> bool:
    """Whether there is a folder of an instance, or of one that is going."""
    return (engine.host.instances / name).is_dir() or _going(engine, name).is_dir()


def _going(engine: "Engine", name: str) -> Path:
    return engine.host.instances / f"{name}{GOING}"


def _end(engine: "Engine", hypervisor: Hypervisor, found: FoundDomain | None, name: str) -> None:
    going = _going(engine, name)
    if found is not None:
        hypervisor.force_off(name)
        hypervisor.forget(name)
    with kept_closed(engine.host, going.name):
        pass  # an older version may have renamed the folder under another host's guest
    records = engine.host.records.all(going.name)
    _remove_disks(engine, name, spared=set())
    for stray in () if records else strays(engine, name):
        stray.remove()
    if going.is_dir():
        _remove_folder(going)
        engine.host.flush_folders([going.parent])
    audit.log("destroy", host=engine.host.settings.hostname, what=name, store="", identity=None, why="asked for")
    for disk in records:
        with engine.host.locks.disk(DiskId(instance=name, name=disk)) as held:
            held.forget()
    with engine.host.locks.record(name) as held:
        held.forget()


def _remove_disks(engine: "Engine", name: str, *, spared: set[str]) -> None:
    """Remove the disks of a folder that is going, but those that are kept in it, which go with it.

    Each goes by its record there.  What another host made under its name since, or took over, stays.
    """
    for disk_name, record in engine.host.records.all(_going(engine, name).name).items():
        if disk_name in spared or _is_file(engine, record):
            continue
        disk = engine.backend(record.backend).disk(DiskId(instance=name, name=disk_name))
        disk.given_record = record
        try:
            disk.remove()
        except errors.DiskElsewhere as exc:
            LOG.warning("What has the name of a destroyed disk is left alone: %s", exc)


def _is_file(engine: "Engine", record: Record) -> bool:
    """A disk that is a file of the folder goes with it."""
    return engine.backend(record.backend).traits.files


def _remove_folder(folder: Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            _clear_away(folder)
        except FileNotFoundError:
            return
        except OSError as exc:
            if not left:
                raise files.as_error(exc, folder) from exc
            time.sleep(_PAUSE)
        else:
            return


def _clear_away(folder: Path) -> None:
    """Of a link all goes that it leads to but that folder itself, which is whoever's made the link."""
    if not folder.is_symlink():
        shutil.rmtree(folder)
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    folder.unlink()
