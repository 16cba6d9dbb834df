"""The bases that a thin pool keeps: thin volumes, read-only, and without a device of their own."""

import contextlib
import hashlib
import os
import re
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import files
from imgbackend.types import ImageInfo, Progress, StoreBase, StoreLeftover, is_base_name
from imgbackend_lvm.block_io import opened, pieces
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import LogicalVolume, tag_of, tags_of, value_of
from imgbackend_lvm.pool import Pool
from imgbackend_lvm.volume_names import BACKEND, FROM
from imgbackend_lvm.volumes import VolumeDisk

BASE: Final = "imgbackend.base"
"""The tag of a base: its name."""
_SIZE: Final = "imgbackend.size"
_ALLOCATED: Final = "imgbackend.allocated"
_USED: Final = ".used"
"""The folder, beside the local bases, of the files whose clocks tell of the last uses."""
_TOLD: Final = ("image_id", "digest", "format")
"""Tags that the engine gives when it imports."""
_NOTED: Final = ("verified", "bad", "was", "since")
"""Tags that it may give later."""
_ATTEMPTS: Final = 3
"""Another process that reads a base may take its device away when it is done, just before we open it."""


class ThinPoolBases:
    """The bases of a backend.  What is whole is under its own name, and tagged."""

    def __init__(self, backend: GroupBackend, pool: Pool) -> None:
        """Keep both; nothing is run."""
        self._backend, self._pool = backend, pool
        self.seen: list[LogicalVolume] = []
        """All volumes of the group, as they were when the bases were last looked at."""
        self.offered: VolumeDisk | None = None
        """A disk that is being made: what it saw in its turn, the next search for a base need not look for again."""

    def volume_of(self, name: str) -> str:
        """The volume of a base: two backends may be in one group."""
        return f"base_{name}_{self._own}"

    @property
    def _own(self) -> str:
        """Tells this backend's bases from those of others."""
        return hashlib.sha1(self._backend.name.encode(), usedforsecurity=False).hexdigest()[:8]

    def _whole(self, volume: LogicalVolume) -> str | None:
        """The base that a volume is, by its tag, under a name that is made here: people rename what they keep."""
        name, parts = value_of(volume.lv_tags, BASE), re.fullmatch(rf"base_(.+)_{self._own}", volume.lv_name)
        return name if parts is not None and is_base_name(parts[1]) and self._is_mine(volume) else None

    def find(self, name: str) -> StoreBase | None:
        """See :meth:`imgbackend.driver.abilities.HoldsBases.find_base`."""
        disk, self.offered = self.offered, None
        known = disk.seen() if disk is not None else None
        if known is not None:
            self.seen = known
        return next((base for base in self._all(self._look() if known is None else known) if base.name == name), None)

    def all(self) -> Iterator[StoreBase]:
        """See :meth:`imgbackend.driver.abilities.HoldsBases.list_bases`."""
        yield from self._all(self._look())

    def _look(self) -> list[LogicalVolume]:
        self.seen = self._backend.volumes()
        return self.seen

    def _all(self, volumes: list[LogicalVolume]) -> Iterator[StoreBase]:
        for volume in volumes:
            name = self._whole(volume)
            if name is None:
                continue
            yield StoreBase(
                name=name,
                size=int(value_of(volume.lv_tags, _SIZE) or volume.lv_size),
                allocated=int(value_of(volume.lv_tags, _ALLOCATED) or 0),
                children=self._children(volume, name, volumes),
                touched=self._touched(name, volume),
                tags=_tags_told(volume),
                identity=volume.lv_uuid,
            )

    def _is_mine(self, volume: LogicalVolume) -> bool:
        return value_of(volume.lv_tags, BACKEND) == self._backend.name

    def _children(self, base: LogicalVolume, name: str, volumes: list[LogicalVolume]) -> int:
        """Snapshots of it, whoever made them; a disk that was rolled back has another origin, and its tag.

        That tag of a disk on a base that was put aside since names the one that has the name now.
        """
        others = {other.lv_name for other in volumes if value_of(other.lv_tags, BASE)} - {base.lv_name}
        mine = (volume for volume in volumes if self._is_mine(volume) and value_of(volume.lv_tags, FROM) == name)
        tagged = {volume.lv_uuid for volume in mine if volume.origin not in others}
        return len(tagged | {volume.lv_uuid for volume in volumes if volume.origin == base.lv_name})

    def touch(self, name: str) -> None:
        """The clock of an empty file: a command of lvm2's costs a hundred times as much."""
        path = self._used(name)
        try:
            os.utime(path)
        except FileNotFoundError:
            self._backend.host.make_folder(path.parent)
            path.touch(mode=0o644)

    def _touched(self, name: str, volume: LogicalVolume) -> float:
        try:
            return self._used(name).stat().st_mtime
        except FileNotFoundError:
            return float(volume.lv_time)

    def _used(self, name: str) -> Path:
        return self._backend.host.bases / _USED / f"{self._own}-{name}"

    def leftovers(self, volumes: list[LogicalVolume]) -> Iterator[StoreLeftover]:
        """Volumes of imports that were killed; and bases that people renamed, which are told and never removed."""
        for volume in volumes:
            name = value_of(volume.lv_tags, BASE)
            if name is None or not self._is_mine(volume) or self._whole(volume):
                continue
            unfinished = volume.lv_name == f".{self.volume_of(name)}"
            yield StoreLeftover(
                name=f"{self._backend.group}/{volume.lv_name}",
                disk=None,
                base=name,
                allocated=volume.spent,
                time=float(volume.lv_time),
                kept_because="" if unfinished else self._advice(volume, name),
            )

    def _advice(self, volume: LogicalVolume, name: str) -> str:
        """What people can do with a base that one of them renamed."""
        group, path = volume.vg_name, f"{volume.vg_name}/{volume.lv_name}"
        return (
            f"it has the tags of the base {name} and another name: somebody renamed it; to use it again: "
            f"lvrename {group} {volume.lv_name} {self.volume_of(name)}; to keep it as it is: lvchange --deltag "
            f"{tag_of(BACKEND, self._backend.name)} {path}; if nobody needs it: lvremove {path}"
        )

    def outlived(self, volumes: list[LogicalVolume]) -> Iterator[StoreLeftover]:
        """Files that tell of the last use of bases that are gone: somebody removed those by other means."""
        known, mine = {volume.lv_name for volume in volumes}, self._used("").name
        for path in sorted(self._used("").parent.glob(f"{mine}*")):
            name = path.name.removeprefix(mine)
            if is_base_name(name) and self.volume_of(name) not in known:
                with contextlib.suppress(FileNotFoundError):
                    used = path.stat().st_mtime
                    yield StoreLeftover(name=str(path), disk=None, base=name, allocated=0, time=used)

    def remove(self, name: str) -> None:
        """See :meth:`imgbackend.driver.abilities.HoldsBases.remove_base`."""
        volumes = self._settled()
        found = next((base for base in self._all(volumes) if base.name == name), None)
        if found is not None and found.children:
            raise errors.DiskBusy(f"{found.children} disks hang on the base {name}; remove them first")
        self._clear(volumes, self.volume_of(name), f".{self.volume_of(name)}")
        self._used(name).unlink(missing_ok=True)

    def _clear(self, volumes: list[LogicalVolume], *names: str) -> None:
        """Remove those of ``volumes`` that have one of these names and are this backend's."""
        backend = self._backend
        mine = {volume.lv_name for volume in volumes if self._is_mine(volume)}
        if doomed := sorted(mine & set(names)):
            backend.lvm.lvremove(backend.group, *doomed)

    def take(self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress) -> StoreBase:
        """See :meth:`imgbackend.driver.abilities.HoldsBases.import_base`."""
        final, unfinished = self.volume_of(name), f".{self.volume_of(name)}"
        self._clear(self._settled(), unfinished)
        known = [tag_of(BACKEND, self._backend.name), tag_of(BASE, name), tag_of(_SIZE, str(info.virtual_size))]
        for key in _TOLD:
            known += tags_of(f"imgbackend.{key}", tags.get(key, ""))
        with contextlib.ExitStack() as undo:
            undo.callback(self._undo, unfinished)
            self._write(unfinished, path, self._backend.rounded(info.virtual_size), known, progress)
            self._backend.lvm.lvrename(self._backend.group, unfinished, final)
            undo.pop_all()
        self.touch(name)
        found = self.find(name)
        if found is None:
            raise errors.StorageUnavailable(f"the base {name} was imported into {self._pool.name}, and is gone")
        return found

    def _write(self, unfinished: str, path: Path, size: int, tags: list[str], progress: Progress) -> None:
        """Make a volume of a raw file, read-only and without a device."""
        backend, lvm = self._backend, self._backend.lvm
        with files.open_fd(path, os.O_RDONLY) as source:
            self._pool.make(unfinished, source, size, tags, progress, phase="import", seen=self.seen)
        [volume] = [volume for volume in self._look() if volume.lv_name == unfinished]
        allocated = tag_of(_ALLOCATED, str(volume.spent))
        lvm.lvchange(backend.group, unfinished, addtag=[allocated], permission="r", setactivationskip=True)
        lvm.lvchange(backend.group, unfinished, activate=False)

    def read(self, name: str) -> Generator[tuple[int, bytes | memoryview], None, None]:
        """See :meth:`imgbackend.driver.abilities.ChecksBases.read_base`; past the page cache."""
        volume = self._volume(name)
        size = int(value_of(volume.lv_tags, _SIZE) or volume.lv_size)
        with self._active(volume) as device:
            yield from pieces(device, size)

    @contextlib.contextmanager
    def _active(self, volume: LogicalVolume) -> Iterator[int]:
        """A base's device, open; it has none before and after, but while somebody else reads it."""
        lvm, group, name = self._backend.lvm, self._backend.group, volume.lv_name
        with contextlib.ExitStack() as stack:
            stack.callback(self._deactivate, name)
            for left in reversed(range(_ATTEMPTS)):
                lvm.lvchange(group, name, activate=True, ignoreactivationskip=True)
                try:
                    device = stack.enter_context(opened(self._backend.device(name), os.O_RDONLY | os.O_DIRECT))
                    break
                except FileNotFoundError:
                    if not left:
                        raise
            yield device

    def _deactivate(self, name: str) -> None:
        """Whoever else reads it does so when he is done; a base that was removed or renamed has no device to take."""
        with contextlib.suppress(errors.DiskBusy, errors.DiskNotFound):
            self._backend.lvm.lvchange(self._backend.group, name, activate=False)

    def _volume(self, name: str) -> LogicalVolume:
        for volume in self._look():
            if self._whole(volume) == name:
                return volume
        raise errors.BaseMissing(f"there is no base {name} in {self._pool.name}")

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        """See :meth:`imgbackend.driver.abilities.ChecksBases.tag_base`."""
        self._retag(self._volume(name), {f"imgbackend.{key}": value for key, value in tags.items()})

    def _retag(self, volume: LogicalVolume, told: Mapping[str, str]) -> None:
        """Up to eight tags that go and come are one step."""
        before = [tag for tag in volume.lv_tags if tag.partition("=")[0].partition("!")[0] in told]
        after = [tag for key, value in told.items() for tag in tags_of(key, value)]
        new, old = [tag for tag in after if tag not in before], [tag for tag in before if tag not in after]
        if new or old:
            self._backend.lvm.lvchange(self._backend.group, volume.lv_name, addtag=new, deltag=old)

    def rename(self, name: str, new: str, tags: Mapping[str, str]) -> None:
        """See :meth:`imgbackend.driver.abilities.ChecksBases.rename_base`.

        Its tags tell its name, and its volume follows.
        """
        self._retag(self._volume(name), {BASE: new, **{f"imgbackend.{key}": value for key, value in tags.items()}})
        self._settled()
        self._used(name).unlink(missing_ok=True)

    def _settled(self) -> list[LogicalVolume]:
        """All volumes of the group, each base's under its own name: a rename may have ended after the tags."""
        volumes = self._look()
        for volume in volumes:
            name = self._whole(volume)
            if name is not None and volume.lv_name != self.volume_of(name):
                self._backend.lvm.lvrename(self._backend.group, volume.lv_name, self.volume_of(name))
                return self._settled()
        return volumes

    def _undo(self, unfinished: str) -> None:
        """What fails here must not hide why the import failed; the next one clears it too."""
        with contextlib.suppress(errors.Error):
            self._clear(self._look(), unfinished)


def _tags_told(volume: LogicalVolume) -> dict[str, str]:
    """The engine's tags of a base."""
    told = {key: value_of(volume.lv_tags, f"imgbackend.{key}") for key in (*_TOLD, *_NOTED)}
    return {key: value or "" for key, value in told.items() if value is not None or key in _TOLD}
