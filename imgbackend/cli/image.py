"""``imgbackend image``: what the sources offer."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from imgbackend.cli.base import Lister, ShowOne, pick
from imgbackend.cli.figures import Facts, Listed, Size, size_or_none
from imgbackend.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from imgbackend.engine import Engine
    from imgbackend.sources.contract import Image

LOG = logging.getLogger(__name__)


class List(Lister):
    """List the images that the sources offer."""

    columns = ("source", "id", "name", "format", "size", "virtual_size")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--source", metavar="NAME", help="ask only this one (default: all that can be listed)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """List; a source that fails is told on stderr, and the status is 1."""
        with self.engine() as engine:
            if parsed_args.source is not None:
                return self.columns, list(_rows(parsed_args.source, engine))
            found: list[Sequence[Any]] = []
            for name in engine.source_names():
                try:
                    found += _rows(name, engine)
                except ConfigError as exc:
                    LOG.info("%s is left out: %s", name, exc)
                except SourceError as exc:
                    LOG.warning("%s: %s", name, exc)
                    self.status = 1
            return self.columns, found


def _rows(name: str, engine: "Engine") -> Iterator[Sequence[Any]]:
    for image in engine.source(name).images():
        declared = image.declared
        size, virtual = size_or_none(declared.size), size_or_none(declared.virtual_size)
        yield name, image.id, image.name, declared.format, size, virtual


class Show(ShowOne):
    """Show what a source says of an image."""

    columns = (
        *("id", "name", "source", "format", "size", "virtual_size", "min_disk", "digests", "locations"),
        *("kernel_id", "ramdisk_id", "properties", "base", "cached"),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="glance:<id or name>, a URL, a path, or a name")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Ask, and show."""
        with self.engine() as engine:
            image = engine.image(parsed_args.ref)
            cached = any(base.name == image.filename for base in engine.bases())
            return pick(self.columns, _declared(image) | {"base": image.filename, "cached": cached})


def _declared(image: "Image") -> dict[str, Any]:
    declared = image.declared
    return {
        "id": image.id,
        "name": image.name,
        "source": declared.source,
        "format": declared.format,
        "size": size_or_none(declared.size),
        "virtual_size": size_or_none(declared.virtual_size),
        "min_disk": Size(declared.min_disk),
        "digests": Facts(dict(declared.digests)),
        "locations": Listed([place.url for place in declared.locations]),
        "kernel_id": image.kernel_id,
        "ramdisk_id": image.ramdisk_id,
        "properties": Facts(dict(image.properties)),
    }
