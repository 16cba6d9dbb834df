"""From a spec to disks: which are made of what, on which backend.  Nothing is made here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from imgbackend import errors
from imgbackend.disks import image_refs
from imgbackend.driver.abilities import Importable
from imgbackend.driver.contract import Disk
from imgbackend.guest import fresh_disks
from imgbackend.guest.config_drive import ConfigDriveImage
from imgbackend.guest.devices import Device, Machine, lay_out
from imgbackend.guest.settings import GuestSettings
from imgbackend.guest.spec import Ephemeral, InstanceSpec
from imgbackend.sources.contract import Image
from imgbackend.types import FetchFunc, Plan

if TYPE_CHECKING:
    from imgbackend.engine import Engine

_FILES: Final = "raw"
"""The backend of what is a file whatever the others are: kernel, ramdisk, config drive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """One disk that is to be there, and how it comes to be."""

    disk: Disk[Any]
    template: FetchFunc
    filename: str
    size: int | None
    imported: bool = False
    """It is made as a file, and given to the disk's storage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All of an instance that can be told before anything is made."""

    spec: InstanceSpec
    machine: Machine
    properties: Mapping[str, str]
    """The image's."""
    devices: tuple[Device, ...]
    makings: tuple[Making, ...]
    """Kernel and ramdisk, if any, first."""

    def disk(self, name: str) -> Disk[Any] | None:
        """The disk of that name, if the instance has it."""
        return next((making.disk for making in self.makings if making.disk.id.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a spawn would do for one disk."""

    name: str
    backend: str
    plan: Plan | None
    """None: the disk exists."""


def explained(layout: Layout) -> list[Planned]:
    """What a spawn would do for each disk of an instance, without doing it."""
    found = []
    for making in layout.makings:
        name, backend = making.disk.id.name, making.disk.backend.name
        if making.imported:
            plan = None if making.disk.exists() else Plan(way="import", reason="it is made as a file first")
        else:
            plan = making.disk.explain(making.template, making.filename, making.size)
        found.append(Planned(name=name, backend=backend, plan=plan))
    return found


def layout_of(engine: "Engine", settings: GuestSettings, spec: InstanceSpec) -> Layout:
    """The disks of an instance; its images are asked for, and nothing is fetched.

    :raises SourceError: if an image cannot be had.
    :raises ConfigError: if something cannot be so.
    :raises DiskError: if a disk is on record as another backend's.
    """
    spec = settings.completed(spec)
    image = image_of(engine, spec, spec.image, f"disk{spec.suffix}") if spec.image is not None else None
    properties = dict(image.properties) if image is not None else {}
    iso = image is not None and image.declared.format == "iso"
    machine = settings.machine(spec.hardware.machine or properties.get("hw_machine_type"), root_is_iso=iso)
    devices = lay_out(spec, properties, machine)
    found = _Disks(engine, settings, spec, properties)
    makings = [*found.boot_files(image), *(found.of(device, image) for device in devices if _is_made(device))]
    return Layout(spec=spec, machine=machine, properties=properties, devices=devices, makings=tuple(makings))


def image_of(engine: "Engine", spec: InstanceSpec, ref: str, disk: str) -> Image:
    """An image of an instance; its id may be known only by the record of the disk that was made of it."""
    if spec.fallback_from_host is None:
        return engine.image(ref)
    record = engine.host.records.all(spec.id).get(disk)
    known = record.image_id if record is not None else None
    return engine.image(ref, fallback_from_host=spec.fallback_from_host, image_id=known)


def _is_made(device: Device) -> bool:
    return not device.name.startswith("volume")


class _Disks:
    """How each disk of one instance is made."""

    def __init__(
        self, engine: "Engine", settings: GuestSettings, spec: InstanceSpec, properties: Mapping[str, str]
    ) -> None:
        self._engine, self._settings, self._spec, self._properties = engine, settings, spec, properties

    def boot_files(self, image: Image | None) -> list[Making]:
        """Kernel and ramdisk: the spec's, else those that the image names in its own source."""
        spec, found = self._spec, []
        own = (image.kernel_id, image.ramdisk_id) if image is not None and spec.kernel is None else (None, None)
        for name, told, beside in zip(("kernel", "ramdisk"), (spec.kernel, spec.ramdisk), own, strict=True):
            ref = told if told is not None else self._beside(beside)
            if ref is not None:
                file = image_of(self._engine, spec, ref, f"{name}{spec.suffix}").as_boot_file()
                disk = self._engine.disk(spec.id, f"{name}{spec.suffix}", _FILES)
                found.append(Making(disk=disk, template=file, filename=file.filename, size=None))
        return found

    def _beside(self, image_id: str | None) -> str | None:
        if image_id is None or self._spec.image is None:
            return None
        return image_refs.beside(self._spec.image, image_id, self._engine.conf.sources.default)

    def of(self, device: Device, image: Image | None) -> Making:
        """A disk that is attached."""
        makers: dict[str, Callable[[], Making]] = {
            "disk.local": lambda: self._ephemeral("disk.local", 0, self._spec.local),
            "disk.swap": self._swap,
            f"disk.config{self._spec.suffix}": self._config_drive,
        }
        if device.name in makers:
            return makers[device.name]()
        if device.name.startswith("disk.eph"):
            number = int(device.name.removeprefix("disk.eph"))
            return self._ephemeral(device.name, number, self._spec.ephemerals[number])
        if image is None:
            raise errors.ConfigError(f"{device.name}: there is no image to make it of")
        size = self._spec.root_size
        return Making(disk=self._disk(device.name), template=image, filename=image.filename, size=size)

    def _disk(self, name: str, images_type: str | None = None) -> Disk[Any]:
        return self._engine.disk(self._spec.id, name, images_type or self._spec.images_type)

    def _ephemeral(self, name: str, number: int, told: Ephemeral | None) -> Making:
        if told is None:
            raise errors.ConfigError(f"{name}: there is no size for it")
        template = fresh_disks.ephemeral(
            self._engine.host,
            told.size,
            number,
            told.format or self._settings.ephemeral_format,
            os_type=self._properties.get("os_type"),
            commands=self._settings.mkfs,
        )
        return Making(disk=self._disk(name), template=template, filename=template.filename, size=told.size)

    def _swap(self) -> Making:
        size = self._spec.swap
        if size is None:
            raise errors.ConfigError("disk.swap: there is no size for it")
        template = fresh_disks.swap(self._engine.host, size)
        return Making(disk=self._disk("disk.swap"), template=template, filename=template.filename, size=size)

    def _config_drive(self) -> Making:
        """A file, for it is secret; but where all hosts reach the instance's disks, with them."""
        spec = self._spec
        if spec.config_drive is None:
            raise errors.ConfigError("disk.config: there is nothing to tell the guest")
        name = f"disk.config{spec.suffix}"
        backend = self._engine.backend(spec.images_type)
        imported = backend.traits.shared and issubclass(backend.disk_type, Importable)
        disk = self._disk(name, None if imported else _FILES)
        template = ConfigDriveImage(spec, spec.config_drive)
        return Making(disk=disk, template=template, filename="", size=None, imported=imported)
