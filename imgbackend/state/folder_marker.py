"""The marker of an ``instances_path``: its id, by which hosts and stores know the folder under any path.

``.imgbackend.json`` in the folder: ``{"version": 1, "format": 2, "id": <32 hex digits>}``.  It is made with the first
disk, and never changed.  ``format`` is that of everything below the folder; one that has no marker has format 1.
"""

import json
import secrets
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import files
from imgbackend.system.locks import Locks

NAME: Final = ".imgbackend.json"
FORMAT: Final = 2
"""What this version writes: records have owners."""


def read(instances: Path) -> str | None:
    """The id of a folder; None where it has no marker.

    :raises ConfigError: if a newer version made the folder, or the marker is broken.
    """
    path = instances / NAME
    try:
        marker = json.loads(path.read_bytes())
        version, folder = marker["version"], marker["id"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as exc:
        raise errors.ConfigError(f"{path} is broken ({exc}); restore it from a backup") from exc
    if version != 1 or not isinstance(folder, str):
        raise errors.ConfigError(f"{path} has version {version}, which this imgbackend does not know; use a newer one")
    return folder


def make(instances: Path, locks: Locks, *, durable: bool) -> str:
    """The id of a folder; its marker is made where it has none, once by all hosts together.

    On return it survives a power cut, where ``durable``.
    """
    with locks.hosts():
        known = read(instances)
        if known is not None:
            return known
        folder = secrets.token_hex(16)
        content = json.dumps({"version": 1, "format": FORMAT, "id": folder})
        files.write_whole(instances / NAME, content.encode(), durable=durable)
        if durable:
            files.flush_folder(instances)
    return folder
