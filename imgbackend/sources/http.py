"""Images of web servers, http and https."""

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from oslo_config import cfg, types

from imgbackend.errors import ConfigError, ImageNotFound, SourceError, SourceUnavailable
from imgbackend.sources.contract import Image, Source
from imgbackend.sources.filenames import SUMS, Suffixes, suffixes, sum_of
from imgbackend.sources.retry import Retry
from imgbackend.sources.stream import StreamOrder, TransferLimits, fetch
from imgbackend.sources.urls import Url, parse
from imgbackend.sources.web import Answer, Web, is_page, refusal
from imgbackend.types import Declared, Delivered, Mi, Progress

_LARGEST_SUMS = 4 * Mi
_NO_HEAD = frozenset({400, 403, 405, 501})


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFacts:
    """What a server tells of a file without sending it."""

    size: int | None
    etag: str | None
    modified: str | None

    @classmethod
    def of(cls, answer: Answer) -> "HttpFacts":
        """What the headers of an answer say."""
        return cls(size=answer.length, etag=answer.etag, modified=answer.modified)

    @property
    def strong(self) -> str | None:
        """The ETag, where it promises the same bytes (RFC 9110, 8.8.1)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else None

    @property
    def version(self) -> str | None:
        """What changes when the bytes do; None: the server does not tell."""
        if self.strong:
            return f"etag={self.strong}"
        told = [f"modified={self.modified}" if self.modified else "", f"etag={self.etag}" if self.etag else ""]
        return ",".join(filter(None, told)) or None


class HttpImage(Image):
    """One file of a web server."""

    def __init__(self, url: Url, web: Web, conf: Any) -> None:
        """Asks the server, unless the URL pins a digest: the id is made of what it tells.

        The id is ``http:<url>:`` and the digest that is pinned or published in a
        SHA256SUMS, else the ETag, or Last-Modified.

        :raises SourceError: if there is none of them.
        """
        self._url, self._web, self._conf = url, web, conf
        self._retry = Retry.configured(conf)
        self._suffixes = suffixes(url.name)
        self._facts: HttpFacts | None = None
        self._lock = threading.Lock()
        self._digests = url.digests or self._published()
        version = "=".join(self._digests[0]) if self._digests else self._asked().version
        if version is None:
            raise SourceError(
                f"{url.shown}: the server tells no version of it (ETag, Last-Modified, SHA256SUMS); "
                "pin one: add #sha256:<hex> to the URL"
            )
        self._id = f"http:{url.shown}:{version}"

    @property
    def id(self) -> str:
        """The URL, without its secrets, and what changes when the bytes do."""
        return self._id

    @property
    def name(self) -> str:
        """The last part of the URL's path."""
        return self._url.name or self._url.shown

    @property
    def _told(self) -> Suffixes:
        return self._suffixes if self.role == "image" else Suffixes(None, None)

    @property
    def declared(self) -> Declared:
        """What the URL, the server and a SHA256SUMS say."""
        size = self._asked().size
        told = self._told
        return Declared(
            image_id=self.id,
            source=self._url.shown,
            role=self.role,
            format=told.format,
            size=None if told.wrapper else size,
            virtual_size=size if told.format in ("raw", "iso") and not told.wrapper else None,
            digests=self._digests,
        )

    @property
    def resumable(self) -> bool:
        """With a digest, and not packed.  A server without ranges is found out when it is asked for one."""
        return bool(self._digests) and not self._told.wrapper

    def _published(self) -> tuple[tuple[str, str], ...]:
        self._asked()  # first: an error then names the image, not the file beside it
        found = self._retry.run(self._sums)
        digest = sum_of(found, self._url.name) if found and self._url.name else None
        return (("sha256", digest),) if digest else ()

    def _sums(self) -> str | None:
        answer = self._web.ask("GET", self._url.beside(SUMS))
        try:
            # Object stores say 403 where one may not list and there is nothing.
            if answer.status in (403, 404, 405, 410) or answer.is_page:
                return None
            if (error := refusal(answer)) is not None:
                raise error
            text = b""
            for chunk in answer.read():
                text += chunk
                if len(text) > _LARGEST_SUMS:
                    return None
            return text.decode("utf-8", "replace")
        finally:
            answer.close()

    def _asked(self) -> HttpFacts:
        with self._lock:
            if self._facts is None:
                self._facts = self._retry.run(self._ask)
            return self._facts

    def _ask(self) -> HttpFacts:
        answer = self._web.ask("HEAD", self._url)
        if answer.status in _NO_HEAD:
            answer.close()
            answer = self._web.ask("GET", self._url)
        try:
            self._check(answer)
            return HttpFacts.of(answer)
        finally:
            answer.close()

    def _check(self, answer: Answer) -> None:
        """Refuse what is not the image."""
        if (error := refusal(answer)) is not None:
            raise error
        if answer.is_page:
            self._refuse_page()
        # Some servers say gzip of a file that is a .gz: its bytes are then as they are stored.
        if answer.coding and not (answer.coding == "gzip" and self._suffixes.wrapper == "gz"):
            raise SourceUnavailable(
                f"{self._url.shown}: the server sends it packed ({answer.coding}), which was not asked for"
            )

    def _check_version(self, answer: Answer) -> None:
        """Refuse what is no longer what the id says; with a digest that is seen at the end."""
        if not self._digests and HttpFacts.of(answer).version != self._asked().version:
            raise SourceUnavailable(f"{self._url.shown}: it changed since the server was asked; ask for it again")

    def _refuse_page(self) -> NoReturn:
        raise ImageNotFound(f"{self._url.shown}: the server sends a web page, not an image; look at it in a browser")

    def __call__(self, target: Path, progress: Progress, /) -> Delivered:
        """As :meth:`Image.__call__`; a page that says 200 is refused before the target is made."""
        told = self._told
        wanted = StreamOrder(
            name=self._url.shown,
            size=self._asked().size,
            digests=self._digests,
            format=told.format,
            wrapper=told.wrapper,
            limits=TransferLimits.configured(self._conf),
            resumable=self.resumable,
        )
        return fetch(target, self._open, wanted, self._retry, progress)

    def _open(self, offset: int) -> "_HttpBody":
        facts = self._asked()
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and facts.strong:
            headers["If-Range"] = facts.strong
        answer = self._web.ask("GET", self._url, headers)
        if offset and (answer.status == 416 or (answer.status == 206 and not _fits(answer, offset, facts.size))):
            answer.close()
            return self._open(0)
        try:
            self._check(answer)
            self._check_version(answer)
        except BaseException:
            answer.close()
            raise
        return _HttpBody(answer, offset if answer.status == 206 else 0, self._refuse_page)


