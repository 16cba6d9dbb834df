"""``imgbackend cache hosts``: who shares the cache."""

import argparse
from collections.abc import Sequence
from typing import Any

from imgbackend.cli.base import Lister
from imgbackend.cli.figures import Time


class Hosts(Lister):
    """List the hosts that share the base folder, and when each made its last pass."""

    columns = ("host", "last_pass", "alive", "here")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--forget",
            metavar="HOST",
            action="append",
            default=[],
            help="take a host off the list that is no more; its disks in instances_path count all the same",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """List them."""
        with self.engine() as engine:
            for name in parsed_args.forget:
                engine.cache.forget_host(name)
            found = engine.cache.hosts()
        return self.columns, [(each.name, Time(each.last_pass), each.alive, each.here) for each in found]
