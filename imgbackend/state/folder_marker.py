"""The marker of an ``instances_path``: its id, by which hosts and stores know the folder under any path.

``.imgbackend.json`` in the folder: ``{"version": 1, "format": 2, "id": <32 hex digits>}``.  It is made with the first
disk, and never changed.  ``format`` is that of everything below the folder; one that has no marker has format 1.
"""

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system import files

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


def make(instances: Path, *, durable: bool) -> str:
    """The id of a folder; its marker is made where it has none, once by all hosts together."""
    known = read(instances)
    if known is not None:
        return known
    files.make_folders(instances)
    made = {"version": 1, "format": FORMAT, "id": secrets.token_hex(16)}
    unfinished = instances / f"{NAME}.{secrets.token_hex(8)}.tmp"
    try:
        files.write_whole(unfinished, json.dumps(made).encode(), mode=0o644, durable=durable)
        with contextlib.suppress(FileExistsError):
            os.link(unfinished, instances / NAME)  # whoever is first wins, on every host
    finally:
        unfinished.unlink(missing_ok=True)
    if durable:
        files.flush_folder(instances)
    folder = read(instances)
    if folder is None:
        raise errors.StorageUnavailable(f"the marker of {instances} was removed just now; try again")
    return folder
