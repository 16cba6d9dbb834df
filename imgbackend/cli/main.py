"""The command ``imgbackend``: a thin client of the library, one module per noun.

Imports are what a short command costs, so this module imports nothing of weight, the
table of commands (:mod:`imgbackend.cli.commands`) names classes without importing
them, and a command imports the engine when it needs it.
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: done.  1: an error, told in one line on stderr.  2: wrong usage.  128 and the
    number of the signal: cancelled by that signal.

    ``argv`` None: the arguments of this process.
    """
    import os
    import sys

    from imgbackend.cli.signals import Cancelled, Signals

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    with Signals() as signals:
        try:
            from imgbackend.cli.app import App

            return App(signals).run(list(sys.argv[1:] if argv is None else argv))
        except Cancelled as cancelled:
            sys.stderr.write("imgbackend: cancelled\n")
            return cancelled.status
