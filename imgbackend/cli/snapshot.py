"""``imgbackend disk snapshot``: snapshots of a disk whose guest is stopped."""

import abc
import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imgbackend.cli.base import Lister, ShowOne, pick
from imgbackend.cli.disk import add_disk, disk_of
from imgbackend.cli.figures import Size, Time

if TYPE_CHECKING:
    from imgbackend.driver.abilities import Snapshottable


class List(Lister):
    """List the snapshots of a disk."""

    columns = ("snapshot", "size", "time")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_disk(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """List them."""
        from imgbackend.cli.abilities import snapshottable

        with self.engine() as engine:
            disk = disk_of(engine, parsed_args)
            found = snapshottable(disk).snaps()
            return self.columns, [(snap.name, Size(snap.size), Time(snap.time)) for snap in found]


class _OfOne(ShowOne):
    """A command about one snapshot."""

    columns = ("instance", "name", "snapshot")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_disk(parser)
        parser.add_argument("snapshot", metavar="SNAPSHOT", help="the name of the snapshot")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Do it, and show of which disk."""
        from imgbackend.cli.abilities import snapshottable

        with self.engine() as engine:
            disk = disk_of(engine, parsed_args)
            able = snapshottable(disk)
            with self.cancellable(lambda: self._left(able, parsed_args.snapshot), interruptible=False):
                self._act(able, parsed_args.snapshot)
        facts = {"instance": disk.id.instance, "name": disk.id.name, "snapshot": parsed_args.snapshot}
        return pick(self.columns, facts)

    @abc.abstractmethod
    def _act(self, disk: "Snapshottable", name: str) -> None:
        """What this command does."""

    def _left(self, disk: "Snapshottable", name: str) -> str:
        there = any(snap.name == name for snap in disk.snaps())
        return f"the snapshot {name} is {'there' if there else 'not there'}"


class Create(_OfOne):
    """Take a snapshot of a disk."""

    def _act(self, disk: "Snapshottable", name: str) -> None:
        disk.create_snap(name)


class Rollback(_OfOne):
    """Take a disk back to a snapshot."""

    def _act(self, disk: "Snapshottable", name: str) -> None:
        disk.rollback_to_snap(name)


class Delete(_OfOne):
    """Delete a snapshot of a disk."""

    def _act(self, disk: "Snapshottable", name: str) -> None:
        disk.remove_snap(name)
