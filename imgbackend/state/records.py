"""What is known of each disk: ``<instance>/disks.json``, and Nova's ``disk.info`` beside it.

disks.json decides.  disk.info, Nova's one line ``{absolute path: format}``, is written
for disks that are files, and read where disks.json says nothing.  Neither binds anybody
without the disk.  A file that cannot be read as what it should be is an error: a format
is never guessed instead.
"""

import contextlib
import itertools
import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any, Final

from imgbackend import errors
from imgbackend.system import files, stale
from imgbackend.system.locks import Locks
from imgbackend.types import DiskId, Mi, Owner, Record

LOG = logging.getLogger(__name__)

OURS: Final = "disks.json"
NOVAS: Final = "disk.info"
_BESIDE: Final = frozenset({"owner", "identity", "store"})
"""Fields that stand beside the disks in disks.json, where versions that do not know them pass them over."""
_END_OF_TIME: Final = 253402300800
"""Seconds from 1970 to the year 10000, which no date can show."""
_ADVICE: Final = "restore it; to be rid of its disks, use --force of disk delete or instance destroy"
_LARGEST: Final = Mi
"""Bytes of a file of records: some hundred for each disk, of which a guest has a few dozen."""
GOING: Final = "_del"
"""The end of the name of a folder whose instance is being destroyed; no instance can have such a name."""
RESIZED: Final = "_resize"
"""The end of the name of a folder with the disks that Nova keeps until a resize is confirmed."""
DOMAIN: Final = "libvirt.xml"
"""What was told to libvirt, beside the records: the instance was spawned here."""


