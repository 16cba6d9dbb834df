"""Places in a Ceph cluster, as Glance writes them: ``rbd://fsid/pool/image/snapshot``, each part quoted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from imgbackend import errors
from imgbackend.types import DiskId, ImageInfo
from imgbackend_rbd import headers

if TYPE_CHECKING:
    from imgbackend_rbd.cluster import Cluster

_SCHEME: Final = "rbd://"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlace:
    """A snapshot of an image."""

    pool: str
    image: str
    snapshot: str
    fsid: str = ""
    """Of the cluster; empty: the one that is connected."""

    def __str__(self) -> str:
        return f"{self.pool}/{self.image}@{self.snapshot}"

    @property
    def url(self) -> str:
        """As Glance writes it."""
        return _SCHEME + "/".join(quote(part, safe="") for part in (self.fsid, self.pool, self.image, self.snapshot))


def parsed(location: str) -> ImagePlace | None:
    """The place that a URL names; None where it is none of a Ceph cluster, or not a snapshot's."""
    parts = [unquote(part) for part in location.removeprefix(_SCHEME).split("/")]
    if not location.startswith(_SCHEME) or len(parts) != 4 or not all(parts):
        return None
    return ImagePlace(fsid=parts[0], pool=parts[1], image=parts[2], snapshot=parts[3])


def disk_of(image: str) -> DiskId | None:
    """The disk that an image of that name would be."""
    instance, _, name = image.partition("_")
    try:
        return DiskId(instance=instance, name=name)
    except ValueError:
        return None


def parent(cluster: "Cluster", location: str) -> ImageInfo | str:
    """What is at a location, which can be cloned; or a line that says why it cannot."""
    place = parsed(location)
    if place is None:
        return f"{location.partition('://')[0]} is another storage"
    if place.fsid != cluster.fsid:
        return f"the image is in another Ceph cluster ({place.fsid})"
    if disk_of(place.image) is not None:
        return f"{place} is a machine's disk, and no image"
    if not cluster.has(place.pool):
        return f"the Ceph cluster has no pool {place.pool}"
    try:
        return _seen(cluster, place)
    except errors.ConfigError as exc:
        return str(exc)


def _seen(cluster: "Cluster", place: ImagePlace) -> ImageInfo | str:
    with cluster.asked(f"looking at {place}", place.pool):
        ioctx = cluster.pool(place.pool)
        try:
            image_id = headers.identity(ioctx, place.image)
            snapshot = headers.snapshot(ioctx, image_id, place.snapshot)
            if snapshot is None:
                return f"there is no {place} in the Ceph cluster"
            if cluster.setting("rbd_default_clone_format") != "2" and not headers.protects(ioctx, image_id, snapshot):
                return f"{place} is not protected, and so cannot be cloned"
        except cluster.absent:
            return f"there is no {place} in the Ceph cluster"
        return ImageInfo(format="raw", virtual_size=snapshot.size)
