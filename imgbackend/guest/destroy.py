"""The end of an instance: nothing of it is left, whatever was gone before, and nothing else is touched.

The folder is renamed first: from then on no instance of that name is there, and a call that
was killed is finished by the next one, or by the next spawn of that name.  Then go the
domain, the disks that are kept elsewhere, and the folder.
"""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgbackend import errors
from imgbackend.guest import console
from imgbackend.guest.hypervisor import Hypervisor
from imgbackend.guest.spawn import xml_path
from imgbackend.state.records import OURS
from imgbackend.system import files
from imgbackend.types import DiskId, Record

if TYPE_CHECKING:
    from imgbackend.engine import Engine

SUFFIX: Final = "_del"
"""Of a folder whose instance is going; no instance can have such a name."""
_TRIES, _PAUSE = 5, 0.5
"""A network file system may keep a file that was open a little longer."""


def destroy(engine: "Engine", hypervisor: Hypervisor, name: str) -> None:
    """Take an instance away, with the instance's lock held.

    :raises InstanceNotFound: if nothing of it is there.
    :raises InstanceError: if the domain or the folder of that name is not imgbackend's.
    :raises DiskBusy: if something else still uses a disk; calling again goes on.
    """
    folder, going = engine.host.instances / name, _going(engine, name)
    found = hypervisor.find(name)
    if found is not None and found.instance != name:
        raise errors.InstanceError(f"the domain {name} is not one that imgbackend made; it is left alone")
    if folder.is_dir() and found is None and not (is_ours(engine, name) or _is_unfinished(folder)):
        raise errors.InstanceError(f"{folder} is not a folder that imgbackend made; it is left alone")
    strays = [] if folder.is_dir() or going.is_dir() else _strays(engine, name)
    if found is None and not folder.is_dir() and not going.is_dir() and not strays:
        raise errors.InstanceNotFound(f"there is no instance {name}")
    if folder.is_dir():
        if going.is_dir():  # of an instance before this one, whose disks went before this one was made
            _remove_folder(going)
        folder.rename(going)
        engine.host.flush_folders([folder.parent])
    _end(engine, hypervisor, name, strays)


def finish(engine: "Engine", hypervisor: Hypervisor, name: str) -> None:
    """Go on with a :func:`destroy` that was killed, if one was; before an instance of that name is made."""
    if _going(engine, name).is_dir() and not (engine.host.instances / name).is_dir():
        found = hypervisor.find(name)
        if found is None or found.instance == name:
            _end(engine, hypervisor, name, [])


def clear(engine: "Engine", hypervisor: Hypervisor, name: str) -> None:
    """Take away what a :func:`destroy` that was killed left, with the instance's lock held.

    :raises InstanceError: if the domain of that name is not imgbackend's.
    """
    if (engine.host.instances / name).is_dir():  # an instance after it, before which its disks went
        _remove_folder(_going(engine, name))
        return
    found = hypervisor.find(name)
    if found is not None and found.instance != name:
        raise errors.InstanceError(f"the domain {name} is not one that imgbackend made; it is left alone")
    _end(engine, hypervisor, name, [])


def is_ours(engine: "Engine", name: str) -> bool:
    """Whether imgbackend made something in the folder of that name."""
    return (engine.host.instances / name / OURS).is_file() or xml_path(engine.host, name).is_file()


def _is_unfinished(folder: Path) -> bool:
    """Whether there is nothing in it but what a spawn makes before its first record, or its XML, is written."""
    return all(
        path.suffix in (".part", ".tmp") if path.name.startswith(".") else _is_empty_console(path)
        for path in folder.iterdir()
    )


def _is_empty_console(path: Path) -> bool:
    return path.name == console.NAME and path.is_file() and not path.stat().st_size


def is_there(engine: "Engine", name: str) -> bool:
    """Whether there is a folder of an instance, or of one that is going."""
    return (engine.host.instances / name).is_dir() or _going(engine, name).is_dir()


def _going(engine: "Engine", name: str) -> Path:
    return engine.host.instances / f"{name}{SUFFIX}"


def _end(engine: "Engine", hypervisor: Hypervisor, name: str, strays: list[tuple[str, str]]) -> None:
    going = _going(engine, name)
    hypervisor.force_off(name)
    hypervisor.forget(name)
    records = engine.host.records.all(going.name)
    kept = [(disk, record.backend) for disk, record in records.items() if not _is_file(engine, record)]
    for disk, backend in [*kept, *strays]:
        engine.disk(name, disk, backend).remove()
    if going.is_dir():
        _remove_folder(going)
        engine.host.flush_folders([going.parent])
    for disk in records:
        with engine.host.locks.disk(DiskId(instance=name, name=disk)) as held:
            held.forget()
    with engine.host.locks.record(name) as held:
        held.forget()


def _is_file(engine: "Engine", record: Record) -> bool:
    """A disk that is a file of the folder goes with it."""
    return engine.backend(record.backend).traits.files


def _strays(engine: "Engine", name: str) -> list[tuple[str, str]]:
    """Disks of an instance without a folder, and so without records: what the stores themselves say.

    A store that cannot be asked is no reason to stop: what it has is found when it can.
    """
    found: list[tuple[str, str]] = []
    for backend_name in engine.backend_names():
        try:
            backend = engine.backend(backend_name)
        except errors.Error:
            continue
        if backend.traits.files:
            continue
        found += [(disk.name, backend_name) for disk in backend.list_disks() if disk.instance == name]
    return found


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
