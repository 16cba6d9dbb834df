"""URLs of images: what is pinned in them, and what may be shown of them."""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlencode, urljoin, urlsplit, urlunsplit

from imgbackend.errors import ConfigError

_PIN = re.compile(r"(sha256|sha512)[:=]([0-9a-fA-F]+)\Z")
_LENGTHS = {"sha256": 64, "sha512": 128}
_SECRET = re.compile(r"token|sig|secret|pass|pwd|auth|credential|key|security", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Url:
    """A URL of a web server, its secrets apart."""

    address: str = field(repr=False)
    """For the request: without user, password and fragment."""
    shown: str
    """For people, ids and records: secrets in the query are masked too."""
    login: tuple[str, str] | None = field(default=None, repr=False)
    digests: tuple[tuple[str, str], ...] = ()
    """``(algorithm, hex)`` pinned by the fragment."""

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return urlsplit(self.address).scheme

    @property
    def origin(self) -> tuple[str, str | None, int | None]:
        """Scheme, host and port: a login is for one of these alone."""
        parts = urlsplit(self.address)
        return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]

    @property
    def name(self) -> str:
        """The last part of the path, as a file's name."""
        return unquote(urlsplit(self.address).path.rpartition("/")[2])

    def beside(self, name: str) -> "Url":
        """A file of this name in the same folder of the server."""
        address = urljoin(urlunsplit((*urlsplit(self.address)[:3], "", "")), name)
        return Url(address=address, shown=_masked(address), login=self.login)

    def redirected(self, location: str) -> "Url":
        """Where the server's ``Location`` leads from here; a login goes with it to the same origin only.

        :raises ValueError: if that is no URL of a web server.
        """
        parts = urlsplit(urljoin(self.address, location))
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"not a URL of a web server: {parts.scheme}:")
        address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
        found = Url(address=address, shown=_masked(address))
        return Url(address=address, shown=found.shown, login=self.login if found.origin == self.origin else None)


def parse(ref: str) -> Url:
    """The URL that a user wrote, ``#sha256:<hex>`` or ``#sha512:<hex>`` read as a pin.

    :raises ConfigError: if it is none; the message holds no secret.
    """
    try:
        parts = urlsplit(ref)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigError(f"not a URL: {exc}") from exc
    if parts.scheme not in _PORTS or not host or (port is not None and not 0 < port < 65536):
        raise ConfigError("not a URL of a web server; write https://host/path/to/image")
    if any(ord(char) <= 32 or ord(char) == 127 for char in ref):
        raise ConfigError("a URL has no spaces and no control characters; write them as %20 and so on")
    login = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None
    address = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, ""))
    return Url(address=address, shown=_masked(address), login=login, digests=_pinned(parts.fragment))


def _pinned(fragment: str) -> tuple[tuple[str, str], ...]:
    if not fragment:
        return ()
    match = _PIN.match(fragment)
    if match is None or len(match[2]) != _LENGTHS[match[1]]:
        raise ConfigError(
            f"after # a URL may pin a digest, sha256:<64 hex digits> or sha512:<128>, and nothing else: {fragment!r}"
        )
    return ((match[1], match[2].lower()),)


def _masked(address: str) -> str:
    parts = urlsplit(address)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if not any(_SECRET.search(name) for name, _ in query):
        return address
    shown = urlencode([(name, "***" if _SECRET.search(name) else value) for name, value in query], safe="*/:,")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, shown, ""))
