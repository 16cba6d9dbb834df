"""The options of instances, read once into values."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from oslo_config import cfg

from imgbackend.errors import ConfigError
from imgbackend.guest import fresh_disks
from imgbackend.guest.devices import Machine
from imgbackend.guest.disk_xml import DiskModes
from imgbackend.guest.spec import InstanceSpec

_MACHINES: Final = {
    "x86_64": "pc",
    "i686": "pc",
    "aarch64": "virt",
    "ppc64le": "pseries",
    "ppc64": "pseries",
    "s390x": "s390-ccw-virtio",
}
_KINDS: Final = ("file", "block", "network")
_VIRT_TYPES: Final = ("kvm", "qemu")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSettings:
    """What the instances of a host have in common."""

    uri: str = "qemu:///system"
    virt_type: str = "kvm"
    machines: Mapping[str, str] = field(default_factory=dict)
    """By architecture, where it is not the usual one."""
    cpu_mode: str | None = None
    disk_prefix: str | None = None
    cache_modes: Mapping[str, str] = field(default_factory=dict)
    discard: str | None = None
    most_disks: int | None = None
    most_disk_operations: int | None = None
    start_seconds: float = 60.0
    stop_seconds: float = 120.0
    snapshots: str = ""
    ephemeral_format: str | None = None
    mkfs: Mapping[str, str] = field(default_factory=dict)

    def completed(self, spec: InstanceSpec) -> InstanceSpec:
        """A spec with what these options say where it says nothing."""
        told = spec.hardware
        completed = dataclasses.replace(
            told, cpu_mode=told.cpu_mode or self.cpu_mode, disk_prefix=told.disk_prefix or self.disk_prefix
        )
        return dataclasses.replace(spec, hardware=completed)

    def machine(self, told: str | None, *, root_is_iso: bool) -> Machine:
        """The machine of an instance; ``told`` is what its spec or its image says."""
        arch = os.uname().machine
        kind = told or self.machines.get(arch) or _MACHINES.get(arch)
        if kind is None:
            raise ConfigError(f"no machine is known for {arch}; name one: [libvirt] hw_machine_type = {arch}=...")
        return Machine(arch=arch, type=kind, root_is_iso=root_is_iso, most_disks=self.most_disks)

    def modes(self, instances: Path) -> DiskModes:
        """How disks are opened; ``instances`` is the folder of those that are files."""
        return DiskModes(direct=_takes_direct(instances), cache=self.cache_modes, discard=self.discard)


def settings_of(conf: cfg.ConfigOpts) -> GuestSettings:
    """The options of a configuration.

    :raises ConfigError: if one has a value that it cannot have.
    """
    libvirt, most = conf.libvirt, conf.compute.max_disk_devices_to_attach
    if libvirt.virt_type not in _VIRT_TYPES:
        raise ConfigError(f"[libvirt] virt_type: {libvirt.virt_type!r} is none of {', '.join(_VIRT_TYPES)}")
    if libvirt.hw_disk_discard not in (None, "ignore", "unmap"):
        raise ConfigError(f"[libvirt] hw_disk_discard: {libvirt.hw_disk_discard!r} is neither ignore nor unmap")
    modes = _pairs("[libvirt] disk_cachemodes", libvirt.disk_cachemodes)
    return GuestSettings(
        uri=libvirt.connection_uri or "qemu:///system",
        virt_type=libvirt.virt_type,
        machines=_pairs("[libvirt] hw_machine_type", libvirt.hw_machine_type),
        cpu_mode=libvirt.cpu_mode,
        disk_prefix=libvirt.disk_prefix,
        cache_modes={kind: mode for kind, mode in modes.items() if kind in _KINDS},
        discard=libvirt.hw_disk_discard,
        most_disks=most if most >= 0 else None,
        most_disk_operations=conf.max_concurrent_disk_ops or None,
        start_seconds=libvirt.start_timeout,
        stop_seconds=libvirt.wait_soft_reboot_seconds,
        snapshots=libvirt.snapshots_directory,
        ephemeral_format=conf.default_ephemeral_format,
        mkfs=fresh_disks.mkfs_commands(conf.virt_mkfs),
    )


def _pairs(option: str, told: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in told:
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not (key and equals and value):
            raise ConfigError(f"{option}: {entry!r} is not of the form name=value")
        found[key] = value
    return found


def _takes_direct(folder: Path) -> bool:
    """Whether O_DIRECT works on the file system of a folder, tried on a file that is gone at once."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600))
    except OSError:
        return _takes_direct_by_name(folder / f".direct-{os.getpid()}")
    return True


def _takes_direct_by_name(path: Path) -> bool:
    """The same where unnamed files do not work."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    finally:
        path.unlink(missing_ok=True)
    return True
