"""``imgbackend cache leftovers``: what killed calls left behind."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imgbackend.cli.base import Lister, row
from imgbackend.cli.cache import warn
from imgbackend.cli.figures import Size, Time, human_size

if TYPE_CHECKING:
    from imgbackend.cache.garbage.collect import Leftover


class Leftovers(Lister):
    """List what killed calls left behind, or remove it.

    Both in folders and in the stores of backends. Only what is dead is removed: its lock is free, and the process
    that made it is gone, or, where that was not noted, nothing changed it for [image_cache] lease_seconds. What has
    no name of ours is not listed.
    """

    columns = ("store", "kind", "name", "size", "changed", "state", "reason")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--remove", action="store_true", help="remove what is dead")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """List; the status is 1 where something could not be looked at, or removed."""
        with self.engine() as engine, self.cancellable(lambda: "each leftover is there, or removed"):
            found = engine.cache.leftovers(remove=parsed_args.remove)
        warn([*found.faults, *found.unknown])
        self.status = int(bool(found.faults or found.unknown))
        dead = [each for each in found.leftovers if each.dead]
        if not self.app.options.quiet:
            size, verb = human_size(sum(each.size for each in dead)), "removed" if parsed_args.remove else "dead"
            self.app.stderr.write(f"imgbackend: {len(dead)} of {len(found.leftovers)} leftovers are {verb}: {size}\n")
        return self.columns, [row(self.columns, facts(each)) for each in found.leftovers]


def facts(left: "Leftover") -> dict[str, Any]:
    """The cells of a leftover."""
    return {
        "store": left.store or "local",
        "kind": left.kind,
        "name": left.name,
        "size": Size(left.size),
        "changed": Time(left.time) if left.time else None,
        "state": "removed" if left.removed else "dead" if left.dead else "kept",
        "reason": left.reason,
    }
