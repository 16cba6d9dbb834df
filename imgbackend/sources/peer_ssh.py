"""The base folder of another host, read by ssh(1) and cat(1)."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from typing import Final

from imgbackend.errors import CommandFailed, ConfigError, ImageNotFound, SourceDenied, SourceError, SourceUnavailable
from imgbackend.sources.retry import Interrupted
from imgbackend.system import runner
from imgbackend.system.runner import CommandLimits
from imgbackend.types import Gi, Mi

_URL: Final = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]*)@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/.*)\Z"
)
_LARGEST: Final = Mi
_OF_SSH: Final = 255
"""The status of ssh where not the command failed there, but ssh itself."""
_DENIED: Final = ("permission denied", "host key verification failed", "too many authentication failures")
_OPTIONS: Final = {
    "BatchMode": "yes",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "PermitLocalCommand": "no",
    "ServerAliveInterval": "10",
}


class SshPlace:
    """A folder of another host."""

    def __init__(self, url: str, *, config: str | None, timeout: int) -> None:
        """Keep the folder's URL; nothing is asked.  ``config`` is a file for ``ssh -F``.

        :raises ConfigError: if it is none.
        """
        match = _URL.match(url)
        if match is None or not url.isprintable():
            raise ConfigError(f"[sources] fallback_url: {url} is not of the form ssh://[user@]host[:port]/path")
        self.shown = url
        self._host, self._path, self._timeout = match["host"].strip("[]"), match["path"], timeout
        self._options = [word for pair in _OPTIONS.items() for word in ("-o", "=".join(pair))]
        self._options += ["-o", f"ConnectTimeout={timeout}"]
        for flag, value in (("-F", config), ("-l", match["user"]), ("-p", match["port"])):
            self._options += [flag, value] if value is not None else []

    def small(self, name: str) -> bytes:
        """All of a small file.

        :raises ImageNotFound: if it is not there.
        :raises SourceError: if it cannot be had, or is not small.
        """
        text = b""
        with contextlib.closing(self.open(name, 0)) as body:
            for chunk in body.chunks():
                text += chunk
                if len(text) > _LARGEST:
                    raise SourceError(f"{self.shown}/{name} has more than {_LARGEST} bytes; it is none of ours")
        return text

    def open(self, name: str, _offset: int) -> "_SshBody":
        """The bytes of a file, from its beginning."""
        # A login shell there reads this line, whichever it is: the path is one word to all of them.
        there = f"env LC_ALL=C cat -- {shlex.quote(f'{self._path}/{name}')}"
        argv = ["ssh", "-T", "-x", *self._options, "--", self._host, there]
        return _SshBody(argv, f"{self.shown}/{name}", self._timeout)


class _SshBody:
    """A :class:`~imgbackend.sources.stream.Body` of what a command prints there."""

    start = 0

    def __init__(self, argv: list[str], what: str, timeout: int) -> None:
        self._what = what
        # ssh has its own time-outs, and hashes a GiB in some seconds; that many GiB a base has not.
        limits = CommandLimits(cpu_seconds=24 * 3600, address_space=2 * Gi, stall_seconds=timeout)
        self._pieces = runner.stream(argv, limits=limits)

    def chunks(self) -> Iterator[bytes]:
        """The bytes.

        :raises Interrupted: if the connection breaks off, or nothing comes.
        """
        try:
            yield from self._pieces
        except CommandFailed as exc:
            raise self._meaning(exc) from exc

    def _meaning(self, exc: CommandFailed) -> SourceError:
        said = " ".join(exc.output.split())[-300:] or exc.reason or f"status {exc.status}"
        if exc.status == _OF_SSH:
            if any(words in said.lower() for words in _DENIED):
                return SourceDenied(
                    f"{self._what}: ssh: {said}; give this user a key there, and the host in known_hosts"
                )
            return Interrupted(f"{self._what}: ssh: {said}")
        if exc.reason or exc.status < 0:
            return Interrupted(f"{self._what}: ssh {exc.reason or said}")
        if "No such file" in said:
            return ImageNotFound(f"{self._what} is not there")
        if "Permission denied" in said:
            return SourceDenied(f"{self._what} may not be read by the user there; give it the permission")
        return SourceUnavailable(f"{self._what}: {said}")

    def close(self) -> None:
        """End the command."""
        self._pieces.close()
