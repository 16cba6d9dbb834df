"""``imgbackend backend``: configured stores and installed drivers."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from imgbackend.cli.base import Lister, ShowOne, pick, row
from imgbackend.cli.figures import Facts, Listed, Size
from imgbackend.errors import ConfigError, Error

if TYPE_CHECKING:
    from oslo_config import cfg

    from imgbackend.driver.contract import Backend
    from imgbackend.engine import Engine


def _package(driver: str) -> str | None:
    """The distribution that a driver comes with, and its version."""
    from imgbackend.config import plugins

    found = [info for info in plugins.drivers() if info.name == driver]
    return ", ".join(f"{info.distribution} {info.version}" for info in found) or None


def _facts(name: str, driver: str, kind: "type[Backend] | None", state: str) -> dict[str, Any]:
    """What can be told of a backend without opening it; ``kind`` None: its driver cannot be imported."""
    from imgbackend.driver.abilities import abilities

    able = [*abilities(kind.disk_type), *abilities(kind)] if kind else []
    traits = asdict(kind.traits) if kind else {}
    return {
        "name": name,
        "driver": driver,
        "package": _package(driver),
        "abilities": Listed(able),
        "traits": Facts(traits),
        "state": state,
        "total": None,
        "free": None,
        "options": Facts({}),
    }


def _seen(engine: "Engine", name: str) -> dict[str, Any]:
    """A backend that works; or the same of its driver, with the reason why it does not.

    :raises ConfigError: if there is no such driver.
    """
    from imgbackend.config import plugins

    try:
        backend = engine.backend(name)
        capacity = backend.capacity()
    except Error as exc:
        driver = engine.driver_of(name)
        if driver not in {info.name for info in plugins.drivers()}:
            raise
        return _facts(name, driver, _class_of(engine, name), str(exc))
    kind = type(backend)
    return _facts(backend.name, backend.driver, kind, "works") | {
        "total": Size(capacity.total),
        "free": Size(capacity.free),
        "traits": Facts(asdict(backend.traits)),
        "options": Facts(shown_options(backend.conf, kind.opts)),
    }


def _class_of(engine: "Engine", name: str) -> "type[Backend] | None":
    try:
        return engine.backend_class(name)
    except ConfigError:
        return None  # the reason was told where it was to be opened


class List(Lister):
    """List backends and installed drivers, and whether they work on this host."""

    columns = ("name", "driver", "package", "abilities", "state")

    def take_action(self, _parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Open each, and list it."""
        with self.engine() as engine:
            return self.columns, list(self._rows(engine))

    def _rows(self, engine: "Engine") -> Iterator[Sequence[Any]]:
        from imgbackend.config import plugins

        names = engine.backend_names()
        for name in (*names, *(info.name for info in plugins.drivers() if info.name not in names)):
            yield row(self.columns, self._told(engine, name))

    @staticmethod
    def _told(engine: "Engine", name: str) -> dict[str, Any]:
        try:
            return _seen(engine, name)
        except Error as exc:
            return _facts(name, engine.driver_of(name), None, str(exc))


class Show(ShowOne):
    """Show a backend: what it can do, whose it is, and whether it works on this host, or why not."""

    columns = ("name", "driver", "package", "abilities", "state", "traits", "total", "free", "options")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="a section of the configuration, or a driver")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Open it, and show it; where it does not open, what its driver is and why."""
        with self.engine() as engine:
            return pick(self.columns, _seen(engine, parsed_args.name))


def shown_options(values: Any, opts: "Sequence[cfg.Opt]") -> dict[str, Any]:
    """The values of options in their section; a secret's is not shown, but whether there is one."""
    found = {opt.dest: values[opt.dest] for opt in opts}
    return found | {opt.dest: "****" for opt in opts if opt.secret and found[opt.dest] is not None}
