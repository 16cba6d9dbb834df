"""Hosts with an older version on the same pool: those take no notice of owners, and may change others' disks.

They mark the images of their disks with host and path, and with no owner.  So are images of before the owners.  What
tells one from the other is that it was made after an image with an owner, by the clocks of the OSDs alone.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from imgbackend.types import Finding
from imgbackend_rbd import headers, locations, marks
from imgbackend_rbd.pool import PoolBackend


@dataclass(frozen=True, slots=True, kw_only=True)
class _MarkedImage:
    place: tuple[str, str]
    """The host that wrote the mark, and its ``instances_path``."""
    made: float
    owned: bool
    """The mark has an owner: a version that knows owners wrote it."""
    born_owned: bool
    """It has one since the image was made; others were taken over."""


def finding(backend: PoolBackend) -> Finding:
    """Which hosts make disks with an older version; one that marked a later disk with an owner was updated.

    It takes one request for each disk of the pool.

    :raises Error: if the cluster does not answer.
    """
    with backend.cluster.asked("looking for disks of older versions", backend.pool):
        images = list(_marked(backend))
    since = min((image.made for image in images if image.born_owned), default=math.inf)
    found = [_told(images, place, since) for place in sorted({image.place for image in images})]
    older = "; ".join(filter(None, found))
    if not older:
        return Finding("versions", "ok", "no host made a disk with an older version since this one uses the pool")
    advice = (
        "update imgbackend there and start its services anew; until then it takes no notice of whose a disk is, and "
        "may change or remove others'"
    )
    return Finding("versions", "warning", f"an older version made disks in {backend.pool}: {older}", advice)


def _told(images: list[_MarkedImage], place: tuple[str, str], since: float) -> str:
    """What an older version made there after ``since``; empty where there is nothing, or it was updated since."""
    updated = max((image.made for image in images if image.place == place and image.owned), default=0.0)
    made = [image.made for image in images if image.place == place and not image.owned and image.made > since]
    if not made or max(made) < updated:
        return ""
    last = datetime.fromtimestamp(max(made)).astimezone().isoformat(sep=" ", timespec="minutes")
    return f"{len(made)} on {place[0]} ({place[1]}), the last one at {last}"


def _marked(backend: PoolBackend) -> Iterator[_MarkedImage]:
    """The disks that any imgbackend made or took over."""
    for image in backend.cluster.rbd().list2(backend.ioctx):
        if locations.disk_of(image["name"]) is None:
            continue
        try:
            header = headers.read(backend.ioctx, image["id"], (marks.MARK,))
        except backend.cluster.absent:
            continue
        note = marks.own(header)
        if "host" in note and header.made:
            yield _MarkedImage(
                place=(str(note["host"]), str(note.get("instances", ""))),
                made=header.made,
                owned="owner" in note,
                born_owned="owner" in note and note.get("identity") not in (None, header.id),
            )