def _fits(answer: Answer, offset: int, size: int | None) -> bool:
    told = answer.content_range()
    return told is not None and told[0] == offset and (None in (told[1], size) or told[1] == size)


class _HttpBody:
    """A :class:`~imgbackend.sources.stream.Body` of an answer."""

    def __init__(self, answer: Answer, start: int, refuse_page: Any) -> None:
        self._answer, self.start, self._refuse_page = answer, start, refuse_page

    def chunks(self) -> Iterator[bytes]:
        chunks = self._answer.read()
        first = next(chunks, b"")
        if not self.start and is_page(first):
            self._refuse_page()
        yield from itertools.chain((first,), chunks)

    def close(self) -> None:
        self._answer.close()


class HttpSource(Source):
    """``http://`` and ``https://`` URLs, a digest pinned after ``#`` where the user wants one."""

    opts = (
        cfg.StrOpt(
            "http_ca_file", help="PEM file of the CAs that web servers are checked against. None: those of certifi."
        ),
        cfg.StrOpt(
            "http_proxy",
            help="URL of the proxy for web servers. None: http_proxy, https_proxy and no_proxy of the environment.",
        ),
        cfg.Opt(
            "http_timeout",
            type=types.Float(min=0.1),
            default=60.0,
            help="Seconds that a web server may be silent, when it is asked or while it sends.",
        ),
    )

    def find(self, ref: str, *, session: Any | None = None) -> HttpImage:  # noqa: ARG002 - a login is in the URL
        """The image of a URL; the server is asked at once, unless the URL pins a digest."""
        url = parse(ref)
        options = self.conf.sources
        web = Web(ca_file=options.http_ca_file, proxy=options.http_proxy, timeout=options.http_timeout)
        return HttpImage(url, web, self.conf)

    def images(self) -> Iterator[HttpImage]:
        """:raises ConfigError: always: web servers cannot be asked what they have."""
        raise ConfigError("a web server cannot list its images; name one by its URL")