class Records:
    """The records of all instances of one ``instances_path``."""

    def __init__(self, instances: Path, locks: Locks) -> None:
        """Keep the folder."""
        self._instances, self._locks = instances, locks

    def of(self, disk: DiskId) -> Record | None:
        """What disks.json says.

        :raises DiskError: if the file is broken.
        """
        return self.all(disk.instance).get(disk.name)

    def all(self, instance: str) -> dict[str, Record]:
        """What disks.json says of every disk of an instance, by the disks' names."""
        path = f"{self._instances}/{instance}/{OURS}"
        try:
            content = _read(path)
            owner, identities, stores = _owner(content), content.get("identities", {}), content.get("stores", {})
            return {
                name: _record(name, fields, owner, identities.get(name), stores.get(name))
                for name, fields in content.get("disks", {}).items()
            }
        except (TypeError, AttributeError, KeyError) as exc:
            raise errors.DiskError(f"{path} is not what imgbackend writes ({exc}); {_ADVICE}") from exc

    def owner(self, instance: str) -> Owner | None:
        """Whose an instance is; None: nobody noted it, or it has no records.

        :raises DiskError: if the file is broken.
        """
        path = f"{self._instances}/{instance}/{OURS}"
        try:
            return _owner(_read(path))
        except (TypeError, AttributeError, KeyError) as exc:
            raise errors.DiskError(f"{path} is not what imgbackend writes ({exc}); {_ADVICE}") from exc

    def set_owner(
        self,
        instance: str,
        before: Owner | None,
        after: Owner,
        *,
        durable: bool,
        disks: Collection[str] | None = None,
    ) -> None:
        """Note that an instance is ``after``'s now, if it is ``before``'s until then.

        ``disks``: and if those are all that it has; None: whatever it has.

        :raises DiskElsewhere: if it is another's meanwhile.
        :raises DiskBusy: if it has other disks meanwhile.
        """
        path = self._instances / instance / OURS
        with self._locks.record(instance):
            content = _read(path)
            if disks is not None and content.get("disks", {}).keys() != set(disks):
                raise errors.DiskBusy(f"a disk of {instance} was made, or went, meanwhile; call it again")
            if _owner(content) not in (None, before, after):
                raise errors.DiskElsewhere(f"{instance} is {_owner(content)}'s meanwhile; look again")
            if content:
                _write({path: content | {"owner": asdict(after)}}, durable=durable)

    def backends(self, instance: str) -> dict[str, str]:
        """The backend of every disk that disks.json tells of, by the disks' names; for who looks at many instances."""
        path = f"{self._instances}/{instance}/{OURS}"
        try:
            return {name: str(fields["backend"]) for name, fields in _read(path).get("disks", {}).items()}
        except (TypeError, KeyError, AttributeError) as exc:
            raise errors.DiskError(f"{path} is not what imgbackend writes ({exc}); {_ADVICE}") from exc

    def nova_format(self, disk: DiskId) -> str | None:
        """What disk.info says of a disk, whichever folder the instances were in when Nova wrote it.

        :raises DiskError: if the file is broken.
        """
        return self.nova_formats(disk.instance).get(disk.name)

    def nova_formats(self, instance: str) -> dict[str, str]:
        """What disk.info says of every disk of an instance."""
        path, whose = f"{self._instances}/{instance}/{NOVAS}", instance.removesuffix(RESIZED).removesuffix(GOING)
        found: dict[str, str] = {}
        for key, value in _read(path).items():
            if not isinstance(value, str):
                raise errors.DiskError(f"{path} does not hold formats by path; {_ADVICE}")
            folder, _, name = key.rpartition("/")
            if folder.rpartition("/")[2] == whose:
                found[name] = value
        return found

    def kept_by(self, backend: str) -> Iterator[DiskId]:
        """The disks that are on record as that backend's, by the name of its section; whole or not.

        Of an instance whose records are broken there are none, with a warning.

        :raises StorageError: if they cannot be read, or ConfigError.
        """
        try:
            for instance in sorted(os.listdir(self._instances)):
                try:
                    found = self.all(instance)
                except errors.DiskError as exc:
                    LOG.warning("%s", exc)
                    continue
                for name, record in found.items():
                    if record.backend == backend:
                        with contextlib.suppress(ValueError):
                            yield DiskId(instance=instance, name=name)
        except FileNotFoundError:
            return  # no disk was made yet
        except OSError as exc:
            raise files.as_error(exc, self._instances) from exc

    def write(self, disk: DiskId, record: Record, *, as_file: bool, durable: bool) -> None:
        """Remember a disk; before it is published.

        :raises DiskElsewhere: if its instance is another's meanwhile: while this host waited for an image, another
            made a disk of an instance of that name, or took the instance over.
        """
        fields = {key: value for key, value in asdict(record).items() if value is not None and key not in _BESIDE}
        self._change(disk, fields, record.format if as_file else None, record, durable=durable)

    def put_aside_broken(self, instance: str) -> list[Path]:
        """Rename the files of records that are broken, so that the instance has none; their new paths.

        What cannot be read, or is a link to nothing, may be well where it comes from, and is left as it is.
        """
        aside = []
        with self._locks.record(instance):
            for name, look in ((OURS, self.all), (NOVAS, self.nova_formats)):
                path = self._instances / instance / name
                if not path.is_file():
                    continue
                try:
                    look(instance)
                except errors.DiskError:
                    free = (path.with_name(f"{name}.broken{number or ''}") for number in itertools.count())
                    aside.append(path.rename(next(each for each in free if not os.path.lexists(each))))
        return aside

    def forget(self, disk: DiskId, *, durable: bool, keep_folder: bool = False) -> None:
        """Remember a disk no longer, after it is removed; an empty folder goes with the last one."""
        if (self._instances / disk.instance).is_dir():
            self._change(disk, None, None, None, durable=durable, keep_folder=keep_folder)

    def _change(
        self,
        disk: DiskId,
        fields: dict[str, Any] | None,
        nova: str | None,
        record: Record | None,
        *,
        durable: bool,
        keep_folder: bool = True,
    ) -> None:
        folder = self._instances / disk.instance
        with self._locks.record(disk.instance) as lock:
            changed: dict[Path, dict[str, Any]] = {}
            content = _read(folder / OURS)
            if record is not None:
                _expect_owner(disk, content, record.owner)
            disks = content.setdefault("disks", {})
            noted = _note_beside(content, disk.name, record)
            if _changed(disks, disk.name, fields) or noted:
                changed[folder / OURS] = _content(content, record) if disks else {}
            formats = _read(folder / NOVAS) if record is not None else _readable(folder / NOVAS)
            known = [key for key in formats if Path(key).parts[-2:] == (disk.instance, disk.name)]
            key = known[0] if known else str(folder / disk.name)
            if _changed(formats, key, nova):
                changed[folder / NOVAS] = formats
            if fields is not None:
                _make_folder_and_write(folder, changed, durable=durable)
            else:
                _write(changed, durable=durable)
            if not disks:
                if not keep_folder:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                lock.forget()


def _owner(content: Mapping[str, Any]) -> Owner | None:
    owner = content.get("owner")
    if owner is None:
        return None
    host, folder = owner["host"], owner["folder"]
    if not (isinstance(host, str) and isinstance(folder, str) and host and folder and (host + folder).isprintable()):
        raise TypeError("its owner is no host with a folder")
    return Owner(host=host, folder=folder)


