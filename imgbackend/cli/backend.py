"""``imgbackend backend``: configured stores and installed drivers."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from imgbackend.cli.base import Lister, ShowOne, pick, row
from imgbackend.cli.figures import Facts, Listed, Size
from imgbackend.errors import Error

if TYPE_CHECKING:
    from oslo_config import cfg

    from imgbackend.backend import Backend
    from imgbackend.engine import Engine


def _package(driver: str) -> str | None:
    """The distribution that a driver comes with, and its version."""
    from imgbackend import loader

    found = [info for info in loader.drivers() if info.name == driver]
    return ", ".join(f"{info.distribution} {info.version}" for info in found) or None


def _facts(backend: "Backend") -> dict[str, Any]:
    from imgbackend.abilities import abilities

    return {
        "name": backend.name,
        "driver": backend.driver,
        "package": _package(backend.driver),
        "abilities": Listed([*abilities(type(backend).disk_type), *abilities(type(backend))]),
        "state": "works",
    }


class List(Lister):
    """List backends and installed drivers, and whether they work on this host."""

    columns = ("name", "driver", "package", "abilities", "state")

    def take_action(self, _parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Open each, and list it."""
        with self.engine() as engine:
            return self.columns, list(self._rows(engine))

    def _rows(self, engine: "Engine") -> Iterator[Sequence[Any]]:
        from imgbackend import loader

        names = engine.backend_names()
        for name in (*names, *(info.name for info in loader.drivers() if info.name not in names)):
            try:
                facts = _facts(engine.backend(name))
            except Error as exc:
                driver = engine.driver_of(name)
                facts = {"name": name, "driver": driver, "package": _package(driver), "abilities": Listed([])}
                facts["state"] = str(exc)
            yield row(self.columns, facts)


class Show(ShowOne):
    """Show a backend: what it can do, its capacity and its options."""

    columns = ("name", "driver", "package", "abilities", "state", "traits", "total", "free", "options")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("name", metavar="NAME", help="a section of the configuration, or a driver")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Open it, and show it."""
        with self.engine() as engine:
            backend = engine.backend(parsed_args.name)
            capacity = backend.capacity()
            more = {
                "traits": Facts(asdict(type(backend).traits)),
                "total": Size(capacity.total),
                "free": Size(capacity.free),
                "options": Facts(shown_options(backend.conf, type(backend).opts)),
            }
            return pick(self.columns, _facts(backend) | more)


def shown_options(values: Any, opts: "Sequence[cfg.Opt]") -> dict[str, Any]:
    """The values of options in their section; a secret's is not shown, but whether there is one."""
    found = {opt.dest: values[opt.dest] for opt in opts}
    return found | {opt.dest: "****" for opt in opts if opt.secret and found[opt.dest] is not None}
