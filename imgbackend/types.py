"""Values that cross the line between the engine, its drivers and its sources.

All are frozen, slotted and, but for :class:`Finding`, keyword-only.  Sizes are bytes as the guest sees them,
digests are lower-case hex, and names are checked when they are made: whatever holds
a :class:`DiskId` holds a name that is safe in a path, a volume name and an option.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

Ki: Final = 1 << 10
Mi: Final = 1 << 20
Gi: Final = 1 << 30
Ti: Final = 1 << 40

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""``progress(phase, done, total)``, called in the working thread.

``done`` and ``total`` are bytes, ``total`` is None where it is not known.  Raising
from it cancels the work, and what it raises reaches the caller unchanged.  Phases
are ``wait`` (for a lock, a retry: done and total are 0 and None), ``fetch``,
``convert``, ``copy``, ``digest``, ``import`` and ``extract``.
"""

Way: TypeAlias = Literal["overlay", "reflink", "copy", "snapshot", "clone", "import", "convert", "generate"]
"""How a disk was made."""

Role: TypeAlias = Literal["image", "boot-file", "generated", "private"]
"""What a template is for.

``image``: inspected, converted, shared as a base.  ``boot-file``: a kernel or a
ramdisk, kept byte for byte, without a size.  ``generated``: a swap area or a fresh
file system that this host makes.  ``private``: one instance's secret, a config
drive: never a base, and no digest of it is kept.
"""

Verdict: TypeAlias = Literal["ok", "warning", "error"]
"""Of a check: all is well; something will go wrong; something does."""

_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,62}\Z")
_DISK = re.compile(r"(?:disk(?:\.(?:local|swap|config|eph[0-9]{1,3}))?|kernel|ramdisk)(?:\.([a-z][a-z0-9-]{0,30}))?\Z")
_RESERVED_INSTANCES = frozenset({"locks", "snapshots", "compute_nodes", "_base"})
_RESERVED_SUFFIXES = frozenset({"info", "part", "converted", "json", "xml", "log", "tmp"})
_BASE = re.compile(
    r"(?:[0-9a-f]{40}(?:_[0-9]{1,15}|_sm)?|gen-[0-9a-f]{40}|swap_[0-9]{1,9}|ephemeral_[0-9]{1,9}_[0-9a-z]{1,40})\Z"
)


def ignore(phase: str, done: int, total: int | None, /) -> None:
    """Progress that nobody looks at."""


def base_name(image_id: str) -> str:
    """The name of the base of an image, in Nova too: the sha1 of its id in hex."""
    return hashlib.sha1(image_id.encode(), usedforsecurity=False).hexdigest()


