"""``imgbackend cache``: the base images that disks are made from."""

import abc
import argparse
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from imgbackend.cli.base import Lister, ShowOne, pick, row
from imgbackend.cli.errors import UsageError
from imgbackend.cli.figures import Listed, Size, Time, human_size, size_or_none
from imgbackend.errors import ConfigError, Error

if TYPE_CHECKING:
    from imgbackend.cache.evict import Outcome
    from imgbackend.cache.garbage.collect import Leftover
    from imgbackend.cache.policy import CachedBase
    from imgbackend.cache.service import Listing
    from imgbackend.engine import Engine

LOG = logging.getLogger(__name__)

_SHORTEST = 6
LOCAL = "local"
"""What the base folder is called where stores are named."""
_TOLD = 20
"""Lines on stderr of what could not be looked at; one cause has often thousands of them."""


def _facts(base: "CachedBase") -> dict[str, Any]:
    return {
        "store": base.where,
        "name": base.name,
        "image_id": base.image_id,
        "source": base.source,
        "format": base.format,
        "virtual_size": size_or_none(base.virtual_size),
        "cluster_size": base.cluster_size,
        "digest": base.digest,
        "size": Size(base.size),
        "allocated": Size(base.allocated),
        "last_used": Time(base.last_used),
        "users": base.users,
        "children": base.children,
        "disks": Listed(list(base.disks)),
        "pinned": base.pinned,
        "verified": None if base.verified is None else Time(base.verified),
        "bad": base.bad,
        "path": None if base.path is None else str(base.path),
        "upstream": base.upstream,
    }


def _became(outcome: "Outcome") -> dict[str, Any]:
    return {"action": outcome.action, "reason": outcome.reason, "freed": Size(outcome.freed)}


def warn(lines: Sequence[str]) -> None:
    for line in lines[:_TOLD]:
        LOG.warning("%s", line)
    if len(lines) > _TOLD:
        LOG.warning("and %d more of that kind", len(lines) - _TOLD)


def listing_of(engine: "Engine", *, ask_sources: bool = False) -> "Listing":
    """All bases; what could not be looked at is told on stderr."""
    listing = engine.cache.bases(ask_sources=ask_sources)
    warn(listing.faults)
    return listing


class List(Lister):
    """List the base images that disks are made from, in the base folder and in stores."""

    columns = (
        *("store", "name", "image_id", "source", "format", "virtual_size", "size", "allocated", "last_used"),
        *("users", "pinned", "verified", "bad"),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--tree", action="store_true", help="show below each base the instances that hang on it")
        parser.add_argument(
            "--check-sources",
            action="store_true",
            help="ask the sources whether they still have the images, and show it in the column upstream: there, gone, "
            "or nothing where that is not known",
        )
        return parser

    def columns_for(self, parsed_args: argparse.Namespace) -> Sequence[str]:
        """Those of a tree, or of a list."""
        if parsed_args.tree:
            from imgbackend.cli.cache_tree import COLUMNS

            return COLUMNS
        return (*self.columns, "upstream") if parsed_args.check_sources else self.columns

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """List them."""
        columns = self.columns_for(parsed_args)
        with self.engine() as engine:
            found = listing_of(engine, ask_sources=parsed_args.check_sources).bases
        if parsed_args.tree:
            from imgbackend.cli import cache_tree

            return columns, list(cache_tree.rows(found))
        return columns, [row(columns, _facts(base)) for base in found]


class Show(ShowOne):
    """Show a base image, and the disks that hang on it."""

    columns = (
        *("store", "name", "image_id", "source", "format", "virtual_size", "cluster_size", "digest"),
        *("size", "allocated", "last_used", "children", "disks", "pinned", "verified", "bad", "path"),
    )

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "base",
            metavar="NAME",
            help=f"its name, its first {_SHORTEST} digits or more, the image's id, or where it is from, as glance:NAME",
        )
        add_store(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        """Show it."""
        word, store = parsed_args.base, parsed_args.store
        with self.engine() as engine:
            found = meant(engine, listing_of(engine).bases, word, store)
            if not found:
                raise ConfigError(
                    f"there is no base {word}{f' in {store}' if store else ''}; "
                    "imgbackend cache list shows those there are"
                )
            if len(found) > 1:
                where = ", ".join(base.where for base in found)
                raise UsageError(f"{word} is in several stores: {where}; say which with --store")
            return pick(self.columns, _facts(found[0]))


def add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", metavar="NAME", help=f"only the one that this backend's store keeps; {LOCAL}: the base folder"
    )


