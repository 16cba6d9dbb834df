"""``imgbackend instance``: spawn, list and show instances."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from imgbackend.cli.base import Command, Lister, ShowOne, add_all_hosts, pick, row
from imgbackend.cli.errors import UsageError
from imgbackend.cli.figures import Listed, Several, Size, size_argument
from imgbackend.errors import ConfigError, Error

if TYPE_CHECKING:
    from imgbackend.engine import Engine
    from imgbackend.guest.instances import Instances
    from imgbackend.guest.listing import Instance
    from imgbackend.guest.spawn import ProgressOf
    from imgbackend.guest.spec import InstanceSpec
    from imgbackend.types import Progress


_LONGEST_PASSWORD = 4096


class OfInstances(Command):
    """A command about instances."""

    @contextmanager
    def instances(self) -> "Iterator[tuple[Engine, Instances]]":
        """An engine, and its instances."""
        with self.engine() as engine:
            yield engine, engine.instances


def add_instance(parser: argparse.ArgumentParser) -> None:
    """The word that names an instance."""
    parser.add_argument("instance", metavar="INSTANCE", help="its name or uuid")


def add_take_over(parser: argparse.ArgumentParser) -> None:
    """The option for an instance that is another's."""
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="also one of another host, or of another folder, that uses it no more: it is this host's then",
    )


def facts_of(instance: "Instance", disks: list[dict[str, Any]]) -> dict[str, Any]:
    """The facts that every command about one instance shows."""
    return {
        "instance": instance.id,
        "uuid": instance.uuid,
        "state": str(instance.state) if instance.state is not None else "no domain",
        "disks": Several(disks),
        "folder": str(instance.folder),
        "owner": str(instance.owner) if instance.owner is not None else None,
    }


class Spawn(OfInstances, ShowOne):
    """Make an instance's disks, start it, and wait until it runs.

    Disks that are whole are used as they are.  What is given here takes the place of what
    the file says that --spec names.
    """

    columns = ("instance", "uuid", "state", "disks", "folder", "existed", "changed", "seconds")
    explained = ("instance", "uuid", "disks")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_instance(parser)
        add = parser.add_argument
        add("--image", metavar="REF",
            help="glance:<id or name>, a URL, file:///..., a path, or a name in the default source")  # fmt: skip
        add("--root-size", metavar="SIZE", type=size_argument, help="such as 20G (default: as large as the image)")
        add("--memory", metavar="SIZE", type=size_argument, help="such as 2G (default: 512M)")
        add("--vcpus", metavar="N", type=int, help="(default: 1)")
        add("--ephemeral", metavar="SIZE[:FORMAT]", action="append", dest="ephemerals",
            help="a further disk with a fresh file system, such as 10G:ext4; may be given repeatedly")  # fmt: skip
        add("--swap", metavar="SIZE", type=size_argument, help="a disk to swap to")
        add("--kernel", metavar="REF", help="boot this kernel directly (default: the one that the image names)")
        add("--ramdisk", metavar="REF", help="with this initial ramdisk")
        add("--config-drive", action="store_true", help="a small disk that tells the guest who it is")
        add("--user-data", metavar="FILE", type=Path, help="for cloud-init; on the config drive")
        add("--file", metavar="DEST=SRC", action="append", dest="files",
            help="a file for the guest, on the config drive; may be given repeatedly")  # fmt: skip
        add("--password-file", metavar="FILE", type=Path, help="the administrator's password; on the config drive")
        add("--nic", metavar="KIND[:NAME]", action="append", dest="nics",
            help="bridge:NAME, network:NAME or user; may be given repeatedly")  # fmt: skip
        add("--images-type", metavar="TYPE", help="the backend to make disks on (default: as configured)")
        add("--fallback-from-host", metavar="HOST",
            help="where an image is gone from its source, have it from the base folder of this host")  # fmt: skip
        add("--spec", metavar="FILE", type=Path, help="all of this, and more, in JSON or YAML")
        add("--explain", action="store_true", help="tell what would be done, and do nothing")
        add_take_over(parser)
        return parser

    def columns_for(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        """Those of a plan, where only that is asked for."""
        return self.explained if parsed_args.explain else self.columns

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Spawn, or explain."""
        spec = _spec(parsed_args)
        with self.instances() as (_, instances):
            if parsed_args.explain:
                told = [_planned(each) for each in instances.explain(spec)]
                return pick(self.explained, {"instance": spec.id, "uuid": spec.uuid, "disks": Several(told)})
            with self.cancellable(lambda: _left(instances, spec.id)), self.progress() as progress:
                done = instances.spawn(spec, progress=_of_each(progress), take_over=parsed_args.take_over)
            disks = [
                {"name": name, "way": made.way, "reason": made.reason or None, "size": Size(made.size),
                 "base": made.base, "fetched": made.fetched, "seconds": round(made.seconds, 4)}
                for name, made in done.disks.items()
            ]  # fmt: skip
            facts = facts_of(instances.show(spec.id), disks)
            return pick(self.columns, facts | {
                "existed": done.existed,
                "changed": Listed(list(done.changed)),
                "seconds": round(done.seconds, 4),
            })  # fmt: skip


def _planned(planned: Any) -> dict[str, Any]:
    plan = planned.plan
    return {
        "name": planned.name,
        "images_type": planned.backend,
        "way": "exists" if plan is None else plan.way,
        "reason": plan.reason or None if plan is not None else None,
        "writes": Size(plan.writes if plan is not None else 0),
        "needs": Size(plan.needs if plan is not None else 0),
    }


def _of_each(progress: "Progress") -> "ProgressOf":
    """The progress of each disk, told apart by its name in the phase."""

    def of(name: str) -> "Progress":
        return lambda phase, done, total: progress(f"{name} {phase}", done, total)

    return of


def _left(instances: "Instances", name: str) -> str:
    try:
        return f"the instance {name} is {instances.show(name).state or 'without a domain'}"
    except Error:
        return "nothing was left behind"


def _spec(parsed_args: argparse.Namespace) -> "InstanceSpec":
    """The spec that the arguments tell, with those of the file behind them."""
    from imgbackend.guest import spec_file

    plain = (
        "image", "root_size", "memory", "vcpus", "swap", "kernel", "ramdisk", "images_type", "fallback_from_host"
    )  # fmt: skip
    told = {name: getattr(parsed_args, name) for name in plain if getattr(parsed_args, name) is not None}
    told["id"] = parsed_args.instance
    if parsed_args.ephemerals:
        told["ephemerals"] = [_halves(each, ("size", "format")) for each in parsed_args.ephemerals]
    if parsed_args.nics:
        told["nics"] = [_halves(each, ("kind", "name")) for each in parsed_args.nics]
    if parsed_args.files:
        told["files"] = [_file(each) for each in parsed_args.files]
    if parsed_args.password_file is not None:
        told["admin_password"] = _password_of(parsed_args.password_file)
    if parsed_args.user_data is not None:
        told["config_drive"] = {"user_data": {"file": str(parsed_args.user_data.absolute())}}
    elif parsed_args.config_drive:
        told["config_drive"] = {}
    if parsed_args.spec is not None:
        return spec_file.read(parsed_args.spec, told)
    return spec_file.parse(told)


def _halves(text: str, names: tuple[str, str]) -> dict[str, str]:
    first, _, second = text.partition(":")
    return {names[0]: first, **({names[1]: second} if second else {})}


def _file(text: str) -> dict[str, Any]:
    destination, equals, source = text.partition("=")
    if not equals or not source:
        raise UsageError(f"--file {text!r} is not DEST=SRC")
    return {"path": destination, "content": {"file": str(Path(source).absolute())}}


def _password_of(path: Path) -> str:
    """The first line of a file: so it is in nobody's list of processes."""
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST_PASSWORD)
        password = line.decode().rstrip("\r\n")
    except OSError as exc:
        raise ConfigError(f"--password-file: cannot read {path}: {exc.strerror}") from exc
    except UnicodeDecodeError:
        raise ConfigError(f"--password-file: the first line of {path} is no text") from None  # it would show it
    if not password:
        raise ConfigError(f"--password-file: there is no password in the first line of {path}")
    return password


