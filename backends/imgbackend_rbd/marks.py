"""What the metadata of an image say of the disk that it is: whose it is, and which."""

import contextlib
import dataclasses
import errno
import json
import socket
from typing import Any, Final, TypeGuard

from imgbackend.types import DiskId, Mark, Owner
from imgbackend_rbd import headers
from imgbackend_rbd.pool import PoolBackend

MARK: Final = "imgbackend.disk"
"""The key of an image's metadata that says whose disk it is."""

_HANDOVER: Final = "imgbackend.handover"
"""The key of what a host left with the image for the one that takes it."""


_SOMEBODY: Final = Owner(host="(unknown)", folder="unknown")
"""Of an image whose mark is not what any version writes: it is another's."""


def own(header: headers.ImageHeader) -> dict[str, Any]:
    """What was noted of an image when it was made as a disk, not of its parent, whose metadata a clone has too."""
    note = headers.note(header, MARK)
    return note if note.get("image") == header.id else {}


def of(backend: PoolBackend, header: headers.ImageHeader) -> Mark:
    """The mark of an image; where nobody noted which it is, Ceph's own id tells."""
    note = own(header)
    identity = note.get("identity")
    return Mark(owner=_owner(backend, note), identity=identity if _is_word(identity) else header.id)


def content(backend: PoolBackend, disk: DiskId, image_id: str, owner: Owner, identity: str | None) -> dict[str, Any]:
    """What is noted of an image."""
    return {
        "image": image_id,
        "backend": backend.name,
        "instance": disk.instance,
        "disk": disk.name,
        "owner": dataclasses.asdict(owner),
        "identity": identity,
        **backend.unfinished.here,
    }


def replaced(backend: PoolBackend, header: headers.ImageHeader, note: dict[str, Any]) -> bool:
    """Note something else than what ``header`` had, in one request; False: it has changed since, or is gone."""
    before, after = header.metadata.get(MARK, ""), json.dumps(own(header) | note)
    try:
        headers.set_metadata(backend.ioctx, header.id, MARK, after, before=before)
    except backend.cluster.absent:
        return False
    except Exception as exc:
        if getattr(exc, "errno", None) != errno.ECANCELED:
            raise
        return False
    return True


def handover(backend: PoolBackend, image_id: str) -> str | None:
    """What was left with an image; of a parent's, which a clone has too, the reader has to tell."""
    return headers.read(backend.ioctx, image_id, (_HANDOVER,)).metadata.get(_HANDOVER)


def set_handover(backend: PoolBackend, image_id: str, text: str | None) -> None:
    """Leave something with an image, or take it away."""
    if text is not None:
        headers.set_metadata(backend.ioctx, image_id, _HANDOVER, text)
        return
    with contextlib.suppress(*backend.cluster.absent):
        headers.remove_metadata(backend.ioctx, image_id, _HANDOVER)


def _owner(backend: PoolBackend, note: dict[str, Any]) -> Owner | None:
    """Earlier versions noted a path, not the folder's id: they are believed where host and path are ours."""
    owner, host = note.get("owner"), backend.host
    if owner is not None:
        name, folder = (owner.get("host"), owner.get("folder")) if isinstance(owner, dict) else (None, None)
        return Owner(host=name, folder=folder) if _is_word(name) and _is_word(folder) else _SOMEBODY
    if "host" not in note:
        return None
    if not _is_word(note["host"]) or not isinstance(note.get("instances", ""), str):
        return _SOMEBODY
    if note["host"] in {host.settings.hostname, socket.gethostname()} and note.get("instances") == str(host.instances):
        return backend.attached.owners.known_me()
    return Owner(host=note["host"], folder=note.get("instances", ""))


def _is_word(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value) and value.isprintable()
