"""``imgbackend cache``: the base images that disks are made from."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imgbackend.cli.base import Lister, ShowOne, UsageError, pick, row
from imgbackend.cli.figures import Listed, Size, Time
from imgbackend.errors import ConfigError

if TYPE_CHECKING:
    from imgbackend.bases import BaseEntry
    from imgbackend.engine import Engine

_SHORTEST = 6


def _facts(base: "BaseEntry", users: Sequence[str]) -> dict[str, Any]:
    manifest = base.manifest
    return {
        "name": base.name,
        "image_id": manifest.image_id if manifest is not None else None,
        "source": manifest.source if manifest is not None else None,
        "format": manifest.format if manifest is not None else None,
        "virtual_size": Size(manifest.virtual_size) if manifest is not None else None,
        "cluster_size": manifest.cluster_size if manifest is not None else None,
        "digest": manifest.digest if manifest is not None else None,
        "size": Size(base.size),
        "allocated": Size(base.allocated),
        "last_used": Time(base.last_used),
        "users": len(users),
        "disks": Listed(list(users)),
        "path": str(base.path),
    }


class List(Lister):
    """List the base images that disks are made from."""

    columns = ("name", "image_id", "source", "format", "virtual_size", "size", "allocated", "last_used", "users")

    def take_action(self, _parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """List them."""
        with self.engine() as engine:
            users = engine.users()
            found = [row(self.columns, _facts(base, users.get(base.name, []))) for base in engine.bases()]
            return self.columns, found


class Show(ShowOne):
    """Show a base image, and the disks that hang on it."""

    columns = (
        *("name", "image_id", "source", "format", "virtual_size", "cluster_size", "digest"),
        *("size", "allocated", "last_used", "disks", "path"),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "base", metavar="NAME", help=f"its name, its first {_SHORTEST} digits or more, or the image's id"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Show it."""
        with self.engine() as engine:
            base = _named(engine, parsed_args.base)
            return pick(self.columns, _facts(base, engine.users().get(base.name, [])))


def _named(engine: "Engine", word: str) -> "BaseEntry":
    bases = list(engine.bases())
    for base in bases:
        if base.name == word or (base.manifest is not None and base.manifest.image_id == word):
            return base
    found = [base for base in bases if len(word) >= _SHORTEST and base.name.startswith(word)]
    if len(found) > 1:
        raise UsageError(f"{word} is the beginning of {len(found)} names; write more of it")
    if not found:
        raise ConfigError(f"there is no base {word}; imgbackend cache list shows those there are")
    return found[0]


class Usage(ShowOne):
    """Show how much room the base images take."""

    columns = ("folder", "bases", "in_use", "unused", "size", "allocated", "allocated_unused", "total", "free")

    def take_action(self, _parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Add up."""
        from imgbackend.cli.places import room

        with self.engine() as engine:
            bases, users = list(engine.bases()), engine.users()
            folder = engine.host.bases
        unused = [base for base in bases if not users.get(base.name)]
        capacity = room(folder)
        facts = {
            "folder": str(folder),
            "bases": len(bases),
            "in_use": len(bases) - len(unused),
            "unused": len(unused),
            "size": Size(sum(base.size for base in bases)),
            "allocated": Size(sum(base.allocated for base in bases)),
            "allocated_unused": Size(sum(base.allocated for base in unused)),
            "total": Size(capacity.total),
            "free": Size(capacity.free),
        }
        return pick(self.columns, facts)
