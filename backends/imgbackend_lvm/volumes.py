"""What thick and thin disks have in common: their volumes, how they are removed, and how they are read.

A disk is the volume ``<instance>_<disk>``, as Nova names it, and it is known by its tags: a
volume of that name without them is somebody else's, and is never touched, unless the disk
is on record.  What is unfinished, or on its way out, has a name that begins with a dot.
"""

import abc
import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from imgbackend import errors
from imgbackend.driver.abilities import Importable, Marked, TellsOpen
from imgbackend.driver.contract import Disk
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files, qemu_img
from imgbackend.types import BlockSource, DiskInfo, Mark, Mi, Owner, Progress, Way, ignore
from imgbackend_lvm import wipe
from imgbackend_lvm.block_io import opened, write_counts
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import LogicalVolume, value_of
from imgbackend_lvm.volume_names import (
    BACKEND,
    DISK,
    FORMER,
    IDENTITY,
    OWNER,
    REPLACEMENT,
    WITHDRAWN,
    advice_for_snapshots,
    disk_tags,
    dotted_name,
    dotted_names,
    is_snapshot,
    owner_of,
    owner_tags,
    volume_name,
)

_PATIENCE: Final = 1.5
"""Seconds that a volume may be open before it is busy: udev opens each device that somebody closed."""
_PAUSE: Final = 0.1


