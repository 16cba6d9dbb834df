"""What an instance is to be: its disks, devices and contents, before anything of it exists.

Sizes are bytes.  Values are checked when they are made, so that a spec that exists can be
laid out; what only the host can tell (an image, a bridge, a free device name) is checked
by those who ask it.
"""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from imgbackend.errors import ConfigError
from imgbackend.types import DiskId, DiskSource, Mi

NicKind = Literal["bridge", "network", "user"]
Firmware = Literal["bios", "uefi"]
Label = Literal["config-2", "cidata"]

_NAMESPACE: Final = uuid.UUID("0c8a5d3e-6a52-5b1f-9a4b-8f6f5a1f7f0e")
"""Of the uuids that are made from instances' names."""
_MAC: Final = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}\Z")
_LINK: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}\Z")
_FORMAT: Final = re.compile(r"[a-z][a-z0-9]{1,15}\Z")
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}\Z")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?\Z")
_SUFFIX: Final = re.compile(r"\.[a-z][a-z0-9-]{0,30}\Z")
_MOST_EPHEMERALS: Final = 1000
_LEAST_MEMORY: Final = Mi


def _positive(what: str, value: int | None) -> None:
    if value is not None and value <= 0:
        raise ConfigError(f"{what}: {value} is not a positive number")


