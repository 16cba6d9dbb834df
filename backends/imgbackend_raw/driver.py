"""The driver ``raw``."""

from imgbackend import errors
from imgbackend.driver.file_disk import FileBackend, FileDisk
from imgbackend.system import qcow2
from imgbackend.types import Traits


class RawDisk(FileDisk["RawBackend"]):
    """A file with the disk's own bytes."""

    def virtual_size(self, _length: int) -> int:
        """Of a flat qcow2 its header tells."""
        if self.format == "raw":
            return _length
        header = qcow2.read(self.path)
        qcow2.refuse_foreign(header, str(self.path))
        if header.backing_file is not None:
            raise errors.DiskError(f"{self.path} refers to {header.backing_file}, and is to be a disk without a base")
        return header.virtual_size


class RawBackend(FileBackend):
    """Raw disks in the folders of the instances."""

    disk_type = RawDisk
    traits = Traits(formats=("raw", "qcow2"), files=True)
