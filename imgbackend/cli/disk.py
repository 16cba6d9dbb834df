"""``imgbackend disk``: make, list, show, grow, delete, export and flatten disks."""

import argparse
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from imgbackend.cli.base import Lister, ShowOne, add_all_hosts, pick, row
from imgbackend.cli.figures import Facts, Listed, Size, Time, size_argument
from imgbackend.errors import ConfigError, Error, WrongStore
from imgbackend.types import BlockSource, DiskId, DiskSource, FileSource

if TYPE_CHECKING:
    from imgbackend.driver.contract import Disk
    from imgbackend.engine import Engine
    from imgbackend.sources.contract import Image


_BOOT_FILES: Final = frozenset({"kernel", "ramdisk"})
"""Disks that are kept byte for byte: no images of disks."""


def add_disk(parser: argparse.ArgumentParser) -> None:
    """The two words that name a disk."""
    parser.add_argument("instance", metavar="INSTANCE", help="the virtual machine: its name or uuid")
    parser.add_argument("--name", default="disk", help="which of its disks, such as disk.local (default: disk)")


def disk_of(engine: "Engine", parsed_args: argparse.Namespace, images_type: str | None = None) -> "Disk[Any]":
    """The disk that the two words name."""
    return engine.disk(_name_of(engine, parsed_args.instance), parsed_args.name, images_type)


def _name_of(engine: "Engine", text: str) -> str:
    from imgbackend.state import instance_names

    return instance_names.by_uuid(engine.host.instances, text) or text


def location(source: DiskSource) -> str:
    """Where a disk is, in one word: a path, or ``protocol:name``."""
    if isinstance(source, FileSource | BlockSource):
        return str(source.path)
    return f"{source.protocol}:{source.name}"


def described(disk: "Disk[Any]") -> dict[str, Any]:
    """The facts that every command about one disk shows.

    :raises DiskNotFound: if there is no such disk.
    """
    info, recorded = disk.info(), disk.recorded
    return {
        "instance": disk.id.instance,
        "name": disk.id.name,
        "images_type": disk.backend.name,
        "format": info.format,
        "size": Size(info.size),
        "allocated": Size(info.allocated),
        "location": location(disk.source()),
        "base": recorded.base if recorded is not None else None,
    }


def described_or_state(disk: "Disk[Any]") -> dict[str, Any]:
    """The same facts, and the ``state``: of a disk that cannot be told of what is wrong with it, and no other facts."""
    try:
        return described(disk) | {"state": _state_of(disk)}
    except (Error, OSError) as exc:
        known = {"instance": disk.id.instance, "name": disk.id.name, "images_type": disk.backend.name}
        unknown = dict.fromkeys(("format", "size", "allocated", "location", "base"))
        return {**known, **unknown, "state": str(exc)}


def state_left(disk: "Disk[Any]") -> str:
    """What a cancelled command left of a disk."""
    return f"the disk {disk.id} is there, whole" if disk.exists() else "nothing was left behind"


