"""The instance that a uuid is of, as ``libvirt.xml`` in its folder has it; libvirt is not needed."""

import os
import uuid
from pathlib import Path

from imgbackend.state import domain_xml
from imgbackend.state.records import DOMAIN


def is_uuid(text: str) -> bool:
    """Whether a text is a uuid, in one of the forms in which people write one."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def by_uuid(instances: Path, text: str) -> str | None:
    """The name of the instance of that uuid in a folder of instances.

    None: there is none, or an instance has the uuid as its name.
    """
    if not is_uuid(text) or os.path.isdir(instances / text):
        return None
    wanted = str(uuid.UUID(text))
    for path in sorted(instances.glob(f"*/{DOMAIN}")):
        try:
            kept = domain_xml.uuid_in(path.read_text())
        except OSError:
            continue  # it goes just now, or is not ours to read
        if kept == wanted and "_" not in path.parent.name:
            return path.parent.name
    return None
