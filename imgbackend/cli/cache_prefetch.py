"""``imgbackend cache prefetch``: bases before a disk wants them."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from imgbackend.cli.base import Lister, row
from imgbackend.cli.errors import UsageError
from imgbackend.cli.figures import Listed
from imgbackend.errors import ConfigError
from imgbackend.types import Progress

_LONGEST: Final = 86400
"""Seconds; the option precache_jitter takes no more either."""


class Prefetch(Lister):
    """Fetch images into the cache before a disk wants them."""

    columns = ("ref", "status", "base", "store", "image_id", "boot_files", "reason", "seconds")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The arguments."""
        parser = super().get_parser(prog_name)
        add = parser.add_argument
        add("refs", nargs="*", metavar="REF", help="glance:<id or name>, a URL, a path, or a name")
        add("--from", dest="lists", action="append", default=[], metavar="FILE",
            help="read references from this file, one in a line, # begins a comment; - is stdin")  # fmt: skip
        add("--images-type", metavar="NAME", help="for disks of this backend (default: the option images_type)")
        add("--at-once", type=_positive, metavar="N",
            help="so many images side by side (default: the option precache_concurrency)")  # fmt: skip
        add("--jitter", type=_seconds, metavar="SECONDS",
            help="wait up to so long before each, so that many hosts do not ask at once (default: the option "
            "precache_jitter)")  # fmt: skip
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Fetch them; where one fails, the others are fetched, and the status is 1."""
        refs = [*parsed_args.refs, *(ref for name in parsed_args.lists for ref in _listed(name))]
        if not refs:
            raise UsageError("no image is named; give references, or a file of them: --from FILE")
        with (
            self.engine() as engine,
            self.cancellable(lambda: "what was fetched whole is in the cache"),
            self.progress() as report,
        ):
            done = engine.cache.prefetch(
                refs,
                parsed_args.images_type,
                at_once=parsed_args.at_once,
                jitter=parsed_args.jitter,
                progress=lambda ref: _named(ref, report),
            )
        self.status = int(any(each.status == "failed" for each in done))
        return self.columns, [
            row(
                self.columns,
                asdict(each)
                | {
                    "store": each.store or "local",
                    "boot_files": Listed(list(each.boot_files)),
                    "seconds": round(each.seconds, 3),
                },
            )
            for each in done
        ]


def _named(ref: str, report: Progress) -> Progress:
    """Progress whose phases name the image: several are under way at once."""
    short = ref.rpartition("/")[2] or ref

    def told(phase: str, done: int, total: int | None) -> None:
        report(f"{phase} {short}", done, total)

    return told


def _listed(name: str) -> Iterator[str]:
    """The references in a file."""
    try:
        with contextlib.nullcontext(sys.stdin) if name == "-" else open(name, encoding="utf-8") as lines:
            for line in lines:
                word = line.partition(" #")[0].strip()
                if word and not word.startswith("#"):
                    yield word
    except (OSError, UnicodeDecodeError) as exc:
        told = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise ConfigError(f"cannot read the references in {name}: {told}") from exc


def _seconds(text: str) -> float:
    try:
        told = float(text)
    except ValueError:
        told = -1.0
    if not 0 <= told <= _LONGEST:  # nan neither
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 to {_LONGEST}")
    return told


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of images")
    return int(text)