def _expect_owner(disk: DiskId, content: Mapping[str, Any], mine: Owner | None) -> None:
    owner = _owner(content)
    if owner not in (None, mine):
        raise errors.DiskElsewhere(f"{disk.instance} is {owner}'s meanwhile, so its {disk.name} is not made here")


def record_of(name: str, fields: Mapping[str, Any]) -> Record:
    """A disk's record from its fields, whose owner is left out.

    :raises TypeError: if one is not of its type.
    """
    own = {key: value for key, value in fields.items() if key not in _BESIDE}
    return _record(name, own, None, fields.get("identity"), fields.get("store"))


def _record(
    name: str, fields: Mapping[str, Any], owner: Owner | None, identity: str | None, store: str | None
) -> Record:
    """A record, of fields that have their types: they are read from a file that people and other hosts can write."""
    found = Record(**fields, owner=owner, identity=identity, store=store)
    texts = {type(found.backend), type(found.driver), type(found.format), type(found.way)}
    optional = {type(found.image_id), type(found.base), type(found.digest), type(identity), type(store)}
    if texts != {str} or not optional <= {str, NoneType} or type(found.time) not in (int, float):
        raise TypeError(f"a field of {name} is not of its type")
    try:
        DiskId(instance="a", name=name)
    except ValueError as exc:
        raise TypeError(f"{name!r} is no name of a disk") from exc
    if not 0 <= found.time < _END_OF_TIME:
        raise TypeError(f"the time of {name} is none")
    if store is not None and not (store and store.isprintable()):
        raise TypeError(f"the store of {name} is none")
    return found


def _note_beside(content: dict[str, Any], name: str, record: Record | None) -> bool:
    """Note what stands beside a disk, or that nothing does; whether that is a change."""
    noted = False
    for key, value in (
        ("identities", record.identity if record is not None else None),
        ("stores", record.store if record is not None else None),
    ):
        known = content.pop(key, {})
        noted |= _changed(known, name, value)
        if known:
            content[key] = known
    return noted


def _content(before: dict[str, Any], record: Record | None) -> dict[str, Any]:
    """What disks.json is to hold; what another version put into it stays."""
    content = {"version": 1, **before}
    if record is not None and record.owner is not None:
        content["owner"] = asdict(record.owner)
    return content


def _changed(known: dict[str, Any], key: str, value: Any) -> bool:
    before = known.get(key)
    if value is None:
        known.pop(key, None)
    else:
        known[key] = value
    return bool(before != value)


def _read(path: Path | str) -> dict[str, Any]:
    try:
        found = _parsed(files.content(path))
    except (FileNotFoundError, NotADirectoryError):
        for link in (path, os.path.dirname(path)):
            if os.path.islink(link) and not os.path.exists(link):
                raise errors.DiskError(
                    f"{link} is a link to nothing that is here now; mount what it leads to"
                ) from None
        return {}
    except (ValueError, RecursionError) as exc:
        raise errors.DiskError(f"{path} is broken ({exc}); {_ADVICE}") from exc
    if not isinstance(found, dict):
        raise errors.DiskError(f"{path} is broken; {_ADVICE}")
    return found


def _readable(path: Path) -> dict[str, Any]:
    """As :func:`_read`; nothing where the file is broken: it stays, whatever it says of a disk that is gone."""
    try:
        return _read(path)
    except errors.DiskError as exc:
        LOG.warning("%s", exc)
        return {}


def _parsed(content: bytes) -> Any:
    if len(content) > _LARGEST:
        raise ValueError(f"{len(content)} bytes are more than anybody writes there")
    return json.loads(content.decode())


def _make_folder_and_write(folder: Path, changed: dict[Path, dict[str, Any]], *, durable: bool) -> None:
    """Both once more where the folder goes meanwhile: the removal of another disk may take it.

    On NFS that may have been up to a minute ago on another host, and the folder still seem to be there.
    """
    files.make_folders(folder)
    try:
        _write(changed, durable=durable)
    except OSError as exc:
        if not stale.is_gone(exc):
            raise
        files.make_folders(folder)
        _write(changed, durable=durable)


def _write(changed: dict[Path, dict[str, Any]], *, durable: bool) -> None:
    """What is empty is removed."""
    told = {path: json.dumps(content).encode() for path, content in changed.items() if content}
    files.write_all(told, durable=durable)
    for path in changed.keys() - told.keys():
        path.unlink(missing_ok=True)