def is_base_name(name: str) -> bool:
    """Whether ``name`` is one that a base can have, here or in Nova.

    ``<sha1 of an image id>``, with Nova's old ``_<size>`` and ``_sm``; ours of what
    is generated, ``gen-<sha1>``; and Nova's ``swap_<MiB>``, ``ephemeral_<GiB>_<x>``.
    """
    return _BASE.match(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskId:
    """The name of one disk of one instance.

    :raises ValueError: if either name is not one that is safe everywhere.
    """

    instance: str
    """The virtual machine: ``[A-Za-z0-9][A-Za-z0-9.-]{0,62}``, none of Nova's own names."""
    name: str
    """``disk``, ``disk.local``, ``disk.ephN``, ``disk.swap``, ``disk.config``,
    ``kernel`` or ``ramdisk``, each with a suffix such as ``.rescue``."""

    def __post_init__(self) -> None:
        if not _INSTANCE.match(self.instance) or ".." in self.instance or self.instance in _RESERVED_INSTANCES:
            raise ValueError(
                f"not a name for an instance: {self.instance!r}; use up to 63 letters, digits, dots and hyphens, "
                "beginning with a letter or digit, and none of locks, snapshots, compute_nodes"
            )
        match = _DISK.match(self.name)
        if match is None or match[1] in _RESERVED_SUFFIXES:
            raise ValueError(
                f"not a name for a disk: {self.name!r}; use disk, disk.local, disk.eph0, disk.swap, disk.config, "
                "kernel or ramdisk, with a suffix such as .rescue where needed"
            )

    def __str__(self) -> str:
        return f"{self.instance}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A place inside a storage where a source keeps an image's bytes."""

    url: str
    """Such as ``rbd://fsid/pool/image/snap``."""
    format: str | None = None
    virtual_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a source says of a template before a byte of it is here."""

    image_id: str
    """Changes when the bytes do.  The base is named by its sha1, so it is kept in the manifest."""
    source: str
    """Where it is from, as the user may write it: ``glance:<id>``, a URL, a path."""
    role: Role = "image"
    format: str | None = None
    """The content must match it; None: nothing was declared."""
    size: int | None = None
    """The bytes that will be delivered: free space is checked against it."""
    virtual_size: int | None = None
    """Too large for the disk: refused before a byte is fetched."""
    min_disk: int = 0
    """The smallest disk that the image's owner wants it on; 0: any."""
    digests: tuple[tuple[str, str], ...] = ()
    """``(algorithm, hex)`` of the bytes that are delivered, by hashlib's names."""
    locations: tuple[Location, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What a fetch may tell of the bytes that it put down."""

    size: int
    digests: tuple[tuple[str, str], ...] = ()
    """Computed on the way, over all bytes as delivered, also after a resume."""
    content: str | None = field(default=None, compare=False)
    """The content digest of a base of exactly these bytes, where it was computed on the way."""


class FetchFunc(Protocol):
    """Puts a whole template at ``target``; any callable of this form will do.

    ``target`` does not exist, or (only where the callable has a true attribute
    ``resumable``) holds the beginning of the same bytes, from a fetch that broke; of a
    private template it is there, empty, and readable by its owner alone.
    What is known beforehand is read from an attribute ``declared``, where present;
    an attribute ``role`` is read before it, so that a lazy ``declared`` asks nobody
    while the base is cached.
    """

    def __call__(self, target: Path, progress: Progress, /) -> "Delivered | None": ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What a base or a template is, after inspection: a driver need not probe."""

    format: str
    virtual_size: int
    cluster_size: int | None = None
    """Of a qcow2; overlays inherit it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskInfo:
    """What is there under a disk's name."""

    format: str
    size: int
    """Virtual size, as the guest sees it."""
    allocated: int
    """Bytes that the storage spends on this disk alone, without its base."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What ``create_image`` would do.  For ``--explain``; it has no side effects."""

    way: Way
    reason: str = ""
    """Why not a faster way; empty where there is none."""
    writes: int = 0
    """Bytes that will be written."""
    needs: int = 0
    """Free bytes that the store must have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """What ``cache`` did."""

    way: Way | Literal["exists"]
    reason: str
    """Why not a faster way; empty where there is none."""
    base: str | None
    """The base's name; None for a private template."""
    fetched: bool
    grown: bool
    size: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Of a store, in bytes."""

    total: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose an instance and its disks are: a host's, and in it one folder of instances."""

    host: str
    """The option ``host`` there."""
    folder: str
    """The id of the ``instances_path``, as its marker has it: a folder is the same under any path."""

    def __str__(self) -> str:
        if self == RELEASED:
            return "nobody"
        folder = self.folder if "/" in self.folder else self.folder[:8]  # older versions noted a path
        return f"the host {self.host} (folder {folder})"


RELEASED: Final = Owner(host="(released)", folder="0" * 32)
"""Of an instance that a host gave away, until another takes it; no host can have this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a store itself notes of a disk, for hosts that do not share its records."""

    owner: Owner | None
    """None: it says nothing of whose the disk is."""
    identity: str
    """Of this very object: one that is made later under the same name has another.

    The identity of the disk's record where the driver noted that, else the store's own id of the object.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is known of a disk since it was made."""

    backend: str
    driver: str
    format: str
    way: str
    """How it was made; empty where only Nova's disk.info speaks of it."""
    time: float
    """Seconds since 1970."""
    image_id: str | None = None
    base: str | None = None
    digest: str | None = None
    """The content digest of the base it was made from."""
    owner: Owner | None = None
    """Whose its instance is; None: nobody noted it, and it is whoever's folder this is."""
    identity: str | None = None
    """What tells this very disk from another that is made later under its name; None: nobody noted it."""
    store: str | None = None
    """What the store that it was made in says of itself, by a driver that
    :class:`~imgbackend.driver.abilities.IdentifiesStore`; None: nobody noted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """A snapshot that a disk has."""

    name: str
    size: int
    """Virtual size of the disk when it was made."""
    time: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """A disk that the hypervisor opens as a file."""

    path: Path
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSource:
    """A disk that the hypervisor opens as a block device of this host."""

    path: Path
    format: str = "raw"
    io_native: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSource:
    """A disk that the hypervisor reaches over the network."""

    protocol: str
    name: str
    """As the protocol writes it: ``pool/image`` for rbd."""
    format: str = "raw"
    hosts: tuple[tuple[str, int], ...] = ()
    user: str | None = None
    secret_uuid: str | None = None
    conf: str | None = None


DiskSource: TypeAlias = FileSource | BlockSource | NetworkSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Facts of a driver that the engine acts on.  Every one is a promise."""

    granularity: int = 512
    """Sizes are rounded up to it before they reach the driver."""
    formats: Sequence[str] = ("raw",)
    """The formats it can keep a disk in; the first is its own."""
    files: bool = False
    """Its disks are files ``<instance>/<name>`` of ``instances_path``, as Nova keeps them."""
    shared: bool = False
    """Other hosts reach the same disks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreBase:
    """A base that a backend's own store keeps."""

    name: str
    size: int
    """Virtual size."""
    allocated: int
    children: int | None
    """Disks that hang on it; None where the store cannot tell."""
    touched: float
    """Seconds since 1970: its last use."""
    tags: Mapping[str, str]
    """What it was imported with: ``image_id``, ``digest``, ``format``; and what was noted of it since."""
    identity: str = ""
    """What another that is imported later under the same name does not have; empty: the store tells none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLeftover:
    """Something in a backend's own store that no disk and no base has: unfinished, or put aside by people."""

    name: str
    """As the store has it, for people."""
    disk: DiskId | None
    base: str | None
    """The name of the base that it was to be; this or ``disk`` is given."""
    allocated: int
    """Bytes that the store spends on it, as far as it can tell."""
    time: float
    """Seconds since 1970: when it was made, or last changed."""
    live: bool | None = None
    """True: somebody is at it.  False: nobody is, the store says so.  None: the store does not
    know, and its age tells, by this host's clock."""
    kept_because: str = ""
    """It is whole, and may hold a guest's data: why it is told, and what can be done; it is never removed.

    Empty: it is unfinished.
    """


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report of ``imgbackend doctor``."""

    check: str
    """What was looked at, in a few words."""
    verdict: Verdict
    found: str
    advice: str = ""
    """What to do; empty where all is well."""
