"""How an image is named, and what is done where its source is down."""

import logging
from typing import TYPE_CHECKING, Any

from imgbackend import errors
from imgbackend.bases.store import Bases
from imgbackend.sources.contract import Image, Source
from imgbackend.types import Declared, Delivered, Progress, base_name

if TYPE_CHECKING:
    from imgbackend.sources.peer import PeerSource

LOG = logging.getLogger(__name__)

_SCHEMES = {"file": "folder"}


def source_of(ref: str, default: str) -> str:
    """The name of the source that a reference is for.

    ``glance:<id or name>``, ``https://...``, ``file:///...``; a path has a ``/`` or begins
    with a dot; anything else is a bare name, for the ``default`` source.

    :raises ImageNotFound: if it is empty or has control characters.
    """
    if not ref or not ref.isprintable():
        raise errors.ImageNotFound(f"not a reference to an image: {ref!r}")
    scheme, colon, rest = ref.partition(":")
    if (
        colon
        and scheme.replace("+", "").isalnum()
        and scheme[0].isalpha()
        and (rest.startswith("//") or scheme == "glance")
    ):
        return _SCHEMES.get(scheme.lower(), scheme.lower())
    if "/" in ref or ref.startswith("."):
        return "folder"
    return default


def beside(ref: str, image_id: str, default: str) -> str:
    """A reference to another image in the source of ``ref``: the kernel of an image, its ramdisk."""
    return f"{source_of(ref, default)}:{image_id}"


class CachedImage(Image):
    """An image whose source is down, known by the manifest of its base."""

    def __init__(self, ref: str, image_id: str, down: errors.SourceUnavailable) -> None:
        """``down`` is what the source said; it is raised where the source is needed after all."""
        self._ref, self._id, self._down = ref, image_id, down

    @property
    def id(self) -> str:
        """As the manifest has it."""
        return self._id

    @property
    def name(self) -> str:
        """The reference: the source cannot be asked."""
        return self._ref

    @property
    def declared(self) -> Declared:
        """What is known without the source."""
        return Declared(image_id=self._id, source=self._ref)

    def __call__(self, _target: object, _progress: Progress, /) -> Delivered:
        """:raises SourceUnavailable: always."""
        raise self._down


def find_or_fall_back(
    source: Source, ref: str, bases: Bases, *, host: str, peers: "PeerSource", image_id: str | None
) -> Image:
    """The image, had from the base folder of ``host`` where its source has it no more.

    ``image_id`` is what its id was when it was last seen, if that is known; else a base that was
    made here may tell it.
    """
    from imgbackend.sources.fallback import FallbackImage

    found: Image | errors.ImageNotFound
    try:
        found = find(source, ref, None, bases)
        known: str | None = found.id
    except errors.ImageNotFound as exc:
        found, known = exc, image_id or _last_known(bases, ref)
    if known is None:
        raise errors.ImageNotFound(
            f"{found}; and what its id was is not known, so it cannot be looked for on {host}"
        ) from (found if isinstance(found, Exception) else None)
    name = base_name(known)
    return FallbackImage(found, known, host, lambda: peers.on(host, name))


def find(source: Source, ref: str, session: Any | None, bases: Bases) -> Image:
    """The image; where its source is down, the one of the last base that was made of this reference."""
    try:
        return source.find(ref, session=session)
    except errors.SourceUnavailable as exc:
        if session is not None:
            raise
        known = _last_known(bases, ref)
        if known is None:
            raise
        LOG.warning("%s; using the cached base of %s", exc, ref)
        return CachedImage(ref, known, exc)


def _last_known(bases: Bases, ref: str) -> str | None:
    """The id that the image of a reference had when its base was made here; None: there is no such base."""
    known = [base for base in bases.entries() if base.manifest and base.manifest.source == ref]
    named = [base.manifest for base in sorted(known, key=lambda base: base.last_used) if base.manifest]
    return named[-1].image_id if named else None
