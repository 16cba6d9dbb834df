"""clouds.yaml: where OpenStack's tools keep how a cloud is reached.

Read as OpenStack's own tools read it: the first of ``$OS_CLIENT_CONFIG_FILE``,
``./clouds.yaml``, ``~/.config/openstack`` and ``/etc/openstack`` counts, and a
``secure.yaml`` found in the same way is laid over it.  Profiles of vendors are not known.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgbackend.errors import ConfigError

_SUFFIXES = ("yaml", "yml", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """One entry of clouds.yaml, as far as an image service needs it."""

    name: str
    auth_type: str
    auth: Mapping[str, Any] = field(repr=False)
    """Options of the keystoneauth plugin, by name."""
    region_name: str | None = None
    interfaces: tuple[str, ...] = ("public",)
    endpoint: str | None = None
    """``image_endpoint_override``."""
    verify: bool = True
    cacert: str | None = None
    cert: str | None = None
    key: str | None = None


def read(name: str) -> Cloud:
    """The cloud of this name.

    :raises ConfigError: if there is none, or its entry cannot be used.
    """
    file, entry = _entry(name)
    if "profile" in entry or "cloud" in entry:
        raise ConfigError(f"cloud {name!r} in {file} takes settings from a vendor's profile; write them into its entry")
    auth = entry.get("auth", {})
    if not isinstance(auth, dict):
        raise ConfigError(f"cloud {name!r} in {file}: auth is no mapping")
    told = entry.get("interface", entry.get("endpoint_type", "public"))
    return Cloud(
        name=name,
        auth_type=str(entry.get("auth_type") or "password"),
        auth={str(key).replace("-", "_"): value for key, value in auth.items()},
        region_name=_text(entry, "region_name"),
        interfaces=tuple(map(str, told)) if isinstance(told, list) else (str(told).removesuffix("URL"),),
        endpoint=_text(entry, "image_endpoint_override"),
        verify=entry.get("verify", True) is not False,
        cacert=_text(entry, "cacert"),
        cert=_text(entry, "cert"),
        key=_text(entry, "key"),
    )


def _text(entry: Mapping[str, Any], name: str) -> str | None:
    value = entry.get(name)
    return None if value is None else os.path.expanduser(str(value))


def _entry(name: str) -> tuple[Path, dict[str, Any]]:
    file = next(_places("clouds", "OS_CLIENT_CONFIG_FILE"), None)
    if file is None:
        raise ConfigError(f"there is no clouds.yaml that cloud {name!r} could be read from; see [glance] cloud")
    clouds = _clouds(file)
    if name not in clouds:
        known = ", ".join(sorted(clouds)) or "none"
        raise ConfigError(f"no cloud {name!r} in {file}; it has: {known}")
    secure = next(_places("secure", "OS_CLIENT_SECURE_FILE"), None)
    return file, _laid_over(clouds[name], _clouds(secure).get(name, {}) if secure else {})


def _places(stem: str, variable: str) -> Iterator[Path]:
    told = os.environ.get(variable)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))
    folders = (Path(), home / "openstack", Path("/etc/openstack"))
    files = [Path(told)] if told else [folder / f"{stem}.{suffix}" for folder in folders for suffix in _SUFFIXES]
    return (file for file in files if file.is_file())


def _clouds(file: Path) -> dict[str, dict[str, Any]]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(f"{file} cannot be read: {str(exc).splitlines()[0]}") from exc
    clouds = (content or {}).get("clouds") if isinstance(content or {}, dict) else None
    if not isinstance(clouds, dict) or not all(isinstance(entry, dict) for entry in clouds.values()):
        raise ConfigError(f"{file} has no mapping 'clouds' of mappings")
    return clouds


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    made = dict(below)
    for key, value in above.items():
        old = made.get(key)
        made[key] = _laid_over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return made
