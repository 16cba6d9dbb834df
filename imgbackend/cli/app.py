"""The application: global options, errors and exit statuses, logging, the choice of the command."""

import argparse
import itertools
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import cliff.app
import cliff.help

from imgbackend.cli.commands import Commands, write_commands
from imgbackend.cli.errors import UsageError
from imgbackend.cli.signals import Cancelled, Signals
from imgbackend.errors import Error

DESCRIPTION = "Turns images of virtual machines into disks, on any storage."
_SIGPIPE = 128 + signal.SIGPIPE


class HelpCommand(cliff.help.HelpCommand):
    """Show help, also of one command."""

    app: "App"

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        """Help of one command where one is named, else of all."""
        return self.app.help(parsed_args.cmd)


class App(cliff.app.App):
    """cliff's application without its shell, its plugins and its slow help."""

    NAME = "imgbackend"

    def __init__(self, signals: Signals) -> None:
        version = Path(__file__).parent.parent.joinpath("VERSION").read_text().strip()
        super().__init__(DESCRIPTION, version, Commands(), deferred_help=True)
        self.command_manager.add_command("help", HelpCommand)
        self.signals = signals
        self.left: str | None = None
        """What a command has made so far, for one that is cancelled while it prints."""

    def build_option_parser(
        self, description: str | None, version: str | None, _argparse_kwargs: dict[str, Any] | None = None
    ) -> argparse.ArgumentParser:
        """The options that stand before or after any command."""
        parser = argparse.ArgumentParser(
            prog=self.NAME,
            description=description,
            usage="%(prog)s [options] COMMAND ...",
            epilog="COMMAND --help tells more of one. What is shown comes as a table, or as -f json, yaml, value, ...",
            add_help=False,
            allow_abbrev=False,
        )
        add = parser.add_argument
        add("-h", "--help", dest="deferred_help", action="store_true", help="show help and exit")
        add("--version", action="version", version=f"{self.NAME} {version}", help="show the version and exit")
        add("--config-file", dest="config_files", action="append", metavar="FILE",
            help="read this file of options instead of the usual ones; may be given repeatedly")  # fmt: skip
        add("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", type=_override,
            help="set an option, such as images_type=raw or lvm.volume_group=vg0; may be given repeatedly")  # fmt: skip
        add("-v", "--verbose", dest="verbose_level", action="count", default=1, help="log more; repeat for all")
        add("-q", "--quiet", action="store_true", help="show no progress")
        add("--debug", action="store_true", help="show where an error came from")
        return parser

    def configure_logging(self) -> None:
        """Log to stderr: warnings of ours; with ``-v`` more of ours, with ``-vv`` all of everybody."""
        console = _Console()
        console.setFormatter(logging.Formatter("imgbackend: %(levelname)s: %(message)s"))
        root, ours = logging.getLogger(), logging.getLogger("imgbackend")
        root.addHandler(console)
        level = self.options.verbose_level
        root.setLevel({1: logging.ERROR, 2: logging.WARNING}.get(level, logging.DEBUG))
        ours.setLevel({1: logging.WARNING, 2: logging.INFO}.get(level, logging.DEBUG))

    def run(self, argv: list[str]) -> int:
        """Parse, run, and turn whatever is raised into one line and an exit status."""
        self.options = argparse.Namespace(debug="--debug" in argv)
        try:
            status = self._run(argv)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered would raise once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _SIGPIPE
        except Cancelled as cancelled:
            return self._cancelled(cancelled)
        except Exception as exc:
            if self.signals.received is not None:
                return self._cancelled(Cancelled(self.signals.received))
            return self._failed(exc)
        return status

    def _run(self, argv: list[str]) -> int:
        mine = list(itertools.takewhile(lambda word: word != "--", argv))
        try:
            self.options, rest = self.parser.parse_known_args(mine)
            rest += argv[len(mine) :]
            self.configure_logging()
            return self.help(rest) if self.options.deferred_help or not rest else self.run_subcommand(rest)
        except SystemExit as exc:  # argparse has printed what it wants to say
            return exc.code if isinstance(exc.code, int) else 0

    def run_subcommand(self, argv: list[str]) -> int:
        """Run the command that ``argv`` names; cliff's suggestion where there is none."""
        try:
            factory, name, rest = self.command_manager.find_command(argv)
        except ValueError:
            self._unknown(argv)
        command = factory(self, self.options)
        return command.run(command.get_parser(f"{self.NAME} {name}").parse_args(rest))

    def help(self, argv: list[str]) -> int:
        """Print the help of the command that ``argv`` begins with, of a noun, or of all."""
        words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
        try:
            factory, name, _ = self.command_manager.find_command(words)
        except ValueError:
            if words and not any(known.split()[: len(words)] == words for known, _ in self.command_manager):
                self._unknown(words)
            if not words:
                self.parser.print_help(self.stdout)
                self.stdout.write("\n")
            write_commands(self.stdout, " ".join(words))
            return 0
        factory(self, self.options).get_parser(f"{self.NAME} {name}").print_help(self.stdout)
        return 0

    def _unknown(self, argv: list[str]) -> NoReturn:
        import difflib

        if argv[0].startswith("-"):
            raise UsageError(f"no such option: {argv[0]}; those of a command stand behind it; see imgbackend --help")
        words = " ".join(itertools.takewhile(lambda word: not word.startswith("-"), argv))
        near = difflib.get_close_matches(words, [name for name, _ in self.command_manager], 3, 0.75)
        known = ", ".join(near or self.get_fuzzy_matches(argv[0]))
        raise UsageError(f"{words!r} is no command" + (f"; did you mean one of these: {known}" if known else ""))

    def _cancelled(self, cancelled: Cancelled) -> int:
        left = cancelled.left or self.left
        self.stderr.write("imgbackend: cancelled" + (f"; {left}" if left else "") + "\n")
        return cancelled.status

    def _failed(self, error: Exception) -> int:
        if self.options.debug:
            import traceback

            traceback.print_exception(error, file=self.stderr)
        text = str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{os.fsdecode(error.filename)}: {error.strerror}"
        told = " ".join(text.split())
        if not isinstance(error, Error | UsageError | OSError):
            told = f"this is a fault of imgbackend itself: {type(error).__name__}: {told}"
            told += "" if self.options.debug else "; --debug shows where"
        self.stderr.write(f"imgbackend: {told}\n")
        return 2 if isinstance(error, UsageError) else 1


class _Console(logging.Handler):
    """Writes to what is stderr *now*: a progress bar puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


def _override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        _refuse(text)
    return key.strip(), value


def _refuse(text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as images_type=raw or lvm.volume_group=vg0")
