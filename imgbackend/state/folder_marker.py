"""The marker of an ``instances_path``: its id, by which hosts and stores know the folder under any path.

``.imgbackend.json`` in the folder: ``{"version": 1, "format": 2, "id": <32 hex digits>}``.  It is made with the first
disk, and never changed.  ``format`` is that of everything below the folder; one that has no marker has format 1.
"""

import json
import re
import secrets
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import files
from imgbackend.system.locks import Locks

NAME: Final = ".imgbackend.json"
FORMAT: Final = 2
"""What this version writes: records have owners."""
_ID: Final = re.compile("[0-9a-f]{32}")


def read(instances: Path) -> str | None:
    """The id of a folder; None where it has no marker.

    :raises ConfigError: if a newer version made the folder, or the marker is broken.
    """
    path = instances / NAME
    try:
        marker = json.loads(files.content(path))
        version, layout, folder = marker["version"], marker["format"], marker["id"]
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise errors.ConfigError(f"{path} is a link to nothing that is here now; mount what it leads to") from None
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise errors.ConfigError(f"{path} is broken ({exc}); restore it from a backup") from exc
    except OSError as exc:
        raise files.as_error(exc, path) from exc
    if version != 1 or layout not in range(FORMAT + 1):
        raise errors.ConfigError(
            f"{path} has version {version} and format {layout}, which this imgbackend does not know; use a newer one"
        )
    if not isinstance(folder, str) or not _ID.fullmatch(folder):
        raise errors.ConfigError(f"{path} is broken (its id is not 32 hex digits); restore it from a backup")
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
