"""``imgbackend instance``: start, stop, reboot, destroy, and the console."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

from imgbackend.cli.base import ShowOne, pick
from imgbackend.cli.figures import Listed
from imgbackend.cli.instance import OfInstances, add_instance, add_take_over
from imgbackend.errors import Error


class _OfOne(OfInstances, ShowOne):
    """About one instance."""

    columns: ClassVar[Sequence[str]] = ("instance", "uuid", "state")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_instance(parser)
        return parser

    def _facts(self, instances: Any, name: str) -> dict[str, Any]:
        found = instances.show(name)
        return {"instance": found.id, "uuid": found.uuid, "state": str(found.state or "no domain")}


class Start(_OfOne):
    """Start an instance that is off; one that runs is no error."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_take_over(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Start it."""
        name = parsed_args.instance
        with self.instances() as (_, instances):
            with self.cancellable(lambda: _state(instances, name)), self.progress() as progress:
                instances.start(name, progress=progress, take_over=parsed_args.take_over)
            return pick(self.columns, self._facts(instances, name))


class Stop(_OfOne):
    """Have the guest shut itself down; end it where it does not."""

    columns = ("instance", "uuid", "state", "forced")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--timeout", metavar="SECONDS", type=float, help="then it is ended; 0: at once (default: as configured)"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Stop it."""
        name = parsed_args.instance
        with self.instances() as (_, instances):
            with self.cancellable(lambda: _state(instances, name)), self.progress() as progress:
                forced = instances.stop(name, seconds=parsed_args.timeout, progress=progress)
            return pick(self.columns, self._facts(instances, name) | {"forced": forced})


class Reboot(_OfOne):
    """Boot an instance again."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--hard", action="store_true", help="without asking the guest")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Reboot it."""
        name = parsed_args.instance
        with self.instances() as (_, instances):
            with self.cancellable(lambda: _state(instances, name)), self.progress() as progress:
                instances.reboot(name, hard=parsed_args.hard, progress=progress)
            return pick(self.columns, self._facts(instances, name))


class Destroy(_OfOne):
    """Take an instance away: domain, disks and folder; calling again goes on where a call was cancelled."""

    columns = ("instance", "destroyed")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_take_over(parser)
        parser.add_argument(
            "--force", action="store_true", help="also where the records of its disks are broken: they are put aside"
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Destroy it."""
        name = parsed_args.instance
        with self.instances() as (_, instances):
            with self.cancellable(lambda: _state(instances, name), interruptible=False), self.progress() as progress:
                instances.destroy(name, progress=progress, take_over=parsed_args.take_over, force=parsed_args.force)
            return pick(self.columns, {"instance": name, "destroyed": True})


class Release(_OfOne):
    """Give an instance that is off away, for another host to take; its disks stay."""

    columns = ("instance", "released")

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Release it."""
        name = parsed_args.instance
        with self.instances() as (_, instances):
            with self.cancellable(lambda: _whose(instances, name)), self.progress() as progress:
                instances.release(name, progress=progress)
            return pick(self.columns, {"instance": name, "released": True})


class Take(_OfOne):
    """Make an instance that another host released this host's.

    It is off then: instance start starts it.
    """

    columns = ("instance", "taken", "disks")

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Take it."""
        name = parsed_args.instance
        with self.instances() as (_, instances):
            with self.cancellable(lambda: _whose(instances, name)), self.progress() as progress:
                instances.take(name, progress=progress)
            disks = sorted(disk.id.name for disk in instances.disks(name))
            return pick(self.columns, {"instance": name, "taken": True, "disks": Listed(disks)})


class Console(OfInstances):
    """Print what a guest said on its serial console."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_instance(parser)
        parser.add_argument("--follow", action="store_true", help="and what it says from now on, until it is off")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Print it, byte for byte."""
        out = sys.stdout.buffer
        with self.instances() as (_, instances):
            for chunk in instances.console(parsed_args.instance, follow=parsed_args.follow):
                out.write(chunk)
                out.flush()


def _whose(instances: Any, name: str) -> str:
    try:
        return f"the instance {name} is {instances.show(name).owner or 'this host'}'s; call it again to go on"
    except Error:
        return f"nothing of the instance {name} is in this host's folder"


def _state(instances: Any, name: str) -> str:
    try:
        return f"the instance {name} is {instances.show(name).state or 'without a domain'}"
    except Error:
        return f"the instance {name} is gone"
