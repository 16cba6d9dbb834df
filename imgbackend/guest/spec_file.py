"""A spec as a file: JSON or YAML, read into an :class:`~imgbackend.guest.spec.InstanceSpec`.

The keys are the fields of the classes in :mod:`imgbackend.guest.spec`.  Sizes are bytes, or
a number with K, M, G or T, which are binary.  Bytes (``user_data``, ``content``) are text,
or the name of a file to read, as ``{file: PATH}``, below the folder of the spec.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from imgbackend.errors import ConfigError
from imgbackend.guest import spec as parts
from imgbackend.guest.spec import InstanceSpec
from imgbackend.sizes import parse_size
from imgbackend.types import BlockSource, DiskSource, FileSource, Mi, NetworkSource

_MOST: Final = 16 * Mi
"""Bytes of a spec, and of a file that it names."""

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Read = Callable[[Any, str], Any]


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> InstanceSpec:
    """The spec in a file; ``overrides`` are fields that take the place of the file's.

    Where one is a mapping, and the file's is too, its keys take the place of those alone.

    :raises ConfigError: if the file cannot be read, is neither JSON nor YAML, or says what
        cannot be so; the error names the key.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MOST + 1)
    except OSError as exc:
        raise ConfigError(f"cannot read {path}: {exc.strerror}") from exc
    if len(text) > _MOST:
        raise ConfigError(f"{path} is larger than {_MOST} bytes; it is no spec of an instance")
    return parse(_overridden(_keys(_loaded(text, path), str(path)), overrides or {}), path.parent)


def parse(told: Mapping[str, Any], folder: Path = Path()) -> InstanceSpec:
    """The spec that a mapping describes; files that it names are below ``folder``.

    :raises ConfigError: if a key is unknown, or a value cannot be so.
    """
    return _Reader(folder).structure(InstanceSpec, told, "")


def _size(told: Any, where: str) -> int:
    """As people write it: ``20G``, ``512M``, or bytes."""
    if isinstance(told, int) and not isinstance(told, bool):
        return told
    try:
        return parse_size(_text(told, where))
    except ValueError as exc:
        raise ConfigError(f"{where}: {exc}") from exc


def _loaded(text: bytes, path: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        if path.suffix == ".json":
            raise ConfigError(f"{path} is no JSON: {exc}") from exc
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(exc).split())}") from exc


