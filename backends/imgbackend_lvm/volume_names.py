"""The tags and names by which the volumes of a disk are known, and what they say may be done.

Tags say whose a volume is.  They are no licence to remove it: people rename a volume to keep it, and its tags go with
it.  So only names that are made here, and begin with a dot, say that a volume is unfinished or on its way out; a
snapshot of a disk has its own name too.  A volume with a disk's tags and any other name may hold a guest's data.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from imgbackend.types import DiskId, Owner
from imgbackend_lvm.lvm2 import LogicalVolume, tag_of, value_of

BACKEND: Final = "imgbackend.backend"
"""The tag of whatever is ours: the section's name."""
DISK: Final = "imgbackend.disk"
"""The tag of a disk, and of all that belongs to it: ``<instance>/<disk>``."""
OWNER: Final = "imgbackend.owner"
"""The tag of a disk that says whose it is: ``<id of the folder>/<host>``."""
IDENTITY: Final = "imgbackend.identity"
"""The tag of a disk that tells it from one that is made later under its name."""
FROM: Final = "imgbackend.from"
"""The tag of a disk that is a snapshot of a base: that base's name."""
SNAPSHOT: Final = "imgbackend.snapshot"
"""The tag of a snapshot: its name."""
REPLACEMENT: Final = "+next"
"""Ends the name of the volume that a rollback puts into the disk's place."""
FORMER: Final = "+last"
"""Ends the name of the volume that was the disk before a rollback."""
GROWTH: Final = "+tail"
"""Ends the name of the volume that a thick disk is to grow by."""
WITHDRAWN: Final = "+gone"
"""Ends the name of a disk that is being removed, which its snapshots follow."""


def volume_name(disk: DiskId) -> str:
    """Of the volume of a disk; Nova's too."""
    return f"{disk.instance}_{disk.name}"


def dotted_name(disk: DiskId, end: str = "") -> str:
    """Of a volume of a disk that is unfinished, or on its way out."""
    return f".{volume_name(disk)}{end}"


def dotted_names(disk: DiskId) -> set[str]:
    """All that :func:`dotted_name` may give: a volume with one of them and the disk's tags is no whole disk."""
    return {dotted_name(disk, end) for end in ("", REPLACEMENT, FORMER, GROWTH, WITHDRAWN)}


def snapshot_name(disk: DiskId, snapshot: str) -> str:
    """Of the volume of a snapshot of a disk."""
    digest = hashlib.sha1(snapshot.encode(), usedforsecurity=False).hexdigest()
    return f"{volume_name(disk)}+{digest[:8]}"


def is_snapshot(volume: LogicalVolume, disk: DiskId) -> bool:
    """Whether a volume with a disk's tags is a snapshot of it, under the name that it was made with."""
    name = value_of(volume.lv_tags, SNAPSHOT)
    return name is not None and volume.lv_name == snapshot_name(disk, name)


def disk_tags(backend: str, disk: DiskId) -> tuple[str, str]:
    """What all volumes of a disk are known by."""
    return (tag_of(BACKEND, backend), tag_of(DISK, str(disk)))


def owner_tags(owner: Owner | None, identity: str | None) -> tuple[str, ...]:
    """What says whose a disk is, and which."""
    owners = () if owner is None else (tag_of(OWNER, f"{owner.folder}/{owner.host}"),)
    return owners if identity is None else (*owners, tag_of(IDENTITY, identity))


def owner_of(volume: LogicalVolume) -> Owner | None:
    """Whose a volume is, by its tags; None: they do not tell."""
    folder, _, host = (value_of(volume.lv_tags, OWNER) or "").partition("/")
    return Owner(host=host, folder=folder) if host else None


def disk_of(tags: tuple[str, ...]) -> DiskId | None:
    """The disk that a volume belongs to; None: none, or it was tagged by hand."""
    instance, _, name = (value_of(tags, DISK) or "").partition("/")
    try:
        return DiskId(instance=instance, name=name)
    except ValueError:
        return None


def advice_for_snapshots(backend: str, disk: DiskId, snapshots: Iterable[LogicalVolume]) -> str:
    """What people can do with snapshots whose disk is gone."""
    paths = [f"{volume.vg_name}/{volume.lv_name}" for volume in snapshots]
    tags = " ".join(f"--addtag {tag}" for tag in disk_tags(backend, disk))
    return (
        f"the disk {disk} is gone, and of its snapshots there are: {', '.join(paths)}; "
        f"for a disk with the bytes of one: lvcreate --snapshot --setactivationskip n --permission rw {tags} "
        f"--name {volume_name(disk)} {paths[-1]}; if nobody needs them: lvremove {' '.join(paths)}"
    )


def advice_for_renamed(backend: str, disk: DiskId, volume: LogicalVolume) -> str:
    """What people can do with a volume that has a disk's tags and a name of their own."""
    snapshot = value_of(volume.lv_tags, SNAPSHOT)
    own = volume_name(disk) if snapshot is None else snapshot_name(disk, snapshot)
    path = f"{volume.vg_name}/{volume.lv_name}"
    tags = " ".join(f"--deltag {tag}" for tag in disk_tags(backend, disk))
    return (
        f"it has the tags of {disk} and another name: somebody renamed it, and it may hold a guest's data; "
        f"to use it again: lvrename {volume.vg_name} {volume.lv_name} {own}; "
        f"to keep it as it is: lvchange {tags} {path}; if nobody needs it: lvremove {path}"
    )
