"""A host whose commands fail on purpose: the one place where the kit stands in for something real."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from imgbackend import errors
from imgbackend.system import runner
from imgbackend.system.host import Host, Settings
from imgbackend.system.runner import CommandLimits

Fault: TypeAlias = Literal["fails", "fails at its end", "hangs", "ends half-way", "prints rubbish"]

FAULTS: Final[tuple[Fault, ...]] = ("fails", "fails at its end", "hangs", "ends half-way", "prints rubbish")

RUBBISH: Final = "\x00\x7f rubbish }{"

_HALF: Final = 70000
"""Bytes that a command may write before it is ended half-way."""


class BrokenHost(Host):
    """One of its commands fails, in one way; the others are run."""

    def __init__(self, settings: Settings, at: int | None = None, fault: Fault = "fails") -> None:
        """``at``: the number of the command; None: none fails, they are counted."""
        super().__init__(settings)
        self._at, self._fault = at, fault
        self.count = 0

    def run(
        self,
        argv: Sequence[str],
        *,
        limits: CommandLimits,
        pass_fds: Sequence[int] = (),
        identity: runner.UnixIdentity | None = None,
        watch: Callable[[str], None] | None = None,
    ) -> str:
        """As a host does, but for that one command."""
        number, self.count = self.count, self.count + 1
        if number == self._at:
            if self._fault == "ends half-way":
                limits = dataclasses.replace(limits, file_size=_HALF)
            elif self._fault == "hangs":  # what the runner makes of that
                stalled = f"did nothing for {limits.stall_seconds} s"
                raise errors.CommandFailed(argv, -9, "", reason=stalled)
            elif self._fault == "fails":
                raise errors.CommandFailed(argv, 1, f"{argv[0]}: it fails, as the conformance kit wants it to")
        done = super().run(argv, limits=limits, pass_fds=pass_fds, identity=identity, watch=watch)
        if number == self._at and self._fault == "fails at its end":
            raise errors.CommandFailed(argv, 1, f"{argv[0]}: it fails, as the conformance kit wants it to")
        return RUBBISH if number == self._at and self._fault == "prints rubbish" else done