def _overridden(told: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    both = {name: (told.get(name), value) for name, value in overrides.items()}
    parts = {
        name: {**old, **new} if isinstance(old, Mapping) and isinstance(new, Mapping) else new
        for name, (old, new) in both.items()
    }
    return {**told, **parts}


def _keys(told: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(told, Mapping) or not all(isinstance(key, str) for key in told):
        raise ConfigError(f"{where}: names with values are wanted here, not {_shown(told)}")
    return told


def _shown(told: Any) -> str:
    if isinstance(told, Mapping):
        return "names with values"
    return "a list" if isinstance(told, list) else repr(told)


class _Reader:
    """Turns what a file says into the classes of a spec."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        one: dict[str, Read] = {
            "local": self._of(parts.Ephemeral),
            "config_drive": self._of(parts.ConfigDrive),
            "io_limits": self._of(parts.IoLimits),
            "hardware": self._of(parts.Hardware),
            "source": self._source,
        }
        many = {
            "ephemerals": self._of(parts.Ephemeral),
            "volumes": self._of(parts.Volume),
            "files": self._of(parts.InjectedFile),
            "nics": self._of(parts.Nic),
            "boot_order": _text,
        }
        sizes = ("memory", "root_size", "swap", "size", "total_bytes_sec", "read_bytes_sec", "write_bytes_sec")
        numbers = ("vcpus", "total_iops_sec", "read_iops_sec", "write_iops_sec")
        self._readers: dict[str, Read] = {
            **one,
            **{name: _several(reader) for name, reader in many.items()},
            **dict.fromkeys(sizes, _size),
            **dict.fromkeys(numbers, _number),
            **dict.fromkeys(("rng", "balloon", "boot"), _truth),
            **dict.fromkeys(("user_data", "content"), self._bytes),
            **dict.fromkeys(("metadata", "public_keys"), _texts),
            "admin_password": _secret,
            **dict.fromkeys(("vendor_data", "network_data", "network_config"), _keys),
        }

    def structure(self, kind: type[T], told: Any, where: str) -> T:
        """An object of a class of the spec, from what is told of it."""
        at = f"{where}: " if where else ""
        keys, names = _keys(told, where or "a spec"), [field.name for field in dataclasses.fields(kind)]
        unknown = sorted(set(keys) - set(names))
        if unknown:
            raise ConfigError(f"{at}there is no {unknown[0]}; there are {', '.join(names)}")
        values = {
            name: self._reader(name)(value, f"{where}.{name}".lstrip("."))
            for name, value in keys.items()
            if value is not None
        }
        make: Callable[..., T] = kind
        try:
            return make(**values)
        except TypeError as exc:
            needed = [name for name in names if name not in values and f"'{name}'" in str(exc)]
            raise ConfigError(f"{at}{', '.join(needed) or exc} is missing") from exc

    def _reader(self, name: str) -> Read:
        return self._readers.get(name, _text)

    def _of(self, kind: type[T]) -> Callable[[Any, str], T]:
        return lambda told, where: self.structure(kind, told, where)

    def _bytes(self, told: Any, where: str) -> bytes:
        if isinstance(told, str):
            return told.encode()
        name = _keys(told, where).get("file")
        if not isinstance(name, str) or len(told) != 1:
            raise ConfigError(f"{where}: give text, or {{file: PATH}}")
        try:
            with (self._folder / name).open("rb") as file:
                found = file.read(_MOST + 1)
        except OSError as exc:
            raise ConfigError(f"{where}: cannot read {self._folder / name}: {exc.strerror}") from exc
        if len(found) > _MOST:
            raise ConfigError(f"{where}: {name} is larger than {_MOST} bytes")
        return found

    def _source(self, told: Any, where: str) -> DiskSource:
        """A volume: ``{file: PATH, format: qcow2}``, ``{block: PATH}`` or ``{rbd: POOL/IMAGE, ...}``."""
        keys = {name: _text(value, f"{where}.{name}") for name, value in _keys(told, where).items()}
        kinds: dict[str, tuple[str, ...]] = {
            "file": ("format",),
            "block": (),
            "rbd": ("user", "secret_uuid", "conf"),
        }
        found = [kind for kind in kinds if kind in keys]
        if len(found) != 1 or set(keys) - {found[0], *kinds[found[0]]}:
            raise ConfigError(f"{where}: give file and format, block, or rbd with user, secret_uuid and conf")
        kind = found[0]
        if kind == "file":
            if "format" not in keys:
                raise ConfigError(f"{where}: format is missing; it is never guessed from the bytes")
            return FileSource(path=Path(keys["file"]), format=keys["format"])
        if kind == "block":
            return BlockSource(path=Path(keys["block"]))
        return NetworkSource(
            protocol="rbd",
            name=keys["rbd"],
            user=keys.get("user"),
            secret_uuid=keys.get("secret_uuid"),
            conf=keys.get("conf"),
        )


def _several(reader: Read) -> Read:
    def read(told: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(told, Sequence) or isinstance(told, str):
            raise ConfigError(f"{where}: a list is wanted here, not {_shown(told)}")
        return tuple(reader(each, f"{where}[{number}]") for number, each in enumerate(told))

    return read


def _text(told: Any, where: str) -> str:
    if not isinstance(told, str):
        raise ConfigError(f"{where}: text is wanted here, not {_shown(told)}; put it in quotes")
    return told


def _secret(told: Any, where: str) -> str:
    """Text that no error shows."""
    if not isinstance(told, str):
        raise ConfigError(f"{where}: text is wanted here; put it in quotes")
    return told


def _texts(told: Any, where: str) -> dict[str, str]:
    return {name: _text(value, f"{where}.{name}") for name, value in _keys(told, where).items()}


def _number(told: Any, where: str) -> int:
    if not isinstance(told, int) or isinstance(told, bool):
        raise ConfigError(f"{where}: a whole number is wanted here, not {_shown(told)}")
    return told


def _truth(told: Any, where: str) -> bool:
    if not isinstance(told, bool):
        raise ConfigError(f"{where}: true or false is wanted here, not {_shown(told)}")
    return told
