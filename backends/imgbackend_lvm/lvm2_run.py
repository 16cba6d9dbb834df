"""Commands run as root under a time limit.

Where this process is not root the limit is timeout(1)'s, which runs as root: nobody else
may end what sudo or rootwrap started.  ``SIGPIPE`` is ignored in the command: should this process be killed,
one that has suspended a device goes on, and resumes it, though nobody reads what it says.
"""

import contextlib
import math
import os
import re
import shutil
import signal
import subprocess
from typing import Final

from oslo_concurrency import processutils

from imgbackend import errors
from imgbackend_lvm.lvm2_errors import meaning, not_started, too_long

_GRACE: Final = 10
"""Seconds from the request to end until a command is killed."""
_READERS: Final = ("lvs", "vgs")


def path_of(tool: str) -> str:
    """Where a tool is: named whole, so that no rule for sudo depends on anybody's PATH."""
    return f"/usr/bin/{tool}" if tool == "dd" else f"/usr/sbin/{tool}"


class Lvm2Commands:
    """Runs commands as root."""

    def __init__(self, *, root_helper: str | None = None, timeout: float = 120.0) -> None:
        """``root_helper`` goes before each command unless this process is root; None: ``sudo -n``.

        ``timeout`` is the seconds that one command may take.
        """
        self.root_helper = root_helper or "sudo -n"
        self.timeout = timeout
        self.changes = 0
        """Commands that were started and may change something: none of lvs and vgs."""

    def line(self, tool: str, *args: str) -> list[str]:
        """The command as the root helper is to run it."""
        return ["timeout", f"--kill-after={_GRACE}", f"{self.timeout:.6g}", path_of(tool), *args]

    def run(self, tool: str, *args: str, fine: re.Pattern[str] | None = None) -> str:
        """What the command prints.

        Where all that a command which failed complains of matches ``fine``, it did not fail.

        :raises Error: what :func:`~imgbackend_lvm.lvm2_errors.meaning` says.
        """
        self.changes += tool not in _READERS
        root = os.geteuid() == 0
        line = [path_of(tool), *args] if root else self.line(tool, *args)
        started: list[subprocess.Popen[bytes]] = []
        try:
            out, _ = processutils.execute(
                *line,
                run_as_root=True,
                root_helper=self.root_helper,
                timeout=math.ceil(self.timeout + (0 if root else 2 * _GRACE)),
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
            if exc.filename == line[0] and root:
                raise not_started(tool, f"{exc.filename}: {exc.strerror}") from exc
            raise _not_installed(exc.filename) from exc
        except OSError as exc:
            # a folder in PATH that may not be searched makes EACCES of what is nowhere
            if isinstance(exc, PermissionError) and shutil.which(exc.filename) is None:
                raise _not_installed(exc.filename) from exc
            raise errors.StorageError(f"cannot start {tool}: {exc.strerror}") from exc
        return out


def _not_installed(helper: str) -> errors.ConfigError:
    return errors.ConfigError(f"{helper} is not installed; install it, or set root_helper")


def _all_match(fine: re.Pattern[str], stderr: str) -> bool:
    complaints = [line for line in stderr.splitlines() if line.strip() and "WARNING:" not in line]
    return bool(complaints) and all(fine.search(line) for line in complaints)


def _go_on_writing() -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def _abandon(process: "subprocess.Popen[bytes]") -> None:
    """End a command: first so that it can resume what it suspended; one that sits in the kernel is let go."""
    for end, seconds in ((process.terminate, _GRACE), (process.kill, 1)):
        with contextlib.suppress(PermissionError, subprocess.TimeoutExpired):
            end()
            process.wait(seconds)
            break
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
