"""Bases of other hosts: ``peer://HOST/NAME``, from the base folder that HOST serves.

It is where an image is had from that its own source no longer has.  The base's manifest is
asked for first; it is believed only as far as the bytes bear it out: they are compared with
the digest that it tells, and inspected as those of any source are.  A base of which it tells
no digest is refused.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from oslo_config import cfg

from imgbackend.errors import ConfigError, ImageNotFound, SourceError, TemplateCorrupt
from imgbackend.sources.contract import Image, Source
from imgbackend.sources.http import HttpSource
from imgbackend.sources.peer_ssh import SshPlace
from imgbackend.sources.peer_web import WebPlace
from imgbackend.sources.retry import Retry
from imgbackend.sources.stream import Body, StreamOrder, TransferLimits, fetch
from imgbackend.sources.web import Web
from imgbackend.state import digests
from imgbackend.system import files
from imgbackend.types import Declared, Delivered, Progress, Role, base_name

HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])\Z")
"""A name or an address of a host, as it is in a URL."""
_REF: Final = re.compile(r"peer://([^/]+)/([0-9a-f]{40})\Z")
_HEX: Final = re.compile(r"[0-9a-f]{32,128}\Z")
_FORMATS: Final = ("raw", "qcow2")


class PeerPlace(Protocol):
    """The base folder of another host."""

    shown: str
    """For messages."""

    def small(self, name: str) -> bytes:
        """All of a small file."""

    def open(self, name: str, offset: int) -> Body:
        """The bytes of a file; they may begin at 0 whatever ``offset`` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What another host's manifest says of a base."""

    image_id: str
    source: str | None
    role: Role
    format: str
    size: int
    virtual_size: int
    min_disk: int
    content: str | None
    """The content digest of a raw base."""
    digests: tuple[tuple[str, str], ...]
    """Of the file's bytes, where it is kept as its source delivered it."""

    @classmethod
    def read(cls, text: bytes, name: str, where: str) -> "Kept":
        """What a manifest says, nothing of it taken for granted.

        :raises SourceError: if it is no manifest of a base of this name.
        """
        try:
            return cls._of(json.loads(text), name)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise SourceError(f"{where}: {name}.json is no manifest of an image's base: {exc}") from exc

    @classmethod
    def _of(cls, told: Any, name: str) -> "Kept":
        image_id, role, form = _text(told["image_id"]), told["role"], told["format"]
        if base_name(image_id) != name:
            raise ValueError("it is another image's")
        if role not in ("image", "boot-file") or form not in _FORMATS:
            raise ValueError(f"it is of a {role!r}, as {form!r}")
        size = _number(told["identity"]["size"])
        as_delivered = (told.get("delivered_format"), told.get("delivered_size")) == (form, size)
        algorithm, digest = told.get("digest_algorithm"), told.get("digest")
        return cls(
            image_id=image_id,
            source=_text(told["source"]) if told.get("source") is not None else None,
            role=role,
            format=form,
            size=size,
            virtual_size=_number(told["virtual_size"]),
            min_disk=_number(told.get("min_disk", 0)),
            content=_hex(digest) if form == "raw" and algorithm == digests.ALGORITHM and digest is not None else None,
            digests=tuple((_text(each[0]), _hex(each[1])) for each in told["delivered_digests"] if as_delivered),
        )


def _text(told: Any) -> str:
    if not isinstance(told, str) or not told or not told.isprintable():
        raise ValueError(f"{told!r} is no text")
    return told


def _number(told: Any) -> int:
    if not isinstance(told, int) or isinstance(told, bool) or told < 0:
        raise ValueError(f"{told!r} is no size")
    return told


def _hex(told: Any) -> str:
    if not isinstance(told, str) or not _HEX.match(told):
        raise ValueError(f"{told!r} is no digest")
    return told


