"""Whether the images of bases are still in their sources.

An image is *gone* only where its source answered, and said so: it has none of this name, or another one.
A source that is down, that refuses, or that is not configured any more says nothing.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from imgbackend import errors
from imgbackend.cache.policy import CachedBase
from imgbackend.cache.ports import Wanted

LOG = logging.getLogger(__name__)

SECONDS: Final = 60.0
"""No further base is asked about when so many have passed."""

Answer: TypeAlias = Literal["there", "gone"] | None


def asked(
    bases: Iterable[CachedBase], find: Callable[[str], Wanted], clock: Callable[[], float] = time.monotonic
) -> list[CachedBase]:
    """The same bases, with what their sources say of their images.

    A source that fails once is asked no more.
    """
    end, down = clock() + SECONDS, set[str]()
    found = []
    for base in bases:
        answer: Answer = None
        if base.source is not None and base.image_id is not None and clock() < end:
            whose = _whose(base.source)
            if whose not in down:
                try:
                    answer = _answer(base.source, base.image_id, find)
                except errors.Error as exc:
                    LOG.info("%s cannot tell of its images: %s", whose, exc)
                    down.add(whose)
        found.append(replace(base, upstream=answer))
    return found


def _answer(source: str, image_id: str, find: Callable[[str], Wanted]) -> Answer:
    """:raises Error: if the source says nothing."""
    try:
        return "there" if find(source).id == image_id else "gone"
    except errors.ImageNotFound:
        if _may_be_away(source):
            raise
        return "gone"


def _whose(source: str) -> str:
    """What is down together: a server, or the files of a folder."""
    parts = urlsplit(source)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else parts.scheme or os.path.dirname(source)


def _may_be_away(source: str) -> bool:
    """Whether a file is missing in a folder that is missing or empty: of a file system that is not mounted."""
    if source.startswith("file://"):
        source = unquote(urlsplit(source).path)
    if not source.startswith("/"):
        return False
    try:
        return not os.listdir(os.path.dirname(source))
    except OSError:
        return True
