"""Commands run as root under a time limit.

The limit is timeout(1)'s, which runs as root too: nobody else may end what sudo or
rootwrap started.  ``SIGPIPE`` is ignored in the command: should this process be killed,
one that has suspended a device goes on, and resumes it, though nobody reads what it says.
"""

import contextlib
import os
import re
import signal
import subprocess
from typing import Final

from oslo_concurrency import processutils

from imgbackend import errors
from imgbackend_lvm.meanings import meaning, too_long

_GRACE: Final = 10
"""Seconds from the request to end until a command is killed."""


def path_of(tool: str) -> str:
    """Where a tool is: named whole, so that no rule for sudo depends on anybody's PATH."""
    return f"/usr/bin/{tool}" if tool == "dd" else f"/usr/sbin/{tool}"


class Commands:
    """Runs commands as root."""

    def __init__(self, *, root_helper: str | None = None, timeout: float = 120.0) -> None:
        """``root_helper`` goes before each command unless this process is root; None: ``sudo -n``.

        ``timeout`` is the seconds that one command may take.
        """
        self.root_helper = root_helper or "sudo -n"
        self.timeout = timeout

    def line(self, tool: str, *args: str) -> list[str]:
        """The command as it is run, but for the root helper."""
        return ["timeout", f"--kill-after={_GRACE}", f"{self.timeout:.6g}", path_of(tool), *args]

    def run(self, tool: str, *args: str, fine: re.Pattern[str] | None = None) -> str:
        """What the command prints.

        Where all that a command which failed complains of matches ``fine``, it did not fail.

        :raises Error: what :func:`~imgbackend_lvm.meanings.meaning` says.
        """
        started: list[subprocess.Popen[bytes]] = []
        try:
            out, _ = processutils.execute(
                *self.line(tool, *args),
                run_as_root=True,
                root_helper=self.root_helper,
                timeout=int(self.timeout) + 2 * _GRACE,
                env_variables={**os.environ, "LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"},
                preexec_fn=_go_on_writing,
                on_execute=started.append,
            )
        except processutils.ProcessExecutionError as exc:
            if fine is not None and _all_match(fine, exc.stderr or ""):
                return str(exc.stdout)
            raise meaning((tool, *args), int(exc.exit_code or 0), exc.stderr or "", seconds=self.timeout) from exc
        except subprocess.TimeoutExpired as exc:
            _abandon(started[0])
            raise too_long(tool, self.timeout) from exc
        except FileNotFoundError as exc:
            raise errors.ConfigError(f"{exc.filename} is not installed; install it, or set root_helper") from exc
        except OSError as exc:
            raise errors.StorageError(f"cannot start {tool}: {exc.strerror}") from exc
        return out


def _all_match(fine: re.Pattern[str], stderr: str) -> bool:
    complaints = [line for line in stderr.splitlines() if line.strip() and "WARNING:" not in line]
    return bool(complaints) and all(fine.search(line) for line in complaints)


def _go_on_writing() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def _abandon(process: "subprocess.Popen[bytes]") -> None:
    """Let go of a command that even root could not end: it sits in the kernel."""
    with contextlib.suppress(PermissionError):
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
