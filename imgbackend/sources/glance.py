"""Images of Glance, the image service of OpenStack.  The only importer of glanceclient.

Records are asked for through glanceclient; the bytes through the same keystoneauth
session, because glanceclient cannot ask for a range, and hands corrupt bytes out
before it says so.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgbackend.errors import Error, ImageNotFound, SourceDenied, SourceUnavailable
from imgbackend.sources import keystone
from imgbackend.sources.contract import Image, Source
from imgbackend.sources.glance_record import GlanceRecord
from imgbackend.sources.retry import Interrupted, Retry, reason
from imgbackend.sources.sparse_file import CHUNK
from imgbackend.sources.stream import StreamOrder, TransferLimits, fetch
from imgbackend.types import Declared, Delivered, Progress

if TYPE_CHECKING:
    from keystoneauth1.session import Session

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.IGNORECASE)
_RANGE = re.compile(r"bytes (\d+)-")
_PASSING = frozenset({408, 425, 429})


class Service:
    """One Glance, as one set of credentials sees it; its errors are ours."""

    def __init__(self, conf: Any, session: "Session | None" = None) -> None:
        """Connects nowhere yet; ``session`` None: by the credentials of ``[glance]``."""
        self._conf, self._session = conf, session
        self.retry = Retry.configured(conf)
        self._lock = threading.Lock()
        self._reached: tuple[int, keystone.KeystoneAccess, Any] | None = None

    def record(self, image_id: str) -> GlanceRecord:
        """What Glance keeps of an image.

        :raises ImageNotFound: if there is none, or this caller does not see it.
        """

        def ask() -> GlanceRecord:
            with _speaking(f"image {image_id}", self):
                return GlanceRecord.of(self._client().images.get(image_id))

        return self.retry.run(ask)

    def named(self, name: str | None) -> list[GlanceRecord]:
        """The images of this name, or all of them."""

        def ask() -> list[GlanceRecord]:
            filters = {} if name is None else {"name": name}
            with _speaking(f"images named {name!r}" if name is not None else "the list of images", self):
                return [GlanceRecord.of(found) for found in self._client().images.list(filters=filters)]

        # Some names mean more to Glance than themselves ("in:a,b").
        return [record for record in self.retry.run(ask) if name in (None, record.name)]

    def open(self, record: GlanceRecord, offset: int) -> "GlanceBody":
        """The bytes of an image from ``offset`` on.

        :raises Interrupted: if that may be tried again.
        """
        what = f"image {record.id}"
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
        with _speaking(what, self):
            access = self._access()
            response = access.adapter().get(
                f"/v2/images/{record.id}/file",
                headers=headers,
                stream=True,
                raise_exc=False,
                log=False,
                timeout=access.timeout,
            )
        if offset and response.status_code == 416:
            response.close()
            return self.open(record, 0)
        body = GlanceBody(response, what)
        if (error := body.refusal()) is not None:
            body.close()
            raise error
        return body

    @property
    def where(self) -> str:
        """For messages: ``Glance``, and its URL as soon as that is known."""
        return f"Glance at {self._reached[1].endpoint}" if self._reached else "Glance"

    def close(self) -> None:
        """Let go of the operator's own connections; a caller's session is the caller's."""
        with self._lock:
            reached, self._reached = self._reached, None
        if reached is not None and self._session is None:
            reached[1].close()

    def _access(self) -> keystone.KeystoneAccess:
        return self._connected()[1]

    def _client(self) -> Any:
        return self._connected()[2]

    def _connected(self) -> tuple[int, keystone.KeystoneAccess, Any]:
        with self._lock:
            # A forked child must not talk on its parent's connections.
            if self._reached is None or self._reached[0] != os.getpid():
                import glanceclient  # type: ignore[import-untyped]  # it has no types

                given = self._session
                access = keystone.connect(self._conf) if given is None else keystone.given(given, self._conf)
                client = glanceclient.Client("2", session=access.session, endpoint_override=access.endpoint)
                self._reached = (os.getpid(), access, client)
            return self._reached


