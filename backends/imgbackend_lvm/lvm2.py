"""The commands of lvm2, one typed method for each, with lvm2's own names for what they report.

It knows nothing of disks and images.  lvm2 locks the group for each command and commits
its metadata at once: a command that was killed has done its work or not; what can be left
is a new volume that is not active.
"""

import re
from collections.abc import Sequence
from typing import Final, Literal

from imgbackend import errors
from imgbackend_lvm import lvm2_reports
from imgbackend_lvm.lvm2_errors import OutOfExtents
from imgbackend_lvm.lvm2_names import check_group, check_name, check_tag, tag_of, tags_of, value_of
from imgbackend_lvm.lvm2_reports import LogicalVolume, VolumeGroup
from imgbackend_lvm.lvm2_run import Lvm2Commands

__all__ = [
    "MOST_TAGS",
    "LogicalVolume",
    "Lvm2",
    "Permission",
    "VolumeGroup",
    "check_group",
    "check_name",
    "check_tag",
    "tag_of",
    "tags_of",
    "value_of",
]

Permission = Literal["r", "rw"]
"""What may be done to a volume, as ``--permission`` takes it."""

_AS_LARGE: Final = re.compile(r"matches existing size|not larger than existing size")
_AS_PERMITTED: Final = re.compile(r"is already (?:read only|writable)")
_EXTENTS: Final = re.compile(r"/dev/[A-Za-z0-9_+./-]+:[0-9]+-[0-9]+")
_ABSENT: Final = re.compile(r"Failed to find logical volume")
_NO_POOL: Final = "lv_attr!~^t"
"""Selects what is no thin pool: ``--yes`` would remove one with all that is in it."""
SECTOR: Final = 512
"""Bytes; sizes consist of whole ones."""
_MOST_NAMES: Final = 4
"""Volumes that one lvremove takes: the filters for rootwrap have a line for each number of arguments."""
MOST_TAGS: Final = 8
"""Tags that one lvcreate takes, and changes that one lvchange makes; for the same reason."""