def _word(what: str, value: str | None, grammar: re.Pattern[str] = _WORD) -> None:
    if value is not None and not grammar.match(value):
        raise ConfigError(f"{what}: {value!r} has characters that it cannot have")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ephemeral:
    """A further disk with a fresh file system."""

    size: int
    format: str | None = None
    """Of the file system; None: ``default_ephemeral_format``, or what ``os_type`` has."""

    def __post_init__(self) -> None:
        _positive("ephemeral: size", self.size)
        _word("ephemeral: format", self.format, _FORMAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network interface."""

    kind: NicKind
    name: str = ""
    """Of the bridge or of libvirt's network; empty for ``user``."""
    mac: str | None = None
    """None: one that is made from the instance's uuid and the interface's number."""
    model: str | None = None
    """None: the image's ``hw_vif_model``, else virtio."""

    def __post_init__(self) -> None:
        if self.kind not in ("bridge", "network", "user"):
            raise ConfigError(f"nic: {self.kind!r} is no kind of interface; there are bridge, network and user")
        if (self.kind == "user") != (not self.name):
            raise ConfigError(f"nic: {self.kind} {'takes no name' if self.kind == 'user' else 'needs a name'}")
        _word("nic: name", self.name or None, _LINK)
        _word("nic: model", self.model)
        _word("nic: mac (six lower-case pairs of hex digits, colons between)", self.mac, _MAC)


@dataclass(frozen=True, slots=True, kw_only=True)
class IoLimits:
    """What each of the instance's disks may do in a second; None is no limit."""

    total_bytes_sec: int | None = None
    read_bytes_sec: int | None = None
    write_bytes_sec: int | None = None
    total_iops_sec: int | None = None
    read_iops_sec: int | None = None
    write_iops_sec: int | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            _positive(f"io_limits: {name}", getattr(self, name))
        for unit in ("bytes", "iops"):
            parts = (getattr(self, f"read_{unit}_sec"), getattr(self, f"write_{unit}_sec"))
            if getattr(self, f"total_{unit}_sec") is not None and any(part is not None for part in parts):
                raise ConfigError(f"io_limits: give total_{unit}_sec, or read and write, not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectedFile:
    """A file that the guest finds on its config drive."""

    path: str
    """In the guest; absolute."""
    content: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or "\0" in self.path or "\n" in self.path or ".." in self.path.split("/"):
            raise ConfigError(f"files: {self.path!r} is no absolute path of a file in the guest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDrive:
    """What the guest is told on a small read-only disk: for cloud-init, and by hand.

    It has the files of OpenStack's config drive and those of cloud-init's NoCloud.
    """

    label: Label = "config-2"
    """Of the file system: guests look for OpenStack's ``config-2``, or for NoCloud's ``cidata``."""
    hostname: str | None = None
    """None: the instance's id."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    public_keys: Mapping[str, str] = field(default_factory=dict)
    """SSH keys by name."""
    user_data: bytes | None = field(default=None, repr=False)
    vendor_data: Mapping[str, Any] | None = None
    network_data: Mapping[str, Any] | None = None
    """As OpenStack's network_data.json has it; None: nothing is told."""
    network_config: Mapping[str, Any] | None = None
    """As cloud-init's network-config has it, which NoCloud reads; None: nothing is told."""

    def __post_init__(self) -> None:
        if self.label not in ("config-2", "cidata"):
            raise ConfigError(f"config_drive: label {self.label!r} is none; there are config-2 and cidata")
        if self.hostname is not None and not _HOST.match(self.hostname):
            raise ConfigError(f"config_drive: hostname {self.hostname!r} is none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A disk that is there already, and stays when the instance goes."""

    source: DiskSource
    boot: bool = False
    """The instance boots from it, and has no root disk."""
    bus: str | None = None
    serial: str | None = None

    def __post_init__(self) -> None:
        _word("volume: bus", self.bus)
        _word("volume: serial", self.serial)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What is asked for of the virtual machine; None: the image's property, else the default of its kind."""

    machine: str | None = None
    """Such as ``pc`` or ``q35``; ``hw_machine_type``."""
    firmware: Firmware | None = None
    """``hw_firmware_type``."""
    cpu_mode: str | None = None
    """Such as ``host-passthrough``; ``[libvirt] cpu_mode``."""
    disk_bus: str | None = None
    """Of root, ephemeral and swap disks: ``hw_disk_bus``."""
    cdrom_bus: str | None = None
    """``hw_cdrom_bus``."""
    scsi_model: str | None = None
    """``hw_scsi_model``."""
    vif_model: str | None = None
    """``hw_vif_model``."""
    disk_prefix: str | None = None
    """Of device names, instead of their bus's: ``[libvirt] disk_prefix``."""
    rng: bool = True
    balloon: bool = True

    def __post_init__(self) -> None:
        if self.firmware not in (None, "bios", "uefi"):
            raise ConfigError(f"hardware: firmware {self.firmware!r} is none; there are bios and uefi")
        for name in ("machine", "cpu_mode", "disk_bus", "cdrom_bus", "scsi_model", "vif_model", "disk_prefix"):
            _word(f"hardware: {name}", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One instance.

    :raises ConfigError: if a value cannot be so; the message begins with its name.
    """

    id: str
    """Its name everywhere: folder, volumes, domain; see :class:`imgbackend.types.DiskId`."""
    image: str | None = None
    """What the root disk is made of, as users write it; None: it boots from a volume."""
    kernel: str | None = None
    """An image to boot directly; None: the image's own ``kernel_id``, if it has one."""
    ramdisk: str | None = None
    cmdline: str | None = None
    """The kernel's; None: the image's ``os_command_line``, else a console on ttyS0."""
    uuid: str = ""
    """Empty: the id where that is a uuid, else one that is made from it, always the same."""
    memory: int = 512 * Mi
    vcpus: int = 1
    root_size: int | None = None
    """None: the image's own."""
    local: Ephemeral | None = None
    """``disk.local``: the one further disk that an OpenStack flavour has."""
    ephemerals: tuple[Ephemeral, ...] = ()
    """``disk.eph0`` and on."""
    swap: int | None = None
    volumes: tuple[Volume, ...] = ()
    config_drive: ConfigDrive | None = None
    files: tuple[InjectedFile, ...] = ()
    """Put on the config drive, which there has to be."""
    admin_password: str | None = field(default=None, repr=False)
    """Told on the config drive, which there has to be; never logged."""
    nics: tuple[Nic, ...] = ()
    boot_order: tuple[str, ...] = ()
    """Names of disks (``disk``, ``disk.config``), the first to be tried first; empty: the root."""
    io_limits: IoLimits = IoLimits()
    hardware: Hardware = Hardware()
    images_type: str | None = None
    """The backend of its disks; None: the configured one."""
    fallback_from_host: str | None = None
    """A host whose base folder has what an image's own source may have no more; None: none."""
    suffix: str = ""
    """Of the names of root, kernel, ramdisk and config drive, such as ``.rescue``."""

    def __post_init__(self) -> None:
        try:
            DiskId(instance=self.id, name=f"disk{self.suffix}")
        except ValueError as exc:
            raise ConfigError(str(exc)) from exc
        _word("suffix", self.suffix or None, _SUFFIX)
        _word("fallback_from_host", self.fallback_from_host, _HOST)
        object.__setattr__(self, "uuid", _uuid_of(self.id, self.uuid))
        for name in ("memory", "vcpus", "root_size", "swap"):
            _positive(name, getattr(self, name))
        if self.memory < _LEAST_MEMORY:  # who writes 2048 thinks of MiB
            raise ConfigError(f"memory: {self.memory} bytes are too few for a guest; for MiB, write {self.memory}M")
        if len(self.ephemerals) > _MOST_EPHEMERALS:
            raise ConfigError(f"ephemerals: {len(self.ephemerals)} are too many; {_MOST_EPHEMERALS} are named at most")
        self._check_root()
        self._check_contents()

    def _check_root(self) -> None:
        booting = [volume for volume in self.volumes if volume.boot]
        if len(booting) > 1:
            raise ConfigError("volumes: an instance boots from one volume at most")
        if (self.image is None) != bool(booting):
            raise ConfigError("image: give one, or a volume to boot from" + ("; not both" if booting else ""))
        if self.ramdisk is not None and self.kernel is None:
            raise ConfigError("ramdisk: needs a kernel; give kernel too")
        for name, value in (("cmdline", self.cmdline), ("admin_password", self.admin_password)):
            if value is not None and ("\0" in value or "\n" in value):
                raise ConfigError(f"{name}: is one line of text")

    def _check_contents(self) -> None:
        if self.config_drive is None and (self.files or self.admin_password is not None):
            what = "files" if self.files else "admin_password"
            raise ConfigError(f"{what}: only a config drive takes them to the guest; ask for one (config_drive)")
        paths = [file.path for file in self.files]
        if len(set(paths)) < len(paths):
            raise ConfigError("files: two have the same path in the guest")

    @property
    def hostname(self) -> str:
        """What the guest is told that it is called."""
        told = self.config_drive.hostname if self.config_drive is not None else None
        return told or self.id


def _uuid_of(instance: str, told: str) -> str:
    try:
        return str(uuid.UUID(told or instance))
    except ValueError:
        if told:
            raise ConfigError(f"uuid: {told!r} is none; it is 32 hex digits") from None
        return str(uuid.uuid5(_NAMESPACE, instance))