@contextlib.contextmanager
def _speaking(what: str, service: Service) -> Iterator[None]:
    """Turn what glanceclient, keystoneauth and requests raise into errors of ours."""
    import glanceclient.exc as theirs  # type: ignore[import-untyped]  # it has no types

    expected = (*keystone.errors(), theirs.BaseException, theirs.ClientException, theirs.EndpointNotFound)
    try:
        yield
    except Error:
        raise
    except keystone.errors() as exc:
        raise keystone.meaning(exc) from exc
    except expected as exc:
        raise _meaning(exc, what, service.where) from exc
    except OSError as exc:  # requests' errors are
        raise Interrupted(f"{what}: Glance broke off: {reason(exc)}") from exc
    except (AttributeError, TypeError, KeyError, ValueError) as exc:
        # So ends glanceclient where what answers is no Glance: a proxy's login page, say.
        raise SourceUnavailable(f"{what}: what answers is no Glance; see [glance] endpoint_override") from exc


def _short(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300]


def _meaning(exc: Exception, what: str, where: str) -> Error:
    import glanceclient.exc as theirs

    if isinstance(exc, theirs.CommunicationError | theirs.InvalidEndpoint):
        return Interrupted(f"{what}: {where} does not answer: {reason(exc)}")
    if isinstance(exc, theirs.HTTPException):
        code = exc.code if isinstance(exc.code, int) else _code_in(str(exc))
        # An unknown code is 429 or 504, most likely: what else glanceclient forgets is no answer to a GET.
        return (status_error(code, what) if code else None) or Interrupted(f"{what}: Glance answers {_short(exc)}")
    return SourceUnavailable(f"{what}: Glance cannot be used: {_short(exc)}")


def _code_in(text: str) -> int:
    # Of 410, 415, 416, 429 and 504 glanceclient keeps the number in its text only.
    match = re.search(r"\b([45]\d\d)\b", text)
    return int(match[1]) if match else 0


def status_error(status: int, what: str) -> Error | None:
    """The error that an HTTP status of Glance means; None for one that brings something."""
    if 200 <= status < 300:
        return None
    if status == 401:
        return SourceDenied(f"{what}: Glance refuses the credentials (401); see [glance], or log in anew")
    if status == 403:
        return SourceDenied(f"{what}: Glance forbids it to these credentials (403); it may be deactivated")
    if status in (404, 410):
        return ImageNotFound(f"{what}: Glance has no such image, or does not show it to these credentials ({status})")
    if status in _PASSING or status >= 500:
        return Interrupted(f"{what}: Glance answers {status}")
    return SourceUnavailable(f"{what}: Glance answers {status}")


class GlanceBody:
    """A :class:`~imgbackend.sources.stream.Body` of an answer of Glance."""

    def __init__(self, response: Any, what: str) -> None:
        self._response, self._what = response, what
        match = _RANGE.match(response.headers.get("Content-Range", ""))
        self.start = int(match[1]) if response.status_code == 206 and match else 0

    def refusal(self) -> Error | None:
        """Why this is not the image's bytes; None: it is."""
        response = self._response
        if response.status_code == 204:
            return ImageNotFound(f"{self._what} has no data: they are gone from Glance's store, or were never there")
        if (error := status_error(response.status_code, self._what)) is not None:
            return error
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        coding = response.headers.get("Content-Encoding", "identity")
        if kind != "application/octet-stream" or coding != "identity":
            told = f"what answers is no Glance ({kind or 'no type'}, {coding})"
            return SourceUnavailable(f"{self._what}: {told}; see [glance] endpoint_override")
        return None

    def chunks(self) -> Iterator[bytes]:
        """The bytes.

        :raises Interrupted: if Glance breaks off or stalls.
        """
        pieces = self._response.iter_content(CHUNK)
        while True:
            try:
                piece = next(pieces, None)
            except OSError as exc:  # requests' errors are
                raise Interrupted(f"{self._what}: Glance broke off: {reason(exc)}") from exc
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        """Let go of the connection."""
        self._response.close()


