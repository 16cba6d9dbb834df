"""A backend as its disks, its pool and its leftovers see it: the volume group, and the commands of lvm2."""

import dataclasses
import functools
from pathlib import Path

from imgbackend import errors
from imgbackend.driver.contract import Backend
from imgbackend_lvm.block_io import BLOCK
from imgbackend_lvm.lvm2 import Lvm2


class GroupBackend(Backend):
    """A backend whose disks are volumes of one group."""

    @functools.cached_property
    def lvm(self) -> Lvm2:
        """The commands of lvm2."""
        return Lvm2(root_helper=self.conf.root_helper)

    extent = 0
    """Bytes of an extent of the group; known when it is open."""

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
        self.extent = self.lvm.vgs(self.group).vg_extent_size
        self.traits = dataclasses.replace(self.traits, granularity=max(self.extent, BLOCK))

    def rounded(self, size: int) -> int:
        """Up to what a volume can have."""
        return -(-size // self.traits.granularity) * self.traits.granularity

    def device(self, name: str) -> Path:
        """The device of a volume, while it is active."""
        return Path("/dev", self.group, name)
