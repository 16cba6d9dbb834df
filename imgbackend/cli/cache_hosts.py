"""``imgbackend cache hosts``: who shares the cache, and with which version."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imgbackend.cli.base import Lister
from imgbackend.cli.figures import Time
from imgbackend.errors import InstanceNotFound

if TYPE_CHECKING:
    from imgbackend.cache.sharing_hosts import SeenHost


class Hosts(Lister):
    """List the hosts that share the base folder, when each made its last pass, and with which version.

    A host with an older version takes no notice of whose an instance is: see what doctor says.
    """

    columns = ("host", "last_pass", "alive", "here", "version")

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
        return self.columns, [
            (each.name, Time(each.last_pass), each.alive, each.here, _version(each)) for each in found
        ]


def _version(host: "SeenHost") -> str:
    return host.made_by if host.format is None else f"format {host.format}"


class TakeOver(Lister):
    """Make all instances of a host that is no more, or has another name now, this host's.

    It must use none of them any more: a disk that is open is left to it.  Calling again goes on.
    """

    columns = ("instance", "taken_over", "reason")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("host", metavar="HOST", help="the name of that host, as its option host was")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Take them over."""
        with self.engine() as engine, self.progress() as progress:
            done = engine.instances.take_over_host(parsed_args.host, progress=progress)
            if not done and parsed_args.host not in {each.name for each in engine.cache.hosts()}:
                raise InstanceNotFound(f"nothing is noted as {parsed_args.host!r}'s: see imgbackend cache hosts")
        self.status = int(any(each.reason for each in done))
        return self.columns, [(each.instance, not each.reason, each.reason) for each in done]
