"""Entry points to backends and sources: what is installed, and whose it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from oslo_config import cfg

from imgbackend import errors
from imgbackend.config import options
from imgbackend.driver.contract import Backend
from imgbackend.sources.contract import Source

BACKENDS: Final = "imgbackend.backends"
SOURCES: Final = "imgbackend.sources"


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverInfo:
    """An installed driver."""

    name: str
    distribution: str
    version: str
    target: str
    """``package:Class``, as its entry point names it."""


def drivers(group: str = BACKENDS) -> list[DriverInfo]:
    """What is installed, by name; nothing of it is imported.

    stevedore's entry points come from a cache and do not know their distribution.
    """
    from importlib.metadata import entry_points

    found = [
        DriverInfo(
            name=point.name,
            distribution=point.dist.name if point.dist else "unknown",
            version=point.dist.version if point.dist else "unknown",
            target=point.value,
        )
        for point in entry_points(group=group)
    ]
    return sorted(set(found), key=lambda driver: (driver.name, driver.distribution))


def load_driver(name: str) -> type[Backend]:
    """The class of a driver.

    :raises ConfigError: if none has this name, if two have, or if it cannot be imported.
    """
    found = _load(BACKENDS, name, "driver")
    if not isinstance(found, type) or not issubclass(found, Backend):
        raise errors.ConfigError(f"the driver {name} is no imgbackend.Backend; ask its publisher")
    return found


def load_source(name: str) -> type[Source]:
    """The class of a source.

    :raises ConfigError: as :func:`load_driver`.
    """
    found = _load(SOURCES, name, "source")
    if not isinstance(found, type) or not issubclass(found, Source):
        raise errors.ConfigError(f"the source {name} is no imgbackend.sources.contract.Source; ask its publisher")
    return found


def _load(group: str, name: str, kind: str) -> Any:
    from stevedore import driver, exception

    if all(found.name != name for found in drivers(group)):  # stevedore would log it, or warn that this is deprecated
        raise errors.ConfigError(_unknown(group, name, kind))
    try:
        made: Any = driver.DriverManager(group, name, on_load_failure_callback=_raise)
    except exception.MultipleMatches as exc:
        whose = " and ".join(sorted({found.distribution for found in drivers(group) if found.name == name}))
        raise errors.ConfigError(f"{whose} both bring a {kind} named {name}; uninstall one of them") from exc
    except exception.NoMatches as exc:
        raise errors.ConfigError(_unknown(group, name, kind)) from exc
    except ImportError as exc:
        raise errors.ConfigError(f"the {kind} {name} cannot be imported: {exc}; install what it needs") from exc
    return made.driver


def _raise(_manager: Any, _entry_point: Any, exc: BaseException) -> None:
    raise exc


def _unknown(group: str, name: str, kind: str) -> str:
    known = ", ".join(sorted({found.name for found in drivers(group)})) or "none"
    hint = f"; a package imgbackend-{name} may bring it" if kind == "driver" and name.isidentifier() else ""
    return f"there is no {kind} {name}; installed are: {known}{hint}"


def list_opts() -> list[tuple[str, Sequence[cfg.Opt]]]:
    """For oslo-config-generator: the engine's options, and those of all installed plugins.

    A driver's are shown in a section of the driver's own name.
    """
    found: dict[str, list[cfg.Opt]] = {group: list(opts) for group, opts in options.GROUPS.items()}
    for name in dict.fromkeys(driver.name for driver in drivers()):
        found[name] = [*options.backend_opts(name, name, load_driver(name).opts)]
    for kind in dict.fromkeys(load_source(source.name) for source in drivers(SOURCES)):
        known = found.setdefault(kind.group, [])
        known += [opt for opt in kind.opts if opt.name not in {other.name for other in known}]
    return list(found.items())
