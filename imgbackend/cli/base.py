"""What our commands have in common: the engine, progress, columns, what a cancelled one says."""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from cliff import command, lister, show

from imgbackend.cli.errors import UsageError
from imgbackend.cli.figures import cell
from imgbackend.cli.signals import Cancelled
from imgbackend.types import Progress

if TYPE_CHECKING:
    from imgbackend.cli.app import App
    from imgbackend.engine import Engine


class Command(command.Command):
    """A command of ours.  cliff's hooks, and its search for the package it is from, are left out: they cost time."""

    app: "App"
    conflict_handler = "error"

    def __init__(self, app: "App", app_args: argparse.Namespace | None) -> None:
        """Without ``cmd_name``, which is what makes cliff look for hooks."""
        super().__init__(app, app_args)

    def get_epilog(self) -> str:
        """Nothing: cliff would say which package the command is from, after a look at every package there is."""
        return ""

    @contextlib.contextmanager
    def engine(self) -> "Iterator[Engine]":
        """An engine with the configuration that the global options name."""
        from imgbackend.engine import Engine

        options = self.app.options
        with Engine.from_config(options.config_files, dict(options.overrides)) as engine:
            yield engine

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """A progress function for this terminal, or for this pipe; it cancels when a signal came."""
        from imgbackend.cli.progress import reporter

        with reporter(self.app.signals, quiet=self.app.options.quiet) as report:
            yield report

    @contextlib.contextmanager
    def cancellable(self, left: Callable[[], str], *, interruptible: bool = True) -> Iterator[None]:
        """Within it a signal ends in :class:`Cancelled`, with what ``left()`` says is there now.

        ``interruptible`` False: what is within is short, and is finished first.  An error
        counts as cancelled too where a signal came first: Ctrl-C on a terminal also reaches
        the commands that were started.
        """
        signals = self.app.signals
        try:
            with signals.held(interruptible=interruptible):
                yield
        except (Cancelled, Exception) as exc:
            if signals.received is None:
                raise
            raise Cancelled(signals.received, _told(left)) from exc
        if signals.received is not None:
            raise Cancelled(signals.received, _told(left))
        self.app.left = _told(left)


def _told(left: Callable[[], str]) -> str:
    from imgbackend.errors import Error

    try:
        return left()
    except Error as exc:
        return f"what it left could not be told: {exc}"


class _Display(Command):
    """Columns that are known beforehand, so that a wrong ``-c`` is refused before anything is done."""

    columns: ClassVar[Sequence[str]]
    status = 0
    """The exit status; set by a command that has printed what is wrong."""

    def columns_for(self, _parsed_args: argparse.Namespace) -> Sequence[str]:
        """The columns that these arguments lead to."""
        return self.columns

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Check the columns, act, print."""
        known = self.columns_for(parsed_args)
        wanted = [name.lower().strip().replace(" ", "_") for name in parsed_args.columns]
        for name in wanted:
            if name not in known:
                raise UsageError(f"no such column: {name}; there are: {', '.join(known)}")
        return super().run(parsed_args) or self.status


class Lister(_Display, lister.Lister):
    """A command that prints rows."""

    def produce_output(self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Any) -> int:
        """Print each cell as the format wants it."""
        kind = parsed_args.formatter
        rows = [tuple(cell(value, kind) for value in row) for row in data]
        return super().produce_output(parsed_args, column_names, rows)


class ShowOne(_Display, show.ShowOne):
    """A command that prints one thing."""

    def produce_output(self, parsed_args: argparse.Namespace, column_names: Sequence[str], data: Sequence[Any]) -> int:
        """Print each cell as the format wants it."""
        cells = tuple(cell(value, parsed_args.formatter) for value in data)
        return super().produce_output(parsed_args, column_names, cells)


def add_all_hosts(parser: argparse.ArgumentParser) -> None:
    """The option of a list that shows what is this host's and this folder's alone."""
    parser.add_argument("--all-hosts", action="store_true", help="also what is other hosts', with whose it is")


def pick(columns: Sequence[str], facts: dict[str, Any]) -> tuple[Sequence[str], tuple[Any, ...]]:
    """What cliff wants of a command that shows one thing; each column must be among the facts."""
    return columns, tuple(facts[name] for name in columns)


def row(columns: Sequence[str], facts: dict[str, Any]) -> tuple[Any, ...]:
    """One row of a list; each column must be among the facts."""
    return tuple(facts[name] for name in columns)
