"""A failure that those who waited for the same fetch share, instead of each trying again.

Kept for some seconds in ``locks/<name>.failed``.  A denial is its caller's own and is not
shared; of an image that is too large its size is, for each waiter to compare, unless it is
larger than this host allows at all.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import files

SECONDS: Final = 5.0
_SHARED: Final[dict[str, type[errors.Error]]] = {
    kind.__name__: kind for kind in (errors.SourceUnavailable, errors.TemplateUnsafe, errors.TemplateCorrupt)
}

_TOLD: Final[tuple[type[errors.Error], ...]] = (errors.TemplateTooLarge, *_SHARED.values())


class SharedFailure:
    """The last failure to fetch one base; used under the base's lock."""

    def __init__(self, folder: Path, name: str) -> None:
        """``folder`` is that of the locks."""
        self._path = folder / f"{name}.failed"

    def raise_recent(self, asked: float, size: int | None) -> None:
        """Raise the failure of a fetch that ended while this caller, who asked at ``asked``, waited."""
        try:
            told = json.loads(files.content(self._path))
            recent = asked <= told["time"] and abs(time.time() - told["time"]) <= SECONDS
            kind, message, needed, limit = told["kind"], told["message"], told["needed"], told["limit"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return
        if not recent:
            self._path.unlink(missing_ok=True)
        elif kind in _SHARED:
            raise _SHARED[kind](f"{message} (another caller's fetch, a moment ago)")
        elif limit is not None:
            raise errors.TemplateTooLarge(needed, told["allowed"], limit=limit)
        elif size is not None and needed > size:
            raise errors.TemplateTooLarge(needed, size)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Tell those who wait of a failure; forget it on success."""
        try:
            yield
        except _TOLD as exc:
            self._write(exc)
            raise
        self._path.unlink(missing_ok=True)

    def _write(self, exc: errors.Error) -> None:
        told = {"kind": type(exc).__name__, "message": str(exc), "time": time.time()}
        told |= {"needed": None, "allowed": None, "limit": None}
        if isinstance(exc, errors.TemplateTooLarge):
            told |= {"needed": exc.needed, "allowed": exc.allowed}
            told["limit"] = None if exc.limit == errors.THE_DISK else exc.limit
        with contextlib.suppress(OSError):
            files.write_whole(self._path, json.dumps(told).encode(), mode=0o600, durable=False)
