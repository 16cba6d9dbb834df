"""A promise of room, as a small file: whose it is, for which file, and whether its maker is still at work.

The file is claimed while the promise holds.  On one kernel that decides, in whichever container its maker
runs; from another host a claim may not be seen, and then it counts who made it.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from imgbackend.system import claims, files
from imgbackend.system.process_identity import ProcessIdentity, State

SUFFIX: Final = ".reserved"


def note_of(folder: Path, target: Path) -> Path:
    """Where the promise for a file is; ``folder`` is that of the locks."""
    return folder / f"{hashlib.sha1(os.fsencode(target), usedforsecurity=False).hexdigest()}{SUFFIX}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a note says, and how it is with its maker."""

    maker: ProcessIdentity
    target: Path
    """The file that is being filled."""
    size: int
    """Bytes that it will take."""
    state: State
    """Of its maker."""


class PromiseNote:
    """The note of one promise, for its maker."""

    def __init__(self, path: Path) -> None:
        """Keep where it is; nothing is written."""
        self.path = path
        self._fd: int | None = None

    def write(self, target: Path, size: int, maker: ProcessIdentity) -> None:
        """Publish the note, or what has changed of it; it is claimed before it has its name.

        The caller holds the lock of the promises.
        """
        self._close()
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            note = {"file": str(target), "bytes": size, **maker.note(), "claimed": claims.claim(fd)}
            files.write_content(fd, json.dumps(note).encode())
            os.rename(temporary, self.path)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        self._fd = fd

    def remove(self) -> None:
        """The promise is kept, or given up."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        """Before the file is replaced or unlinked: NFS keeps what is open under another name."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def read(note: Path, host: str) -> Promise | None:
    """A promise, as the host of that name sees it; None where there is none, or the note is broken.

    :raises OSError: if it cannot be read.
    """
    try:
        fields = json.loads(files.content(note))
        maker = ProcessIdentity.noted(fields)
        target, size = Path(fields["file"]), int(fields["bytes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return Promise(maker=maker, target=target, size=size, state=_state(note, fields, maker, host))


def _state(note: Path, fields: dict[str, Any], maker: ProcessIdentity, host: str) -> State:
    if fields.get("claimed") is True:
        try:
            if claims.is_claimed(note):
                return "alive"
        except OSError:
            return maker.state(host)
        if maker.is_of_this_boot():
            return "gone"
    return maker.state(host)
