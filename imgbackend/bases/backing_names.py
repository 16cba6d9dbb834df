"""What a qcow2's header calls the file that it refers to."""

import json
import os
import stat
from typing import Final

_LEADS_ON: Final = ("filename", "file.filename", "path", "file.path", "file")
"""What leads to a file in QEMU's long form of a name; ``path`` is how its drivers for servers call it."""


def local_path(backing: str) -> str | None:
    """The path that a name of QEMU's means; None: it is none, such as ``nbd://``."""
    path = (_leads_to(backing) if backing.startswith("json:") else backing).removeprefix("file:")
    scheme, colon, _ = path.partition(":")
    return None if colon and "/" not in scheme else path


def holds_data(path: str) -> bool:
    """Whether a file or a device is there, which can be read without waiting for anybody."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISBLK(mode)


def _leads_to(backing: str) -> str:
    """The file that QEMU's long form of a name leads to; itself where it leads to none.

    ``json:{...}``: the options of a block driver, flat (``file.filename``) or nested; qemu-block-drivers(7).
    """
    try:
        options = json.loads(backing.removeprefix("json:"))
        while isinstance(options, dict):
            options = next((options[key] for key in _LEADS_ON if options.get(key)), None)
        return options if isinstance(options, str) and b"\0" not in os.fsencode(options) else backing
    except (ValueError, RecursionError):
        return backing
