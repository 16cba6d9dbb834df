"""Processes started without a copy of this one; for where fork is dear, as it is in LVM's lab."""

import subprocess
from typing import Any


class _QuickPopen(subprocess.Popen[bytes]):
    """Starts a process without a copy of this one, which takes a quarter of a second in the lab.

    What oslo.concurrency and the driver set after a fork is the signal SIGPIPE alone: Python
    ignores it, and a child that gets back no signals does so too.
    """

    def __init__(self, *args: Any, preexec_fn: object = None, restore_signals: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, restore_signals=restore_signals and preexec_fn is None, **kwargs)  # type: ignore[call-overload]  # whatever Popen takes


def start_quickly() -> None:
    """Have all commands of this process started as :class:`_QuickPopen` does."""
    subprocess.Popen = _QuickPopen  # type: ignore[assignment,misc]  # a class is assigned to
