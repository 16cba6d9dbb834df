"""What goes with a disk from one host to another that shares no folder with it: a text that the store keeps.

Others can write to the store as well, so that nothing of it is believed but what could be so.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from imgbackend import errors
from imgbackend.state.records import record_of
from imgbackend.types import DiskId, Mark, Record

_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What goes with a disk from host to host."""

    record: Record | None
    """The disk's record, whose owner is left out."""
    disks: tuple[str, ...]
    """The names of all disks of the instance."""
    domain: str | None
    """The domain's XML; None: the instance was never spawned."""


def written(handover: Handover, mark: Mark) -> str:
    """The text to leave with the disk that has this mark."""
    record = handover.record
    fields = {key: value for key, value in asdict(record).items() if value is not None} if record is not None else None
    return json.dumps(
        {
            "version": _VERSION,
            "identity": mark.identity,
            "record": fields,
            "disks": handover.disks,
            "domain": handover.domain,
        }
    )


def read(disk: DiskId, text: str, mark: Mark) -> Handover | None:
    """What was left with this very disk; None: with another, whose image this is a clone of.

    :raises DiskError: if it is not what imgbackend leaves.
    """
    try:
        content = json.loads(text)
        if content["identity"] != mark.identity:
            return None
        if content["version"] == _VERSION:
            return _parsed(disk, content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise errors.DiskError(
            f"what was left with {disk} when it was released is not what imgbackend writes ({exc}); take it over with "
            "--take-over, and spawn the instance anew"
        ) from exc
    raise errors.DiskError(f"{disk} was released by a newer version of imgbackend; take it with that, or a newer one")


def _parsed(disk: DiskId, content: Mapping[str, Any]) -> Handover:
    record, domain, disks = content["record"], content["domain"], content["disks"]
    if not isinstance(domain, str | None) or not isinstance(disks, list):
        raise TypeError("a field is not of its type")
    for name in disks:
        DiskId(instance=disk.instance, name=name)
    known = record_of(disk.name, record) if record is not None else None
    return Handover(record=known, disks=tuple(disks), domain=domain)