class VolumeDisk(Disk[Any], Importable, Marked, TellsOpen):
    """A disk that is a logical volume."""

    backend: GroupBackend
    _seen: "tuple[object, list[LogicalVolume]] | None" = None

    @property
    def name(self) -> str:
        """Of its volume."""
        return volume_name(self.id)

    @property
    def unfinished(self) -> str:
        """Of the volume that it is made in, or that is being cleared."""
        return dotted_name(self.id)

    @property
    def replacement(self) -> str:
        """Of the volume that a rollback puts into the disk's place."""
        return dotted_name(self.id, REPLACEMENT)

    @property
    def former(self) -> str:
        """Of the volume that was the disk before a rollback."""
        return dotted_name(self.id, FORMER)

    @property
    def withdrawn(self) -> str:
        """Of the disk while it is removed: with that name its snapshots may go too."""
        return dotted_name(self.id, WITHDRAWN)

    @property
    def device(self) -> Path:
        """Of its volume."""
        return self.backend.device(self.name)

    @property
    def tags(self) -> tuple[str, ...]:
        """What its volume is known by."""
        return disk_tags(self.backend.name, self.id)

    @property
    def own_tags(self) -> tuple[str, ...]:
        """What a volume is made with that is the disk, or is to be it: also whose it is."""
        record = self.recorded
        return (*self.tags, *(() if record is None else owner_tags(record.owner, record.identity)))

    def mark(self) -> Mark | None:
        """By tags, which come with the ``lvs`` that looks for the disk."""
        volume = self.volume()
        if volume is None:
            return None
        return Mark(owner=owner_of(volume), identity=value_of(volume.lv_tags, IDENTITY) or volume.lv_uuid)

    def set_mark(self, before: Mark, owner: Owner) -> None:
        """By one ``lvchange``; hosts that share a group have lvm2's own lock of it."""
        self._seen = None
        volume = self.volume()
        if volume is None or self.mark() != before:
            raise errors.DiskElsewhere(f"{self.device} has another owner meanwhile; look again")
        new = {*self.tags, *owner_tags(owner, before.identity)}
        old = [tag for tag in volume.lv_tags if tag.startswith(f"{OWNER}=") and tag not in new]
        self.backend.lvm.lvchange(self.backend.group, self.name, addtag=sorted(new - set(volume.lv_tags)), deltag=old)

    def find(self) -> DiskInfo | None:
        """One ``lvs``; a volume that is not active, as after a restart of the host, is activated."""
        volume = self.volume()
        if volume is None:
            return None
        if not volume.active:
            self.backend.lvm.lvchange(self.backend.group, self.name, activate=True, ignoreactivationskip=True)
            volume = self.volume() or volume
        return DiskInfo(format="raw", size=volume.lv_size, allocated=volume.spent)

    def volume(self) -> LogicalVolume | None:
        """The disk's volume; None: surely absent.

        :raises DiskError: if a volume has its name that is not this disk's, or if snapshots outlived it.
        """
        parts = self.settled_parts()
        self.refuse_orphans(parts)
        return parts.get(self.name)

    def refuse_orphans(self, parts: Mapping[str, LogicalVolume]) -> None:
        """See that there are no snapshots of a disk that is gone: a new disk would have them as its own.

        :raises DiskError: if there are; it says what can be done.
        """
        orphans = [volume for volume in parts.values() if is_snapshot(volume, self.id)]
        if orphans and self.name not in parts and self.withdrawn not in parts:
            raise errors.DiskError(advice_for_snapshots(self.backend.name, self.id, orphans))

    def look(self) -> list[LogicalVolume]:
        """All volumes of the group: one ``lvs`` in each turn, until a command changes something."""
        seen = self.seen()
        if seen is None:
            moment, seen = self.moment(), self.backend.volumes()
            self._seen = None if moment is None else (moment, seen)
        return seen

    def seen(self) -> list[LogicalVolume] | None:
        """What :meth:`look` said in this turn, if nothing was changed since."""
        return self._seen[1] if self._seen is not None and self._seen[0] == self.moment() else None

    def moment(self) -> "tuple[object, int] | None":
        """What stays the same in a turn until a command changes something; None without the disk's lock."""
        turn = self.operation
        return None if turn is None else (turn, self.backend.lvm.commands.changes)

    def mine(self, volume: LogicalVolume) -> LogicalVolume:
        """``volume``, which has this disk's name, if it is this disk's.

        :raises DiskError: if it is not.
        """
        whose, what = value_of(volume.lv_tags, BACKEND), value_of(volume.lv_tags, DISK)
        if (whose, what) == (self.backend.name, str(self.id)):
            return volume
        if whose is None and self.recorded is not None:
            return volume
        owner = f"the backend {whose}'s" if whose else "not made by imgbackend"
        tags = " ".join(f"--addtag {tag}" for tag in self.tags)
        raise errors.DiskError(
            f"there is a volume {volume.vg_name}/{volume.lv_name}, and it is {owner}; "
            f"remove it, or, if it is this disk: lvchange {tags} {volume.vg_name}/{volume.lv_name}"
        )

    def parts(self) -> dict[str, LogicalVolume]:
        """All volumes of this disk, unfinished ones and snapshots too, by their names; none that has a name of others.

        :raises DiskError: if a volume has its name that is not this disk's.
        """
        found, dotted = {}, dotted_names(self.id)
        for volume in self.look():
            if volume.lv_name == self.name:
                found[volume.lv_name] = self.mine(volume)
            elif set(self.tags) <= set(volume.lv_tags) and (volume.lv_name in dotted or is_snapshot(volume, self.id)):
                found[volume.lv_name] = volume
        return found

    def settled_parts(self) -> dict[str, LogicalVolume]:
        """The same; where a rollback was killed while nothing had the disk's name, that is ended first."""
        parts = self.parts()
        if self.name in parts or self.former not in parts:
            return parts
        self._end_rollback(parts)
        return self.parts()

    def _end_rollback(self, parts: Mapping[str, LogicalVolume]) -> None:
        """Give the disk's name to one of both volumes; without a lock, for of two who do it one finds it done.

        That the former volume is not active tells that no guest had it, or has it: the replacement can come.  Where it
        is active, a guest may have started on it just before it was renamed, and its writes are kept.
        """
        back = parts[self.former].active or self.replacement not in parts
        try:
            self.backend.lvm.lvrename(self.backend.group, self.former if back else self.replacement, self.name)
        except errors.DiskError:
            if self.name not in self.parts():
                raise

    def refuse_open(self) -> LogicalVolume:
        """The disk's volume.

        :raises DiskBusy: if something has it open, and keeps it so for a moment.
        :raises DiskNotFound: if there is none.
        """
        end = time.monotonic() + _PATIENCE
        while True:
            volume = self.volume()
            if volume is None:
                raise errors.DiskNotFound(f"there is no disk {self.id} on {self.backend.name}")
            if not volume.open:
                return volume
            if time.monotonic() > end:
                raise self._busy(self.device)
            time.sleep(_PAUSE)
            self._seen = None

    def _busy(self, device: Path) -> errors.DiskOpen:
        return errors.DiskOpen(f"{device} is open in another process; stop its guest first")

    def withdraw(self, volume: LogicalVolume, name: str) -> list[LogicalVolume]:
        """Give ``volume``, which is the disk, another name, and take its device away.

        lvm2 renames a volume that is open, and refuses in one step to deactivate it.  So the name goes first, that no
        guest finds it any more; one that came in just before keeps the volume, which gets its name back.  Returns all
        volumes of the group, as they were just after the renaming.

        :raises DiskBusy: if something has it open; it is as it was.
        """
        lvm, group = self.backend.lvm, self.backend.group
        if not set(self.tags) <= set(volume.lv_tags):  # Nova's: under another name its tags alone tell what it is
            lvm.lvchange(group, self.name, addtag=self.tags)
        lvm.lvrename(group, self.name, name)
        seen = self._seen_renamed(volume, name)
        try:
            lvm.lvchange(group, name, activate=False)
        except errors.DiskNotFound as exc:  # whoever looked took it for a rollback that was killed, and gave it back
            raise errors.DiskBusy(f"{self.device} was looked at by another process; try again") from exc
        except errors.Error as exc:
            lvm.lvrename(group, name, self.name)
            if isinstance(exc, errors.DiskBusy):
                raise self._busy(self.device) from exc
            raise
        return seen

    def _seen_renamed(self, volume: LogicalVolume, name: str) -> list[LogicalVolume]:
        """All volumes, where that with the name ``name`` is ``volume`` by its uuid: lvm2 renames by the name alone.

        Between the look and the renaming another may have removed the disk, and made one under its name.

        :raises DiskBusy: if it is another; that has its name back.
        """
        lvm, group, seen = self.backend.lvm, self.backend.group, self.look()
        now = next((each for each in seen if each.lv_name == name), None)
        if now is not None and now.lv_uuid == volume.lv_uuid:
            return seen
        if now is not None:
            lvm.lvrename(group, name, self.name)
        raise errors.DiskBusy(f"{self.device} was made anew, or looked at, by another process just now; try again")

    def remove_image(self) -> None:
        """The disk and its snapshots: it is withdrawn, which says that all of it is to go, then cleared away.

        :raises DiskBusy: if it or one of its snapshots is open; all of them are as they were.
        :raises DiskError: if there are only snapshots of it: that their disk is gone says not that they are to go.
        """
        parts = self.settled_parts()
        self.refuse_orphans(parts)
        if self.name not in parts:
            return
        volume = self.refuse_open()
        for part in parts.values():
            if part.open and is_snapshot(part, self.id):
                raise self._busy(self.backend.device(part.lv_name))
        still = {(each.lv_name, each.lv_uuid) for each in self.withdraw(volume, self.withdrawn)}
        parts = {name: part for name, part in parts.items() if (name, part.lv_uuid) in still}
        self._clear({**parts, self.withdrawn: volume})

    def discard(self) -> None:
        """The file that a template was put into, what was made of the disk, and what a removal withdrew."""
        self.backend.host.unfinished(self.id).unlink(missing_ok=True)
        parts = self.settled_parts()
        self._refuse_others(parts)
        self._clear(parts)

    def _refuse_others(self, parts: Mapping[str, LogicalVolume]) -> None:
        """See that nothing unfinished is of another folder, whose locks are not ours: it may be at it.

        :raises DiskBusy: if something is.
        """
        for volume in parts.values():
            owner = owner_of(volume)
            if volume.lv_name[0] == "." and not self.backend.attached.owners.is_mine(self.id.instance, owner):
                raise errors.DiskBusy(f"{volume.vg_name}/{volume.lv_name} is being made or removed by {owner}")

    def _clear(self, parts: Mapping[str, LogicalVolume]) -> None:
        """Remove what is unfinished or withdrawn; the withdrawn disk is the last, for its name says that others go."""
        doomed = parts.keys() & dotted_names(self.id)
        if self.withdrawn in doomed and self.name not in parts:
            doomed |= {name for name, volume in parts.items() if is_snapshot(volume, self.id)}
        for name in sorted(doomed & {self.unfinished, self.withdrawn}):
            self._overwrite(name, parts[name])
        for names in (doomed - {self.withdrawn}, doomed & {self.withdrawn}):
            if names:
                self.backend.lvm.lvremove(self.backend.group, *sorted(names))

    def _overwrite(self, name: str, volume: LogicalVolume) -> None:
        """As ``volume_clear`` and ``volume_clear_size`` say: the next volume has the extents of a thick one, unchanged.

        The pool zeroes those of a thin one; to overwrite it would allocate all of it.
        """
        backend, limit = self.backend, self.backend.conf.volume_clear_size * Mi
        how = {"zero": wipe.zero, "shred": wipe.shred}.get(backend.conf.volume_clear)
        if how is None or volume.is_thin:
            return
        backend.lvm.lvchange(backend.group, name, activate=True)
        size = min(volume.lv_size, limit or volume.lv_size)
        how(backend.lvm.commands, backend.group, name, 0, size, wipe.unheard)

    @abc.abstractmethod
    def make(self, source: int, size: int, progress: Progress) -> None:
        """Make the volume :attr:`unfinished` of ``size`` bytes: an open raw file's, then zeroes; they are flushed.

        :raises StorageFull: if there is no room; where that can be told, before anything is written.
        """

    def made_in_place(self, prepare_template: PrepareTemplate, base: Base, size: int | None) -> Way:
        """A template that this host makes, or that is a secret, is put into a file first."""
        path = self.backend.host.unfinished(self.id)
        info = prepare_template(path)
        self.made_of(path, max(size or 0, info.virtual_size), base.progress)
        path.unlink()
        return "generate"

    def import_image(self, path: Path) -> None:
        """Copied into a volume, whatever becomes of the file."""
        self.discard()
        self.made_of(path, os.stat(path).st_size, ignore)

    def made_of(self, path: Path, size: int, progress: Progress) -> None:
        """Make the disk of a raw file."""
        with files.open_fd(path, os.O_RDONLY) as source:
            self.made_from(source, size, progress)

    def made_from(self, source: int, size: int, progress: Progress) -> None:
        """Make the disk of an open raw file: under another name, flushed, renamed."""
        self.make(source, self.backend.rounded(size), progress)
        self.publish()

    def publish(self) -> None:
        """It is whole: give the unfinished volume the disk's name."""
        self.backend.lvm.lvrename(self.backend.group, self.unfinished, self.name)

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        """By qemu-img, from the device.

        :raises DiskBusy: if a guest has it open, or wrote to it meanwhile.
        """
        host, size = self.backend.host, self.refuse_open().lv_size
        qemu_img.take_back(host, self.device.resolve())
        with self._unwritten(), opened(self.device, os.O_RDONLY) as source, files.open_fd(target, os.O_RDWR) as out:
            qemu_img.convert(
                host, [(source, "raw")], out, format, size=size, compress=compress, progress=progress, phase="extract"
            )

    @contextlib.contextmanager
    def _unwritten(self) -> Iterator[None]:
        """A context manager: see at its end that nobody wrote to the disk.

        It cannot be kept for one reader: ``O_EXCL`` holds off those alone who ask for it too, and QEMU does not.  A
        snapshot to read from would do for a thin disk, but not in a pool that is full or read-only, which is when disks
        are exported.  So the kernel's count of writes is asked; what a writer left in buffers is counted when the last
        has closed the device, so it is seen first that nobody has it open.

        :raises DiskBusy: if somebody wrote, or may do so.
        """
        before = write_counts(self.device)
        yield
        self._seen = None
        self.refuse_open()
        if write_counts(self.device) != before:
            raise errors.DiskBusy(
                f"{self.device} was written to while it was read; stop its guest, and export it again"
            )

    def source(self) -> BlockSource:
        """The device."""
        return BlockSource(path=self.device)