def named(bases: Iterable["CachedBase"], word: str, store: str | None) -> "Iterator[CachedBase]":
    """The bases that a word names; one base may be in several stores."""
    bases = [base for base in bases if store in (None, base.where)]
    found = [base for base in bases if word in (base.name, base.image_id)]
    if not found and len(word) >= _SHORTEST:
        found = [base for base in bases if base.name.startswith(word)]
    names = {base.name for base in found}
    if len(names) > 1:
        raise UsageError(f"{word} is the beginning of {len(names)} names; write more of it")
    yield from found


def meant(engine: "Engine", bases: Sequence["CachedBase"], word: str, store: str | None) -> list["CachedBase"]:
    """The bases that a word names, a reference to an image too, where it says by itself of which source."""
    found = list(named(bases, word, store))
    if found or not (":" in word or "/" in word):
        return found
    try:
        name = engine.image(word).filename
    except Error as exc:
        raise ConfigError(f"there is no base {word}, and as an image: {exc}") from exc
    return [base for base in bases if base.name == name and store in (None, base.where)]


class Usage(Lister):
    """Show how much room the base images take, in the base folder and in each store."""

    columns = (
        *("store", "folder", "bases", "in_use", "unused", "pinned", "size", "allocated", "allocated_unused"),
        *("taken", "reserve", "total", "free"),
    )

    def take_action(self, _parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Add up."""
        with self.engine() as engine:
            listing = listing_of(engine)
            return self.columns, [
                row(self.columns, self._added_up(engine, store, listing)) for store in (LOCAL, *listing.stores)
            ]

    @staticmethod
    def _added_up(engine: "Engine", store: str, listing: "Listing") -> dict[str, Any]:
        from imgbackend.cli.places import room
        from imgbackend.types import Gi

        bases = [base for base in listing.bases if base.where == store]
        unused = [base for base in bases if not base.users]
        folder = engine.host.bases
        capacity = room(folder) if store == LOCAL else engine.backend(store).capacity()
        allocated = sum(base.allocated for base in bases)
        taken = engine.cache.taken() if store == LOCAL else allocated
        return {
            "store": store,
            "folder": str(folder) if store == LOCAL else None,
            "bases": len(bases),
            "in_use": len(bases) - len(unused),
            "unused": len(unused),
            "pinned": sum(base.pinned for base in bases),
            "size": Size(sum(base.size for base in bases)),
            "allocated": Size(allocated),
            "taken": Size(taken),
            "reserve": Size(-(-taken // Gi) * Gi) if store == LOCAL else None,
            "allocated_unused": Size(sum(base.allocated for base in unused)),
            "total": Size(capacity.total),
            "free": Size(capacity.free),
        }


class _Pinning(Lister):
    """What pin and unpin have in common."""

    columns = ("store", "name", "image_id", "cached", "pinned")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "base",
            metavar="BASE-OR-REF",
            help="a base's name, its beginning, or its image's id; or an image: glance:<id or name>, a URL, a path, "
            "or a name. Where it is in several stores, all of them are meant",
        )
        add_store(parser)
        return parser

    def _meant(self, engine: "Engine", word: str, store: str | None) -> "list[tuple[str, str, CachedBase | None]]":
        """``(name, where, base)`` of what is meant; base None: it is not cached there."""
        listing = listing_of(engine)
        known = {LOCAL, *listing.stores, *(pin.store or LOCAL for pin in engine.cache.pins())}
        if store is not None and store not in known:
            raise ConfigError(f"there is no store {store}; there are: {', '.join(sorted(known))}")
        found = list(named(listing.bases, word, store))
        name = found[0].name if found else self._name_of(engine, word)
        cached = {base.where: base for base in listing.bases if base.name == name and store in (None, base.where)}
        pinned = {pin.store or LOCAL for pin in engine.cache.pins() if pin.name == name}
        places = [store] if store else self._places(engine, set(cached), pinned)
        return [(name, where, cached.get(where)) for where in sorted(places)]

    @staticmethod
    def _name_of(engine: "Engine", word: str) -> str:
        from imgbackend.types import is_base_name

        return word if is_base_name(word) else engine.image(word).filename

    @abc.abstractmethod
    def _places(self, engine: "Engine", cached: set[str], pinned: set[str]) -> set[str]:
        """The stores that are meant where none is named."""

    def _row(self, name: str, where: str, base: "CachedBase | None", *, pinned: bool) -> Sequence[Any]:
        facts = {"store": where, "name": name, "image_id": base.image_id if base else None}
        return row(self.columns, facts | {"cached": base is not None, "pinned": pinned})


class Pin(_Pinning):
    """Keep a base image, used or not."""

    def _places(self, engine: "Engine", cached: set[str], _pinned: set[str]) -> set[str]:
        """Where it is; where the bases of new disks are, if it is not cached yet."""
        from imgbackend.driver.abilities import HoldsBases

        if cached:
            return cached
        backend = engine.backend()
        return {backend.name if isinstance(backend, HoldsBases) else LOCAL}

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Pin."""
        with self.engine() as engine:
            meant = self._meant(engine, parsed_args.base, parsed_args.store)
            for name, where, _ in meant:
                engine.cache.pin(name, None if where == LOCAL else where)
            return self.columns, [self._row(*each, pinned=True) for each in meant]


class Unpin(_Pinning):
    """Let a base image go again when nothing uses it."""

    def _places(self, _engine: "Engine", cached: set[str], pinned: set[str]) -> set[str]:
        """Where it is, and where it is pinned."""
        return cached | pinned

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Unpin."""
        with self.engine() as engine:
            meant = self._meant(engine, parsed_args.base, parsed_args.store)
            for name, where, _ in meant:
                engine.cache.unpin(name, None if where == LOCAL else where)
            return self.columns, [self._row(*each, pinned=False) for each in meant]


class Prune(Lister):
    """Remove the base images that nothing needs, and what killed calls left behind."""

    columns = ("store", "name", "image_id", "action", "reason", "last_used", "allocated", "freed")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument("--dry-run", action="store_true", help="change nothing, and show what would be done")
        parser.add_argument("--all", action="store_true", help="list those that are kept too, with the reason")
        parser.add_argument(
            "--check-sources",
            action="store_true",
            help="ask the sources whether they still have the images; those that are gone go first, and earlier with "
            "the option remove_gone_minimum_age_seconds",
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Prune; what could not be looked at or done is told on stderr, and the status is 1."""
        with self.engine() as engine:
            done = engine.cache.prune(dry_run=parsed_args.dry_run, ask_sources=parsed_args.check_sources)
        warn(done.faults)
        warn(done.foreign)
        warn(done.missing)
        self.status = 1 if done.faults else 0
        gone = [each for each in done.outcomes if each.action in ("removed", "would be removed")]
        if not self.app.options.quiet:
            freed = human_size(done.freed)
            verb = "would be removed, and free" if parsed_args.dry_run else "removed, and freed"
            self.app.stderr.write(f"imgbackend: {len(gone)} of {len(done.outcomes)} bases {verb} {freed}\n")
            if done.leftovers:
                freed = human_size(sum(each.size for each in done.leftovers))
                self.app.stderr.write(f"imgbackend: {len(done.leftovers)} leftovers {verb} {freed}\n")
        bases = [
            row(
                self.columns,
                _facts(each.base) | {"action": each.action, "reason": each.reason, "freed": Size(each.freed)},
            )
            for each in done.outcomes
            if parsed_args.all or each.action != "kept"
        ]
        return self.columns, [*bases, *(row(self.columns, _left(each)) for each in done.leftovers)]


def _left(left: "Leftover") -> dict[str, Any]:
    """A leftover, in the columns of bases."""
    return {
        "store": left.store or LOCAL,
        "name": left.name,
        "image_id": None,
        "action": "removed" if left.removed else "would be removed",
        "reason": f"left behind ({left.kind}): {left.reason}",
        "last_used": Time(left.time) if left.time else None,
        "allocated": Size(left.size),
        "freed": Size(left.size),
    }
