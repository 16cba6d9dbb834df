"""``imgbackend cache verify``: whether the base images still are what was fetched."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from imgbackend.cli.base import Lister, row
from imgbackend.cli.cache import LOCAL, add_store, listing_of, meant
from imgbackend.cli.errors import UsageError
from imgbackend.cli.figures import Listed, Size, human_size, size_argument
from imgbackend.errors import ConfigError

if TYPE_CHECKING:
    from imgbackend.cache.service import Listing
    from imgbackend.cache.verify.of_folder import Verified
    from imgbackend.engine import Engine

_FAULTY: Final = frozenset({"bad", "unreadable"})


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number of bases: {text!r}")
    return int(text)


class Verify(Lister):
    """Compare the bytes of base images with their digests; put bad ones aside.

    A bad one is put aside, as NAME.bad-TIME, in a store under another name, and the next disk of its image has it
    fetched again. The status is 1 where one is bad, or cannot be read, and with --all or --sample where something
    could not be looked at.
    """

    columns = ("store", "name", "image_id", "found", "reason", "read", "seconds", "disks", "aside")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add(
            "bases",
            nargs="*",
            metavar="BASE",
            help="a base's name, its beginning, its image's id, or the image, such as glance:NAME",
        )
        add("--all", action="store_true", help="all of them")
        add("--sample", type=_count, metavar="N", help="only so many, those not verified for the longest time first")
        add("--rate", type=size_argument, metavar="BYTES", help="read no more than this in a second, such as 50M")
        add_store(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Verify."""
        told = parsed_args
        if bool(told.bases) == bool(told.all or told.sample is not None):
            raise UsageError("name bases, or say --all or --sample N")
        with self.engine() as engine:
            listing = listing_of(engine)
            if told.store not in (None, LOCAL, *listing.stores):
                raise ConfigError(f"there is no store {told.store}; there are: {', '.join([LOCAL, *listing.stores])}")
            names = self._names(engine, listing, told.bases, told.store) if told.bases else None
            with self.cancellable(lambda: "what was verified until then is noted"), self.progress() as progress:
                done = engine.cache.verify(
                    names, store=told.store, sample=told.sample, rate=told.rate, progress=progress
                )
        unseen = bool(listing.faults) and names is None  # which was told: there may be bases that nobody verified
        self.status = int(unseen or any(each.found in _FAULTY for each in done))
        self._summed(done)
        return self.columns, [row(self.columns, _facts(each)) for each in done]

    @staticmethod
    def _names(engine: "Engine", listing: "Listing", words: Sequence[str], store: str | None) -> set[str]:
        names: set[str] = set()
        for word in words:
            found = {base.name for base in meant(engine, listing.bases, word, store)}
            if not found:
                raise ConfigError(f"there is no base {word}; imgbackend cache list shows those there are")
            names |= found
        return names

    def _summed(self, done: Sequence["Verified"]) -> None:
        if self.app.options.quiet:
            return
        sound, faulty = (sum(each.found in kinds for each in done) for kinds in ({"sound", "noted"}, _FAULTY))
        read, seconds = human_size(sum(each.read for each in done)), sum(each.seconds for each in done)
        self.app.stderr.write(
            f"imgbackend: {sound} of {len(done)} bases are sound, {faulty} are not; read {read} in {seconds:.1f} s\n"
        )


def _facts(done: "Verified") -> dict[str, Any]:
    return {
        "store": done.base.where,
        "name": done.base.name,
        "image_id": done.base.image_id,
        "found": done.found,
        "reason": done.reason,
        "read": Size(done.read),
        "seconds": round(done.seconds, 4),
        "disks": Listed(list(done.base.disks) if done.found in _FAULTY else []),
        "aside": None if done.aside is None else str(done.aside),
    }
