"""A disk that a guest runs on is grown: the hypervisor does it, or is told of it, and the guest sees it at once."""

from typing import Any

from imgbackend import errors
from imgbackend.disks import create
from imgbackend.driver.contract import Disk
from imgbackend.guest.hypervisor import Hypervisor
from imgbackend.state import domain_xml
from imgbackend.types import BlockSource


def grow_running(hypervisor: Hypervisor, disk: Disk[Any], size: int) -> None:
    """Grow a disk of an instance that runs to ``size`` bytes, rounded up to the backend's granularity.

    A file, or an image that QEMU reaches over the network, is grown by QEMU itself, which holds its lock.  A device
    is grown by its storage first.

    :raises DiskError: if the disk is larger, or the guest does not have it.
    :raises HypervisorError: if the hypervisor refuses; a device stays as large as it was made.
    """
    wanted = create.whole_size(disk, size)
    with disk.locked():
        now, source = disk.found().size, disk.source()
        if wanted is None or wanted < now:
            raise errors.DiskError(f"{disk.id} has {now} bytes and is not shrunk to {size}")
        target = domain_xml.target_of(hypervisor.xml(disk.id.instance), source)
        if target is None:
            raise errors.DiskError(f"{disk.id.instance} runs, and does not have the disk {disk.id.name}; stop it first")
        if isinstance(source, BlockSource) and wanted > now:
            disk.resize_image(wanted)
        if isinstance(source, BlockSource) or wanted > now:
            hypervisor.grow_disk(disk.id.instance, target, wanted)