class PeerImage(Image):
    """A base of another host, as an image."""

    def __init__(self, place: PeerPlace, base: str, conf: Any) -> None:
        """Asks for the manifest.

        :raises ImageNotFound: if that host has no such base, or cannot tell a digest of it.
        """
        self._place, self._base, self._conf = place, base, conf
        self._retry = Retry.configured(conf)
        try:
            text = self._retry.run(lambda: place.small(f"{base}.json"))
        except ImageNotFound as exc:
            raise ImageNotFound(
                f"{exc}; a base that Nova made has a manifest once imgbackend made a disk of it there"
            ) from exc
        self._kept = Kept.read(text, base, place.shown)
        if self._kept.content is None and not self._kept.digests:
            advice = f"; there, run: imgbackend cache verify {base}" if self._kept.format == "raw" else ""
            raise ImageNotFound(f"{place.shown} knows no digest of {base}, and nothing is taken unchecked{advice}")

    @property
    def id(self) -> str:
        """The image's: that of its own source."""
        return self._kept.image_id

    @property
    def name(self) -> str:
        """Where that host had it from."""
        return self._kept.source or self.id

    @property
    def declared(self) -> Declared:
        """What the manifest says; the source is the image's own.

        :raises ImageNotFound: if that host keeps it as something else: a kernel, or a disk image.
        """
        kept = self._kept
        if kept.role != self.role:
            raise ImageNotFound(f"{self._place.shown} keeps {self._base} as a {kept.role}, and a {self.role} is wanted")
        return Declared(
            image_id=kept.image_id,
            source=kept.source or f"{self._place.shown}/{self._base}",
            role=self.role,
            format=kept.format,
            size=kept.size,
            virtual_size=kept.virtual_size,
            min_disk=kept.min_disk,
            digests=kept.digests,
        )

    def __call__(self, target: Path, progress: Progress, /) -> Delivered:
        """As :meth:`Image.__call__`; the bytes are compared with what the manifest tells."""
        declared = self.declared
        wanted = StreamOrder(
            name=f"{self._place.shown}/{self._base}",
            size=declared.size,
            digests=declared.digests,
            format=declared.format,
            wrapper=None,
            limits=TransferLimits.configured(self._conf),
            resumable=False,
        )
        delivered = fetch(target, lambda offset: self._place.open(self._base, offset), wanted, self._retry, progress)
        if self._kept.content is not None:
            self._compare(target, delivered.content, progress)
        return delivered

    def _compare(self, target: Path, found: str | None, progress: Progress) -> None:
        if found is None:
            with files.open_fd(target, 0) as fd:
                found = digests.content_digest(fd, progress)
        if found != self._kept.content:
            raise TemplateCorrupt(
                f"{self._place.shown}/{self._base} is corrupt: its content is {found}, "
                f"and its manifest says {self._kept.content}"
            )


class PeerSource(Source):
    """``peer://HOST/NAME``, and what other images fall back to."""

    opts = (
        *HttpSource.opts,
        cfg.StrOpt(
            "fallback_url",
            default="ssh://{host}$instances_path/${image_cache.subdirectory_name}",
            help="The base folder of another host, {host} being its name: ssh://[user@]{host}[:port]/path, "
            "read with ssh and cat, or http:// or https://, served by a web server there.",
        ),
        cfg.StrOpt(
            "fallback_ssh_config",
            help="The configuration file of ssh for that (ssh -F): keys, ports, known hosts. None: the user's own.",
        ),
        cfg.IntOpt("fallback_timeout", min=1, default=30, help="Seconds that another host may be silent."),
    )

    def find(self, ref: str, *, session: Any | None = None) -> PeerImage:
        """The base that ``peer://HOST/NAME`` names; its host is asked for the manifest.

        :raises ConfigError: with a ``session``: whether its owner may see the image, no base can tell.
        """
        match = _REF.match(ref)
        if match is None:
            raise ConfigError(f"{ref}: a base of another host is peer://HOST/NAME, NAME being 40 hex digits")
        if session is not None:
            raise ConfigError(f"{ref}: bases of other hosts are for the operator alone")
        return self.on(match[1], match[2])

    def on(self, host: str, base: str) -> PeerImage:
        """A base of a host.

        :raises ConfigError: if that is no name of a host, or ``fallback_url`` is no URL.
        :raises SourceError: if it cannot be had.
        """
        if not HOST.match(host):
            raise ConfigError(f"{host!r} is no name of a host")
        return PeerImage(self._place(host), base, self.conf)

    def _place(self, host: str) -> PeerPlace:
        options = self.conf.sources
        url = options.fallback_url.replace("{host}", host).rstrip("/")
        if url.startswith("ssh://"):
            return SshPlace(url, config=options.fallback_ssh_config, timeout=options.fallback_timeout)
        timeout = float(options.fallback_timeout)
        web = Web(ca_file=options.http_ca_file, proxy=options.http_proxy, timeout=timeout)
        return WebPlace(url, web)

    def images(self) -> Iterator[PeerImage]:
        """:raises ConfigError: always: which host is meant is told with each reference."""
        raise ConfigError("other hosts are not listed; name a base as peer://HOST/NAME")