class Lvm2:
    """The commands of lvm2.  Making one runs nothing.

    A name is checked before a command sees it, and stands after ``--``; nothing goes
    through a shell.  Any method raises what :func:`imgbackend_lvm.lvm2_errors.meaning` tells.
    """

    def __init__(self, *, root_helper: str | None = None, timeout: float = 120.0) -> None:
        """``root_helper`` goes before each command unless this process is root; None: ``sudo -n``.

        ``timeout`` is the seconds that one command may take, waiting for lvm2's lock included.
        """
        self.commands = Lvm2Commands(root_helper=root_helper, timeout=timeout)

    def vgs(self, group: str) -> VolumeGroup:
        """A volume group.

        :raises ConfigError: if there is none of this name.
        """
        check_group(group)
        found = lvm2_reports.groups(self._report("vgs", lvm2_reports.GROUP_FIELDS, group))
        if not found:
            raise errors.StorageUnavailable(f"vgs says nothing of {group}, which it found")
        return found[0]

    def lvs(self, group: str, name: str | None = None, *, tag: str | None = None) -> list[LogicalVolume]:
        """One volume, or all that are not hidden; of these only those with ``tag`` where it is given.

        An empty list for ``name`` means that it is surely not there.

        :raises ConfigError: if there is no such group.
        """
        check_group(group)
        if name is not None:
            check_name(group, name)
        what = group if name is None else f"{group}/{name}"
        found = lvm2_reports.volumes(self._report("lvs", lvm2_reports.VOLUME_FIELDS, what))
        return [volume for volume in found if tag is None or tag in volume.lv_tags]

    def lvcreate(
        self,
        group: str,
        name: str,
        size: int,
        *,
        tags: Sequence[str] = (),
        permission: Permission = "rw",
        wipe: bool = True,
    ) -> None:
        """Make a thick volume of ``size`` bytes, rounded up to the group's extents; it is active.

        Its bytes are those of whoever had the room before; with ``wipe`` the signatures
        among them and the first 4 KiB are cleared.

        :raises StorageFull: if the group has not so much left.
        """
        check_name(group, name)
        clear = "y" if wipe else "n"
        made = ["--yes", "--type", "linear", "--wipesignatures", clear, "--zero", clear, "--permission", permission]
        self._allocate(group, "lvcreate", *made, *_size("--size", size), "--name", name, *_new_tags(tags), "--", group)

    def lvcreate_thin(self, group: str, pool: str, name: str, size: int, *, tags: Sequence[str] = ()) -> None:
        """Make a thin volume of ``size`` virtual bytes in ``pool``; it is active.

        :raises ConfigError: if there is no such pool.
        :raises StorageFull: if the pool takes no more volumes.
        """
        check_name(group, pool)
        check_name(group, name)
        made = ["--yes", "--type", "thin", "--wipesignatures", "n", *_size("--virtualsize", size), "--thinpool", pool]
        self._allocate(group, "lvcreate", *made, "--name", name, *_new_tags(tags), "--", group)

    def lvcreate_snapshot(
        self,
        group: str,
        origin: str,
        name: str,
        *,
        tags: Sequence[str] = (),
        permission: Permission = "rw",
        activate: bool = True,
    ) -> None:
        """Make a thin snapshot of the thin volume ``origin``, with none of its tags.

        ``activate``: it is active, and will be after a restart; else neither.

        :raises DiskNotFound: if there is no such origin.
        :raises StorageError: if the origin is not thin.
        """
        check_name(group, origin)
        check_name(group, name)
        skip, active = ("n", "y") if activate else ("y", "n")
        made = ["--yes", "--snapshot", "--setactivationskip", skip, "--activate", active, "--permission", permission]
        self._allocate(group, "lvcreate", *made, "--name", name, *_new_tags(tags), "--", f"{group}/{origin}")

    def lvextend(self, group: str, name: str, size: int, *, extents: str | None = None) -> None:
        """Grow a volume to ``size`` bytes, rounded up to extents; one that has as many or more stays as it is.

        The new bytes of a thick volume are those of whoever had the room before.  ``extents``:
        a range as :meth:`pe_ranges` tells it, and the room is taken there or not at all.

        :raises StorageFull: if there is no such room.
        """
        check_name(group, name)
        if extents is not None and not _EXTENTS.fullmatch(extents):
            raise ValueError(f"not a range of extents: {extents!r}")
        where = [f"{group}/{name}", *([extents] if extents else [])]
        self._allocate(group, "lvextend", "--yes", *_size("--size", size), "--", *where, fine=_AS_LARGE)

    def pe_ranges(self, group: str, name: str) -> list[str]:
        """The extents that a thick volume has, ``<device>:<first>-<last>``, in its own order."""
        check_name(group, name)
        printed = self.commands.run("lvs", *lvm2_reports.OPTIONS, "--options", "seg_pe_ranges", "--", f"{group}/{name}")
        return lvm2_reports.extents(printed)

    def lvrename(self, group: str, name: str, new: str) -> None:
        """Rename a volume, open ones too, in one step.

        :raises DiskNotFound: if there is none.
        :raises DiskError: if the new name is taken.
        """
        check_name(group, name)
        check_name(group, new)
        self.commands.run("lvrename", "--", group, name, new)

    def lvremove(self, group: str, *names: str) -> None:
        """Remove volumes; an absent one is no error, and a thin pool is never removed.

        :raises DiskBusy: if one is in use; it is left, and so may others be.
        """
        for name in names:
            check_name(group, name)
        for start in range(0, len(names), _MOST_NAMES):
            some = [f"{group}/{name}" for name in names[start : start + _MOST_NAMES]]
            self.commands.run("lvremove", "--yes", "--select", _NO_POOL, "--", *some, fine=_ABSENT)

    def lvchange(
        self,
        group: str,
        name: str,
        *,
        addtag: Sequence[str] = (),
        deltag: Sequence[str] = (),
        permission: Permission | None = None,
        activate: bool | None = None,
        ignoreactivationskip: bool = False,
        setactivationskip: bool | None = None,
    ) -> None:
        """Change what is given; what is so already is no error.

        Up to :data:`MOST_TAGS` tags and permissions are one command; activation is one of
        its own, after it.

        :raises DiskBusy: if a volume that is in use is to be deactivated.
        """
        check_name(group, name)
        change = [*_tags("add", addtag), *_tags("del", deltag)]
        if permission is not None:
            change.append(f"--permission={permission}")
        if setactivationskip is not None:
            change.append(f"--setactivationskip={'y' if setactivationskip else 'n'}")
        for start in range(0, len(change), MOST_TAGS):
            self._change(group, name, *change[start : start + MOST_TAGS])
        if activate is not None:
            skip = ["--ignoreactivationskip"] if ignoreactivationskip else []
            self._change(group, name, "--activate", "y" if activate else "n", *skip)

    def _change(self, group: str, name: str, *change: str) -> None:
        self.commands.run("lvchange", "--yes", *change, "--", f"{group}/{name}", fine=_AS_PERMITTED)

    def _allocate(self, group: str, tool: str, *args: str, fine: re.Pattern[str] | None = None) -> None:
        """Run what takes room; where there is none, say in bytes how much."""
        try:
            self.commands.run(tool, *args, fine=fine)
        except OutOfExtents as exc:
            extent = self.vgs(group).vg_extent_size
            raise errors.StorageFull(f"the volume group {group}", exc.needed * extent, exc.left * extent) from exc

    def _report(self, tool: str, fields: str, what: str) -> str:
        return self.commands.run(tool, *lvm2_reports.OPTIONS, "--options", fields, "--", what, fine=_ABSENT)


def _size(option: str, size: int) -> tuple[str, str]:
    if size <= 0 or size % SECTOR:
        raise ValueError(f"not a size for a volume: {size}; it has to be a multiple of {SECTOR} above 0")
    return option, f"{size}b"


def _new_tags(tags: Sequence[str]) -> list[str]:
    if len(tags) > MOST_TAGS:
        raise errors.DiskError(f"a new volume gets up to {MOST_TAGS} tags, not {len(tags)}; add others with lvchange")
    return _tags("add", tags)


def _tags(verb: Literal["add", "del"], tags: Sequence[str]) -> list[str]:
    for tag in tags:
        check_tag(tag)
    return [f"--{verb}tag={tag}" for tag in tags]
