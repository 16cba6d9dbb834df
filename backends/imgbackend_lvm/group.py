"""A backend as its disks, its pool and its leftovers see it: the volume group, and the commands of lvm2."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from imgbackend import errors
from imgbackend.driver.abilities import IdentifiesStore
from imgbackend.driver.contract import Backend
from imgbackend_lvm.block_io import BLOCK
from imgbackend_lvm.lvm2 import LogicalVolume, Lvm2


class GroupBackend(Backend, IdentifiesStore):
    """A backend whose disks are volumes of one group."""

    store_options: ClassVar[Sequence[str]] = ("volume_group",)

    @functools.cached_property
    def lvm(self) -> Lvm2:
        """The commands of lvm2."""
        return Lvm2(root_helper=self.conf.root_helper)

    extent = 0
    """Bytes of an extent of the group; known when it is open."""
    uuid = ""
    """The group's own; known when it is open."""

    @property
    def group(self) -> str:
        """The volume group's name."""
        return str(self.conf.volume_group)

    def open(self) -> None:
        """See that the group is there, and may be looked at."""
        if not self.conf.volume_group:
            raise errors.ConfigError(
                f"[{self.name}] volume_group is not set; name the volume group that holds the disks"
            )
        found = self.lvm.vgs(self.group)
        self.extent, self.uuid = found.vg_extent_size, found.vg_uuid
        self.traits = dataclasses.replace(self.traits, granularity=max(self.extent, BLOCK))

    def store_identity(self) -> str:
        """By the group's uuid, which a group that is made anew under its name does not have."""
        return f"LVM volume group {self.uuid}"

    def volumes(self) -> list[LogicalVolume]:
        """All volumes of the group that are not hidden.

        :raises StorageUnavailable: if another group has the name by now: it says nothing of the disks.
        """
        found = self.lvm.lvs(self.group)
        uuid = found[0].vg_uuid if found else self.lvm.vgs(self.group).vg_uuid
        if uuid != self.uuid:
            raise errors.StorageUnavailable(
                f"the volume group {self.group} is not the one that it was: it is {uuid}, and was {self.uuid}; "
                "bring that back, or restart this process if the group was changed on purpose"
            )
        return found

    def rounded(self, size: int) -> int:
        """Up to what a volume can have."""
        return -(-size // self.traits.granularity) * self.traits.granularity

    def device(self, name: str) -> Path:
        """The device of a volume, while it is active."""
        return Path("/dev", self.group, name)
