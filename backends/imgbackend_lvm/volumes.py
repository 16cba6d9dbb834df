"""What thick and thin disks have in common: their names, whose a volume is, and how it is read.

A disk is the volume ``<instance>_<disk>``, as Nova names it, and it is known by its tags: a
volume of that name without them is somebody else's, and is never touched, unless the disk
is on record.  What is unfinished has a name that begins with a dot.
"""

import abc
import math
import os
import time
from pathlib import Path
from typing import Any, Final

from imgbackend import errors
from imgbackend.driver.abilities import Importable
from imgbackend.driver.contract import Disk
from imgbackend.driver.template import Base, PrepareTemplate
from imgbackend.system import files, qemu_img
from imgbackend.types import BlockSource, DiskId, DiskInfo, Progress, Way, ignore
from imgbackend_lvm.block_io import opened
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import LogicalVolume, tag_of, value_of

BACKEND: Final = "imgbackend.backend"
"""The tag of whatever is ours: the section's name."""
DISK: Final = "imgbackend.disk"
"""The tag of a disk, and of all that belongs to it: ``<instance>/<disk>``."""
FROM: Final = "imgbackend.from"
"""The tag of a disk that is a snapshot of a base: that base's name."""
_PATIENCE: Final = 1.5
"""Seconds that a volume may be open before it is busy: udev opens each device that somebody closed."""
_PAUSE: Final = 0.1


def volume_name(disk: DiskId) -> str:
    """Of the volume of a disk; Nova's too."""
    return f"{disk.instance}_{disk.name}"


class VolumeDisk(Disk[Any], Importable):
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
        return f".{self.name}"

    @property
    def device(self) -> Path:
        """Of its volume."""
        return self.backend.device(self.name)

    @property
    def tags(self) -> tuple[str, ...]:
        """What its volume is known by."""
        return (tag_of(BACKEND, self.backend.name), tag_of(DISK, str(self.id)))

    def find(self) -> DiskInfo | None:
        """One ``lvs``; a volume that is not active, as after a restart of the host, is activated."""
        volume = self.volume()
        if volume is None:
            return None
        if not volume.active:
            self.backend.lvm.lvchange(self.backend.group, self.name, activate=True, ignoreactivationskip=True)
            volume = self.volume() or volume
        return DiskInfo(format="raw", size=volume.lv_size, allocated=spent(volume))

    def volume(self) -> LogicalVolume | None:
        """The disk's volume; None: surely absent.

        :raises DiskError: if a volume has its name that is not this disk's.
        """
        return self.parts().get(self.name)

    def look(self) -> list[LogicalVolume]:
        """All volumes of the group: one ``lvs`` in each turn, until a command changes something."""
        seen = self.seen()
        if seen is None:
            moment, seen = self.moment(), self.backend.lvm.lvs(self.backend.group)
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
        """All volumes of this disk, unfinished ones and snapshots too, by their names.

        :raises DiskError: if a volume has its name that is not this disk's.
        """
        found = {}
        for volume in self.look():
            if volume.lv_name == self.name:
                found[volume.lv_name] = self.mine(volume)
            elif set(self.tags) <= set(volume.lv_tags):
                found[volume.lv_name] = volume
        return found

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
                raise errors.DiskBusy(f"{self.device} is open in another process; stop its guest first")
            time.sleep(_PAUSE)
            self._seen = None

    def discard(self) -> None:
        """The file that a template was put into."""
        self.backend.host.unfinished(self.id).unlink(missing_ok=True)

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
        """By qemu-img, from the device."""
        host, size = self.backend.host, self.refuse_open().lv_size
        qemu_img.take_back(host, self.device.resolve())
        with opened(self.device, os.O_RDONLY) as source, files.open_fd(target, os.O_RDWR) as out:
            qemu_img.convert(
                host, [(source, "raw")], out, format, size=size, compress=compress, progress=progress, phase="extract"
            )

    def source(self) -> BlockSource:
        """The device."""
        return BlockSource(path=self.device)


def spent(volume: LogicalVolume) -> int:
    """Bytes that the storage spends on a volume.

    A thin one's are those that it maps: device-mapper does not tell which it shares with
    its base, and lvm2 tells a hundredth of a per cent.
    """
    if not volume.is_thin or volume.data_percent is None:
        return volume.lv_size
    return math.ceil(volume.lv_size * volume.data_percent / 100)
