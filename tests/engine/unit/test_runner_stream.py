"""What a command prints, piece by piece."""

import os
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.system import runner
from imgbackend.system.runner import CommandLimits
from imgbackend.types import Gi, Mi

_LIMITS = CommandLimits(cpu_seconds=60, address_space=Gi, stall_seconds=60)


def test_all_that_is_printed_comes_in_pieces() -> None:
    pieces = list(runner.stream(["head", "-c", str(Mi), "/dev/zero"], limits=_LIMITS))
    assert b"".join(pieces) == bytes(Mi)
    assert len(pieces) > 1


def test_failure_is_told_when_all_was_had() -> None:
    pieces = runner.stream(["sh", "-c", "echo half; echo oh no >&2; exit 3"], limits=_LIMITS)
    assert next(pieces) == b"half\n"
    with pytest.raises(errors.CommandFailed, match="ended with 3: oh no") as caught:
        next(pieces)
    assert (caught.value.status, caught.value.output) == (3, "oh no\n")


def test_complaints_without_an_end_are_not_kept() -> None:
    script = "head -c 9999999 /dev/zero | tr '\\0' x >&2; echo last >&2; exit 1"
    with pytest.raises(errors.CommandFailed) as caught:
        list(runner.stream(["sh", "-c", script], limits=_LIMITS))
    assert len(caught.value.output) < Mi
    assert caught.value.output.endswith("last\n")


def test_closing_ends_the_command(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    pieces = runner.stream(["sh", "-c", f"echo $$ >{told}; exec yes"], limits=_LIMITS)
    assert next(pieces).startswith(b"y\n")
    pieces.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


def test_command_that_sends_nothing_is_ended() -> None:
    limits = CommandLimits(cpu_seconds=60, address_space=Gi, stall_seconds=1)
    with pytest.raises(errors.CommandFailed, match="sent nothing for 1 s"):
        list(runner.stream(["sleep", "60"], limits=limits))


def test_limit_that_fired_is_named() -> None:
    limits = CommandLimits(cpu_seconds=1, address_space=Gi, stall_seconds=60)
    with pytest.raises(errors.CommandFailed, match="limit of 1 s of CPU time"):
        list(runner.stream(["sh", "-c", "while :; do :; done"], limits=limits))


def test_missing_command_is_named() -> None:
    with pytest.raises(errors.ConfigError, match="nosuchcommand is not installed"):
        list(runner.stream(["nosuchcommand"], limits=_LIMITS))