class List(OfInstances, Lister):
    """List instances."""

    columns = ("instance", "uuid", "state", "folder")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_all_hosts(parser)
        return parser

    def columns_for(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        """With whose each is, where others' are listed too."""
        return (*self.columns, "owner") if parsed_args.all_hosts else self.columns

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """List them."""
        columns = self.columns_for(parsed_args)
        with self.instances() as (_, instances):
            listed = instances.list(all_hosts=parsed_args.all_hosts)
            return columns, [row(columns, facts_of(each, [])) for each in listed]


class Show(OfInstances, ShowOne):
    """Show an instance and its disks; -c xml shows how libvirt has it."""

    columns = ("instance", "uuid", "state", "disks", "folder", "console", "xml")
    _IN_TABLE: ClassVar[Sequence[str]] = columns[:-1]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_instance(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Show it."""
        with self.instances() as (_, instances):
            found = instances.show(parsed_args.instance)
            facts = facts_of(found, [_disk(disk) for disk in instances.disks(found.id)])
            facts["console"] = str(found.folder / "console.log")
            wanted = [name.lower() for name in parsed_args.columns]
            if "xml" in wanted or parsed_args.formatter != "table":
                facts["xml"] = instances.xml(found.id) if found.uuid is not None else None
                return pick(self.columns, facts)
            return pick(self._IN_TABLE, facts)


def _disk(disk: Any) -> dict[str, Any]:
    from imgbackend.cli.disk import described_or_state

    told = described_or_state(disk)
    way = disk.recorded.way if disk.recorded is not None else None
    return {
        "name": told["name"],
        "images_type": told["images_type"],
        "format": told["format"],
        "size": told["size"],
        "allocated": told["allocated"],
        "way": way or None,
        "base": told["base"],
        "location": told["location"],
        "state": told["state"],
    }
