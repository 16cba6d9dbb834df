"""Requests to web servers: the only importer of requests.

Redirects are followed here, hop by hop, so that a login stays with its origin and
https never becomes http.  Every connection is closed with its answer: nothing is
kept that a fork could share.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from imgbackend.errors import ConfigError, Error, ImageNotFound, SourceDenied, SourceUnavailable
from imgbackend.sources.retry import Interrupted, reason
from imgbackend.sources.sparse_file import CHUNK
from imgbackend.sources.urls import Url

if TYPE_CHECKING:
    import requests

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 10
_PASSING = frozenset({408, 425, 429})
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)\Z")
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html[\s>])", re.IGNORECASE)


class Answer:
    """What a server answered; its body is not read yet."""

    def __init__(self, session: "requests.Session", response: "requests.Response", url: Url) -> None:
        self._session, self._response = session, response
        self.url = url
        """Where redirects led."""
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    @property
    def length(self) -> int | None:
        """``Content-Length``, where it is told."""
        told = self.headers.get("Content-Length", "")
        return int(told) if told.isascii() and told.isdigit() else None

    @property
    def etag(self) -> str | None:
        """``ETag``, weak ones too."""
        return self.headers.get("ETag")

    @property
    def modified(self) -> str | None:
        """``Last-Modified``."""
        return self.headers.get("Last-Modified")

    @property
    def is_page(self) -> bool:
        """Whether the server calls it a web page."""
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return kind in ("text/html", "application/xhtml+xml")

    @property
    def coding(self) -> str:
        """``Content-Encoding``; empty for none."""
        told = self.headers.get("Content-Encoding", "").strip().lower()
        return "" if told == "identity" else told.removeprefix("x-")

    def content_range(self) -> tuple[int, int | None] | None:
        """Where a 206 begins, and the size of the whole (None: not told); None: not understood."""
        match = _RANGE.match(self.headers.get("Content-Range", ""))
        if match is None:
            return None
        return int(match[1]), None if match[3] == "*" else int(match[3])

    def read(self) -> Iterator[bytes]:
        """The body as the server sent it, whatever ``Content-Encoding`` says.

        :raises Interrupted: if it breaks off.
        """
        import urllib3

        pieces = self._response.raw.stream(CHUNK, decode_content=False)
        while True:
            try:
                piece = next(pieces, None)
            except (urllib3.exceptions.HTTPError, OSError) as exc:
                raise Interrupted(f"{self.url.shown}: the server broke off: {reason(exc)}") from exc
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        """Close the connection."""
        self._response.close()
        self._session.close()


class Web:
    """How web servers are asked: certificates, proxy, time-out."""

    def __init__(self, *, ca_file: str | None, proxy: str | None, timeout: float) -> None:
        self._verify: str | bool = ca_file or True
        self._proxies = {"http": proxy, "https": proxy} if proxy else None
        self._timeout = timeout

    def ask(self, method: str, url: Url, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer, at the end of all redirects; the caller closes it.

        :raises Interrupted: if the server does not answer.
        :raises SourceUnavailable: if a redirect is refused.
        :raises ConfigError: if its certificate is not trusted.
        """
        at = url
        for _ in range(_HOPS):
            answer = self._once(method, at, headers or {})
            location = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or not location:
                return answer
            answer.close()
            at = _next(at, location)
        raise SourceUnavailable(f"{url.shown}: more than {_HOPS} redirects")

    def _once(self, method: str, url: Url, headers: Mapping[str, str]) -> Answer:
        import requests

        def sign(request: Any) -> Any:
            # Given always, or requests would look for a login in ~/.netrc.
            if url.login is not None:
                requests.auth.HTTPBasicAuth(*url.login)(request)
            return request

        session = requests.Session()
        try:
            response = session.request(
                method,
                url.address,
                headers={"Accept-Encoding": "identity", "User-Agent": "imgbackend", **headers},
                auth=sign,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
                proxies=self._proxies,
                verify=self._verify,
            )
        except (requests.RequestException, OSError, ValueError) as exc:
            session.close()
            raise _failure(url, exc) from exc
        except BaseException:
            session.close()
            raise
        return Answer(session, response, url)


def _next(url: Url, location: str) -> Url:
    try:
        there = url.redirected(location)
    except ValueError as exc:
        raise SourceUnavailable(f"{url.shown}: the server redirects to what is {exc}") from exc
    if url.scheme == "https" and there.scheme != "https":
        raise SourceUnavailable(f"{url.shown}: the server redirects from https to http, which is refused")
    return there


def _failure(url: Url, exc: Exception) -> Error:
    import requests

    if "CERTIFICATE_VERIFY_FAILED" in str(exc):
        return ConfigError(f"{url.shown}: its certificate is not trusted; name its CA in [sources] http_ca_file")
    if isinstance(exc, requests.ConnectionError | requests.Timeout):
        return Interrupted(f"{url.shown}: the server does not answer: {reason(exc)}")
    if isinstance(exc, requests.exceptions.InvalidSchema | requests.exceptions.InvalidURL | ValueError):
        return ConfigError(f"{url.shown}: this URL or the proxy cannot be used: {reason(exc)}")
    if isinstance(exc, requests.RequestException):
        return Interrupted(f"{url.shown}: {reason(exc)}")
    return ConfigError(f"{url.shown}: [sources] http_ca_file cannot be used: {reason(exc)}")


def refusal(answer: Answer) -> Error | None:
    """The error that a status means; None for one that brings the image."""
    status, shown = answer.status, answer.url.shown
    if status in (200, 206):
        return None
    if status in (401, 403, 407):
        return SourceDenied(f"{shown}: the server answers {status}; it wants a login, or another one")
    if status in (404, 410):
        return ImageNotFound(f"{shown}: the server has no such image ({status})")
    if status in _PASSING or status >= 500:
        return Interrupted(f"{shown}: the server answers {status}")
    return SourceUnavailable(f"{shown}: the server answers {status}, which is no image")


def is_page(beginning: bytes) -> bool:
    """Whether bytes begin as a web page does."""
    return _PAGE.match(beginning[:1024]) is not None
