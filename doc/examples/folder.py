"""A driver in thirty lines: disks are files of a folder of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from oslo_config import cfg

from imgbackend.driver.file_disk import FileBackend, FileDisk


class FolderDisk(FileDisk["FolderBackend"]):
    """A raw file."""

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.backend.folder / f"{self.id.instance}_{self.id.name}"

    @property
    def unfinished(self) -> Path:
        """Where it is made."""
        return self.backend.folder / f".{self.id.instance}_{self.id.name}.part"

    def begin(self) -> None:
        """The folder is there, and its name is flushed."""
        self.backend.host.make_folder(self.backend.folder)


class FolderBackend(FileBackend):
    """A folder."""

    disk_type = FolderDisk
    opts: ClassVar[Sequence[cfg.Opt]] = (cfg.StrOpt("folder", required=True, help="Keep disks here."),)

    @property
    def folder(self) -> Path:
        """The store."""
        return Path(self.conf.folder)
