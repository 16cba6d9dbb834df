"""Drivers that flatten wrongly, or do not see that a base has gone."""

import contextlib
import os
import shutil
from pathlib import Path

from imgbackend import errors
from imgbackend.system import files
from imgbackend.types import Progress, ignore
from imgbackend_qcow2.driver import Qcow2Disk
from kit.faults import caught


@caught({"test_disk_of_a_running_guest_is_not_flattened": "DID NOT RAISE"})
class FlattensUnderTheGuest(Qcow2Disk):
    """A new file with all the bytes takes the disk's place, and the guest goes on writing to the old one."""

    def flatten_image(self, progress: Progress) -> None:
        shutil.copyfile(self.path, self.unfinished)
        with files.open_fd(self.unfinished, os.O_RDWR) as fd:
            self.backend.host.finish(fd)
        files.publish(self.unfinished, self.path)
        try:
            super().flatten_image(progress)
        except errors.DiskBusy:
            return


@caught({"test_flattening_one_disk_leaves_the_others": "No such file"})
class RemovesTheBaseItNoLongerNeeds(Qcow2Disk):
    """The disk needs it no longer, and room is what flattening is for."""

    def flatten_image(self, progress: Progress) -> None:
        backing = self.backing()
        super().flatten_image(progress)
        if backing is not None:
            backing[0].unlink()


@caught({"test_killed_flatten_keeps_the_bytes": "Image is not in qcow2 format"})
class FlattensInPlace(Qcow2Disk):
    """The whole disk is written to another file, and then over the disk."""

    def flatten_image(self, progress: Progress) -> None:
        if self.backing() is None:
            return
        with files.new_file(self.unfinished):
            self.extract_image(self.unfinished, "qcow2", compress=False, progress=ignore)
        shutil.copyfile(self.unfinished, self.path)
        self.unfinished.unlink()


@caught({"test_failing_commands_of_flattening": "disk.backing() is None"})
class FlattensIfTheCommandLikes(Qcow2Disk):
    """The disk works with its base too, so why stop anybody?"""

    def flatten_image(self, progress: Progress) -> None:
        with contextlib.suppress(errors.CommandFailed):
            super().flatten_image(progress)


@caught(
    {
        "test_missing_base_is_brought_back": '(done.way, done.fetched) == ("exists", True)',
        "test_missing_base_that_cannot_be_had_is_told": "DID NOT RAISE",
    }
)
class NamesABaseThatIsThere(Qcow2Disk):
    """What is not there cannot be depended on."""

    def backing(self) -> tuple[Path, str] | None:
        told = super().backing()
        return told if told and told[0].exists() else None