class Create(ShowOne):
    """Make a disk of an image, or see that it is there.

    A disk that exists is not made again; where it is smaller than --size, it is grown.
    """

    columns = (
        "instance", "name", "images_type", "format", "size", "allocated", "location", "base",
        "way", "reason", "fetched", "grown", "seconds",
    )  # fmt: skip
    explained = ("instance", "name", "images_type", "way", "reason", "writes", "needs", "base", "cached")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_disk(parser)
        add = parser.add_argument
        add("--image", required=True, metavar="REF",
            help="glance:<id or name>, a URL, file:///..., a path, or a name in the default source")  # fmt: skip
        add("--size", type=size_argument, help="such as 20G (default: as large as the image)")
        add("--images-type", metavar="TYPE", help="the backend to make it on (default: as configured)")
        add("--explain", action="store_true", help="tell what would be done, and do nothing")
        return parser

    def columns_for(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        """Those of a plan, where only that is asked for."""
        return self.explained if parsed_args.explain else self.columns

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Make it, or explain."""
        with self.engine() as engine:
            disk = disk_of(engine, parsed_args, parsed_args.images_type)
            image = engine.image(parsed_args.image)
            if parsed_args.name.partition(".")[0] in _BOOT_FILES:
                image = image.as_boot_file()
            if parsed_args.explain:
                return pick(self.explained, _explained(engine, disk, image, parsed_args.size))
            with self.cancellable(lambda: state_left(disk)), self.progress() as progress:
                made = disk.cache(image, image.filename, parsed_args.size, progress=progress)
            facts = described(disk) | {
                "base": made.base,
                "way": made.way,
                "reason": made.reason,
                "fetched": made.fetched,
                "grown": made.grown,
                "seconds": round(made.seconds, 4),
            }
            return pick(self.columns, facts)


def _explained(engine: "Engine", disk: "Disk[Any]", image: "Image", size: int | None) -> dict[str, Any]:
    plan = disk.explain(image, image.filename, size)
    return {
        "instance": disk.id.instance,
        "name": disk.id.name,
        "images_type": disk.backend.name,
        "way": "exists" if plan is None else plan.way,
        "reason": "" if plan is None else plan.reason,
        "writes": Size(0 if plan is None else plan.writes),
        "needs": Size(0 if plan is None else plan.needs),
        "base": image.filename,
        "cached": _is_cached(engine, disk, image.filename),
    }


def _is_cached(engine: "Engine", disk: "Disk[Any]", base: str) -> bool:
    from imgbackend.driver.abilities import HoldsBases

    if isinstance(disk.backend, HoldsBases) and disk.backend.find_base(base) is not None:
        return True
    return any(found.name == base for found in engine.bases())


def _check_name(instance: str) -> None:
    try:
        DiskId(instance=instance, name="disk")
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc


def _state_of(disk: "Disk[Any]") -> str:
    """``ok``, or why the file that a disk depends on cannot be read on this host."""
    from imgbackend.cli.abilities import backing_of

    try:
        backing = backing_of(disk)
    except Error as exc:
        return str(exc)
    if backing is not None and not os.path.exists(backing):
        return f"the base {backing} is gone; create the disk again, and it is fetched"
    return "ok"


class List(Lister):
    """List disks."""

    columns = ("instance", "name", "images_type", "format", "size", "allocated", "base", "state")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("instance", metavar="INSTANCE", nargs="?", help="only the disks of this one")
        add_all_hosts(parser)
        return parser

    def columns_for(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        """With whose each is, where others' are listed too."""
        return (*self.columns, "owner") if parsed_args.all_hosts else self.columns

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """List; a disk that cannot be told of is listed with what is wrong with it."""
        if parsed_args.instance is not None:
            _check_name(parsed_args.instance)
        with self.engine() as engine:
            columns = self.columns_for(parsed_args)
            only = parsed_args.instance and _name_of(engine, parsed_args.instance)
            broken: list[dict[str, Any]] = []
            disks = engine.disks(only, all_hosts=parsed_args.all_hosts, broken=partial(self._note_broken, broken))
            rows = [self._row(columns, disk) for disk in disks]
            return columns, sorted(
                rows + [row(columns, facts) for facts in broken], key=lambda each: (each[0], each[1])
            )

    def _note_broken(self, broken: list[dict[str, Any]], instance: str, name: str | None, reason: Exception) -> None:
        facts = {"instance": instance, "name": name or "", "state": str(reason)}
        broken.append(dict.fromkeys([*self.columns, "owner"]) | facts)

    def _row(self, columns: Sequence[str], disk: "Disk[Any]") -> Sequence[Any]:
        owner = disk.recorded.owner if disk.recorded is not None else None
        return row(columns, described_or_state(disk) | {"owner": str(owner) if owner is not None else None})


class Show(ShowOne):
    """Show a disk and the record of how it was made."""

    columns = (*("instance", "name", "images_type", "driver", "format", "size", "allocated", "location"),
               *("base", "backing", "abilities", "record"))  # fmt: skip

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_disk(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Show."""
        from imgbackend.cli.abilities import backing_of
        from imgbackend.driver.abilities import abilities

        with self.engine() as engine:
            disk = disk_of(engine, parsed_args)
            facts = described(disk)
            recorded = disk.recorded
            return pick(self.columns, facts | {
                "driver": disk.backend.driver,
                "backing": backing_of(disk),
                "abilities": Listed(abilities(type(disk))),
                "record": None if recorded is None else Facts({
                    "backend": recorded.backend,
                    "driver": recorded.driver,
                    "format": recorded.format,
                    "way": recorded.way,
                    "time": Time(recorded.time),
                    "image_id": recorded.image_id,
                    "base": recorded.base,
                    "digest": recorded.digest,
                    "store": recorded.store,
                }),
            })  # fmt: skip


class Resize(ShowOne):
    """Grow a disk; no disk is ever shrunk."""

    columns = ("instance", "name", "images_type", "format", "size", "allocated", "grown")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_disk(parser)
        parser.add_argument("size", metavar="SIZE", type=size_argument, help="the new size, such as 40G")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Grow it where it is smaller."""
        with self.engine() as engine:
            disk = disk_of(engine, parsed_args)
            before = disk.info().size
            told = f"the disk {disk.id} has {{}} bytes"
            with self.cancellable(lambda: told.format(disk.info().size), interruptible=False):
                _grow(engine, disk, parsed_args.size)
            facts = described(disk)
            return pick(self.columns, facts | {"grown": disk.info().size > before})


def _grow(engine: "Engine", disk: "Disk[Any]", size: int) -> None:
    """Through the hypervisor where there may be a guest: only it can grow what a guest runs on."""
    from imgbackend.state.records import DOMAIN

    if (engine.host.instances / disk.id.instance / DOMAIN).exists():
        engine.instances.grow(disk.id.instance, size, disk.id.name)
    else:
        disk.resize(size)


def _whether(disk: "Disk[Any]") -> str:
    return f"the disk {disk.id} is {'still there' if disk.exists() else 'gone'}"


def _forget(disk: "Disk[Any]") -> None:
    from imgbackend.disks import record_stores

    record_stores.forget(disk)


class Delete(ShowOne):
    """Delete a disk; one that is absent is no error."""

    columns = ("instance", "name", "images_type", "deleted")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_disk(parser)
        told = "also where a guest has it open, which loses it; where its records are broken, which are put aside; and "
        told += "where its store is gone for good: it is forgotten"
        parser.add_argument("--force", action="store_true", help=told)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Delete it."""
        from imgbackend.guest.marked_disks import strays

        with self.engine() as engine:
            if parsed_args.force:
                _check_name(parsed_args.instance)
                engine.owners.put_aside_broken_records(_name_of(engine, parsed_args.instance))
            disk = disk_of(engine, parsed_args)
            there = False
            try:
                if parsed_args.force and engine.host.records.of(disk.id) is None and not disk.may_be_there():
                    disk = next((each for each in strays(engine, disk.id.instance) if each.id == disk.id), disk)
                there = disk.may_be_there()
                with self.cancellable(lambda: _whether(disk), interruptible=False):
                    disk.remove(force=parsed_args.force)
            except WrongStore:
                if not parsed_args.force:
                    raise
                _forget(disk)
            facts = {"instance": disk.id.instance, "name": disk.id.name, "images_type": disk.backend.name}
            return pick(self.columns, facts | {"deleted": there})


class Export(ShowOne):
    """Write a disk into a new file.

    The file is whole, or not there.  It does not depend on any base.
    """

    columns = ("instance", "name", "target", "format", "size", "seconds")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_disk(parser)
        parser.add_argument("target", metavar="TARGET", type=Path, help="a file that does not exist yet")
        parser.add_argument("--disk-format", required=True, metavar="FORMAT", help="the file's: raw or qcow2")
        parser.add_argument("--compress", action="store_true", help="compress (qcow2 only)")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Export it."""
        target: Path = parsed_args.target.absolute()
        began = time.monotonic()
        with self.engine() as engine:
            disk = disk_of(engine, parsed_args)
            with self.cancellable(lambda: _target_left(target)), self.progress() as progress:
                disk.extract(target, parsed_args.disk_format, compress=parsed_args.compress, progress=progress)
        facts = {
            "instance": disk.id.instance,
            "name": disk.id.name,
            "target": str(target),
            "format": parsed_args.disk_format,
            "size": Size(target.stat().st_size),
            "seconds": round(time.monotonic() - began, 4),
        }
        return pick(self.columns, facts)


def _target_left(target: Path) -> str:
    return f"{target} is there, whole" if target.exists() else "nothing was left behind"


class Flatten(ShowOne):
    """Make a disk independent of its base."""

    columns = ("instance", "name", "images_type", "format", "size", "allocated", "base", "seconds")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add_disk(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Flatten it."""
        from imgbackend.cli.abilities import flattenable

        began = time.monotonic()
        with self.engine() as engine:
            disk = disk_of(engine, parsed_args)
            able = flattenable(disk)
            with self.cancellable(lambda: f"the disk {disk.id} is whole"), self.progress() as progress:
                able.flatten(progress=progress)
            return pick(self.columns, described(disk) | {"seconds": round(time.monotonic() - began, 4)})