class GlanceImage(Image):
    """One image of Glance.  ``id``, ``filename`` and ``role`` ask nobody; the rest asks once."""

    def __init__(self, service: Service, image_id: str, conf: Any, record: GlanceRecord | None = None) -> None:
        self._service, self._id, self._conf = service, image_id, conf
        self._lock = threading.Lock()
        self._known = record

    @property
    def record(self) -> GlanceRecord:
        """What Glance keeps of it; asked once."""
        with self._lock:
            if self._known is None:
                self._known = self._service.record(self._id)
            return self._known

    @property
    def id(self) -> str:
        """The uuid: what it names never changes its bytes."""
        return self._id

    @property
    def name(self) -> str:
        """As Glance has it; the id where it has none."""
        return self.record.name or self._id

    @property
    def kernel_id(self) -> str | None:
        """The id of the kernel image."""
        return self.record.kernel_id

    @property
    def ramdisk_id(self) -> str | None:
        """The id of the ramdisk image."""
        return self.record.ramdisk_id

    @property
    def properties(self) -> dict[str, str]:
        """The image's own properties: ``hw_disk_bus``, ``os_type`` and what else its owner wrote."""
        return dict(self.record.properties)

    @property
    def declared(self) -> Declared:
        """What Glance says of the bytes.

        :raises SourceDenied: if it is deactivated.
        :raises ImageNotFound: if it has no data yet, or no more.
        :raises TemplateError: if it is a container of images.
        """
        return self.record.declared(self.role)

    @property
    def resumable(self) -> bool:
        """Wherever Glance knows a digest: it has ranges."""
        return bool(self.record.digests)

    def __call__(self, target: Path, progress: Progress, /) -> Delivered:
        """As :meth:`Image.__call__`; what Glance knows the digest of is always checked against it."""
        declared = self.declared
        wanted = StreamOrder(
            name=f"image {self._id}",
            size=declared.size,
            digests=declared.digests,
            format=declared.format,
            wrapper=None,
            limits=TransferLimits.configured(self._conf),
            resumable=self.resumable,
        )
        record = self.record
        return fetch(target, lambda offset: self._service.open(record, offset), wanted, self._service.retry, progress)


class GlanceSource(Source):
    """``glance:<id>`` and ``glance:<name>``."""

    group = keystone.GROUP
    opts = keystone.OPTS

    def __init__(self, conf: Any) -> None:
        super().__init__(conf)
        self._own = Service(conf)

    @classmethod
    def further_opts(cls, conf: Any) -> Mapping[str, Sequence[Any]]:
        """What keystoneauth's plugin reads, in the section that the credentials are in."""
        return keystone.further_opts(conf)

    def find(self, ref: str, *, session: Any | None = None) -> GlanceImage:
        """By id: asked lazily, or at once with a ``session``.  By name: asked at once."""
        what = ref.removeprefix("glance:")
        service = self._own if session is None else Service(self.conf, session)
        if _UUID.match(what):
            image = GlanceImage(service, what.lower(), self.conf)
            if session is not None:
                image.record.check()
            return image
        record = _only(what, service.named(what) if what else [])
        if session is not None:
            record.check()
        return GlanceImage(service, record.id, self.conf, record)

    def images(self) -> Iterator[GlanceImage]:
        """The images that the operator's credentials see and that have data."""
        for record in self._own.named(None):
            if record.status == "active":
                yield GlanceImage(self._own, record.id, self.conf, record)

    def close(self) -> None:
        """Let go of connections; what is asked later connects anew."""
        self._own.close()


def _only(name: str, found: list[GlanceRecord]) -> GlanceRecord:
    found = [record for record in found if record.status == "active"] or found
    if not found:
        raise ImageNotFound(f"Glance has no image named {name!r}, or does not show it to these credentials")
    if len(found) > 1:
        ids = " or ".join(f"glance:{record.id}" for record in sorted(found, key=lambda record: record.id))
        raise ImageNotFound(f"Glance has {len(found)} images named {name!r}; choose by id: {ids}")
    return found[0]
