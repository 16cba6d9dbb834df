"""What a disk or a backend may be able to do beyond the contract.

An ability is a class that is mixed in, and has methods: who lacks it lacks the methods.
Final verbs are for callers and take the disk's lock; hooks, with ``image`` in their names,
are the driver's and are called by the engine alone, with the lock held.
"""

import abc
import contextlib
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, final

from imgbackend import errors
from imgbackend.types import (
    DiskId,
    Finding,
    ImageInfo,
    Mark,
    Owner,
    Progress,
    SnapshotInfo,
    StoreBase,
    StoreLeftover,
    Way,
    ignore,
)

_SNAPSHOT: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}\Z")


class Lockable(abc.ABC):
    """What abilities need of a disk; ``Disk`` has it."""

    @abc.abstractmethod
    def locked(
        self, progress: Progress = ignore, *, changing: bool = True
    ) -> contextlib.AbstractContextManager[Progress]:
        """Hold the disk's lock, with its record looked up; what is yielded is the progress to use.

        ``changing``: a disk that is another's is refused.
        """

    @abc.abstractmethod
    def found(self) -> object:
        """What ``info`` says, inside ``locked``; DiskNotFound where there is no disk."""

    @abc.abstractmethod
    def note_loss(self, act: str, why: str) -> None:
        """Log that data of the disk are gone now."""

    @abc.abstractmethod
    def amend(self, **fields: str | None) -> None:
        """Change some fields of the disk's record, inside ``locked``."""


class Backed(abc.ABC):
    """A disk that stays dependent on a local base: an overlay.

    Where its base is gone, ``cache`` has it brought back, and the disk is not touched.
    """

    @abc.abstractmethod
    def backing(self) -> tuple[Path, str] | None:
        """The base's path and format, as the disk's own header states them; None: it needs none.

        :raises DiskError: if the header refers to anything but a base.
        """


class Cloneable(abc.ABC):
    """A disk that its storage can make from where the source keeps the image."""

    @abc.abstractmethod
    def parent(self, location: str) -> ImageInfo | str:
        """What is at a location, which can be cloned; or a line that says why it cannot."""

    @abc.abstractmethod
    def clone_image(self, location: str) -> Way:
        """Make the disk; called as ``create_image`` is, after ``parent`` said yes."""


class TellsOpen(abc.ABC):
    """A disk that can tell whether somebody has it open; its storage refuses by itself to remove what is open."""

    @abc.abstractmethod
    def refuse_open(self) -> object:
        """Refuse what must not be done under a guest; what is returned is the driver's own.

        :raises DiskBusy: if somebody has it open, and keeps it so for a moment.
        """


class Exclusive(abc.ABC):
    """A disk that can be kept from being opened, for as long as it takes to remove it.

    A storage that by itself refuses to remove what is open has no need of it: see :class:`TellsOpen`.
    """

    @abc.abstractmethod
    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        """Within it no guest, here or on another host, opens the disk; a disk that is absent is nobody's.

        :raises DiskBusy: if somebody has it open.
        """


class Marked(abc.ABC):
    """A disk whose store notes whose it is, so that hosts which share no records keep off each other's.

    The owner and the identity to note are those of the disk's record when it is made.
    """

    @abc.abstractmethod
    def mark(self) -> Mark | None:
        """What the store notes of the whole disk that has this name; None: there is none.

        Of a disk that another program made the owner is None.
        """

    @abc.abstractmethod
    def set_mark(self, before: Mark, owner: Owner) -> None:
        """Note another owner, in one step, where the mark is still ``before``.

        :raises DiskElsewhere: if it is another meanwhile.
        """


class CarriesHandover(abc.ABC):
    """A disk whose store keeps a text with it: what a host that gives it away leaves for one that shares no folder."""

    @abc.abstractmethod
    def handover(self) -> str | None:
        """What was left with the disk; None: nothing, or there is no whole disk."""

    @abc.abstractmethod
    def set_handover(self, text: str | None) -> None:
        """Leave a text of at most 64 KiB with the disk, in place of what was left before; None: take that away.

        The caller holds the disk's lock, and the disk is there and whole.
        """


class Importable(abc.ABC):
    """A disk that a finished local file can become."""

    @abc.abstractmethod
    def import_image(self, path: Path) -> None:
        """Make the disk of the raw file ``path``, whole under its name when this returns."""


class Snapshottable(Lockable):
    """A disk that keeps snapshots of itself; for a guest that is stopped."""

    @final
    def create_snap(self, name: str) -> None:
        """Keep the disk's state under ``name``.

        :raises DiskError: if it is no name for a snapshot, or is taken.
        :raises DiskBusy: if a guest runs on the disk.
        """
        if not _SNAPSHOT.match(name):
            raise errors.DiskError(
                f"not a name for a snapshot: {name!r}; begin with a letter, then letters, digits, _.-"
            )
        with self.locked():
            self.found()
            if any(snap.name == name for snap in self.image_snaps()):
                raise errors.DiskError(f"there is a snapshot {name} already; delete it, or use another name")
            self.create_image_snap(name)

    @final
    def rollback_to_snap(self, name: str) -> None:
        """Give the disk the bytes and the size it had; the snapshot stays.

        :raises DiskError: if there is no such snapshot.
        :raises DiskBusy: if a guest runs on the disk.
        """
        with self.locked():
            self.rollback_image_snap(self.__snap(name))
            self.note_loss("rollback", f"to the snapshot {name}")

    @final
    def remove_snap(self, name: str) -> None:
        """Take a snapshot away; the disk stays as it is.

        :raises DiskError: if there is no such snapshot.
        :raises DiskBusy: if a guest runs on the disk.
        """
        with self.locked():
            self.remove_image_snap(self.__snap(name))
            self.note_loss("remove-snapshot", f"the snapshot {name}")

    @final
    def snaps(self) -> list[SnapshotInfo]:
        """The disk's snapshots, oldest first."""
        with self.locked(changing=False):
            self.found()
            return list(self.image_snaps())

    def __snap(self, name: str) -> str:
        self.found()
        known = [snap.name for snap in self.image_snaps()]
        if name not in known:
            raise errors.DiskError(f"there is no snapshot {name}; there are: {', '.join(known) or 'none'}")
        return name

    @abc.abstractmethod
    def create_image_snap(self, name: str) -> None:
        """Make a snapshot; the name is free, and a letter and up to 62 letters, digits and ``_.-``.

        It is readable by whom the disk is.  On an error nothing is left of it.
        """

    @abc.abstractmethod
    def rollback_image_snap(self, name: str) -> None:
        """Roll back to a snapshot that exists."""

    @abc.abstractmethod
    def remove_image_snap(self, name: str) -> None:
        """Remove a snapshot that exists."""

    @abc.abstractmethod
    def image_snaps(self) -> Iterator[SnapshotInfo]:
        """All snapshots, oldest first."""


class Flattenable(Lockable):
    """A disk that can be made independent of its base."""

    @final
    def flatten(self, *, progress: Progress = ignore) -> None:
        """Copy in what the disk takes from its base, and let go of that; twice is no error.

        Killed at any point, the disk has the same bytes.

        :raises DiskError: if it has snapshots that need the base.
        :raises DiskBusy: if a guest runs on the disk.
        """
        with self.locked(progress) as watched:
            self.found()
            self.flatten_image(watched)
            self.amend(base=None, digest=None)

    @abc.abstractmethod
    def flatten_image(self, progress: Progress) -> None:
        """Do it; nothing to do where the disk has no base."""


class HoldsBases(abc.ABC):
    """A backend whose store keeps the bases: a thin pool, a Ceph pool.

    The engine calls these with the base's lock held, and the store's where it is shared; but for
    ``find_base``, ``list_bases`` and ``touch_base``, of which a base that is visible is all they need.
    """

    @abc.abstractmethod
    def find_base(self, name: str) -> StoreBase | None:
        """A base of the store; None where it is surely not there, whole."""

    @abc.abstractmethod
    def list_bases(self) -> Iterator[StoreBase]:
        """All bases of the store, by tag or record, never by a prefix."""

    @abc.abstractmethod
    def touch_base(self, name: str) -> None:
        """Note a use."""

    @abc.abstractmethod
    def remove_base(self, name: str) -> None:
        """Remove a base; absent is no error.

        :raises DiskBusy: if disks hang on it.
        """

    @abc.abstractmethod
    def import_base(
        self, name: str, path: Path, info: ImageInfo, tags: Mapping[str, str], progress: Progress
    ) -> StoreBase:
        """Make a base of the raw file ``path``; it is visible only when it is whole.

        What an earlier, killed import left is cleared first.
        """


class ChecksBases(HoldsBases):
    """A backend that ``HoldsBases``, and gives back what it holds: verification compares it with what was imported.

    A base that is bad is given a name that no image has.  So the next disk of its image has a fresh copy
    imported, and the disks that hang on the bad one go on as before.
    """

    @abc.abstractmethod
    def read_base(self, name: str) -> Generator[tuple[int, bytes | memoryview], None, None]:
        """The bytes of a base, as disks of it read them: ``(offset, bytes)``, in the order of their offsets.

        They come from the storage, not from what this host has kept of it; what is left out is zeroes.  No lock is
        held but while the first is asked for.  Whoever asks is done with the bytes when he asks for the next, and
        closes the iterator, which lets go of what was opened.  A base that is removed meanwhile may read as anything.

        :raises BaseMissing: if there is no such base.
        """

    @abc.abstractmethod
    def tag_base(self, name: str, tags: Mapping[str, str]) -> None:
        """Let a base have these tags, instead of those of the same keys; the others stay, and so does its last use.

        Keys are words, values lines of up to 300 characters.

        :raises BaseMissing: if there is no such base.
        """

    @abc.abstractmethod
    def rename_base(self, name: str, new: str, tags: Mapping[str, str]) -> None:
        """Give a base the name ``new``, which none has, and tags as :meth:`tag_base` does.

        On return ``find_base`` finds it by the new name alone, with its children, which are as they were; none that is
        imported later under the old name has them.  Killed at any instant it has one of both names, and whatever is
        half done does not stand in the way of an import.

        :raises BaseMissing: if there is no such base.
        """


class SharedStore(abc.ABC):
    """A backend whose store is used by several hosts that share no ``instances_path``."""

    @abc.abstractmethod
    def store_lock(self, name: str, progress: Progress = ignore) -> contextlib.AbstractContextManager[None]:
        """A lock over all hosts; the driver provides it, the engine takes it.

        Held where a base is imported or removed.  Who waits calls ``progress("wait", 0, None)`` a few
        times a second, and lets what that raises through: so is it cancelled.
        """

    def made_here(self) -> Iterator[DiskId] | None:
        """The whole disks that this host made, by what was noted of each in the store; None: nothing tells.

        This host is its name and its ``instances_path``: of these disks it has the records, or has lost them.
        It may ask for every disk of the store: it is called where people ask for leftovers, and by no pass.
        """
        return None


class IdentifiesStore(abc.ABC):
    """A backend whose options name a store that is not the same for ever: another may have the name later.

    A record keeps the store that its disk was made in.  Where the options lead to another one, that has none of the
    disks, and nobody takes their absence for a loss: they are refused, and their records stay.
    """

    store_options: ClassVar[Sequence[str]] = ()
    """The options of the section that lead to the store: people are told to look at them."""

    @abc.abstractmethod
    def store_identity(self) -> str:
        """What tells the store from any other, also from one that is made later under its name; one line for people.

        It does not change while the store is what it is, on any host, and under any name.  Called for every disk, of
        an open backend: it asks nobody anything that ``open`` has not asked already.

        :raises StorageUnavailable: if it is not known which store is there now.
        """


class Checkable(abc.ABC):
    """A backend that sees in its store what will go wrong: a pool that fills up, a right that is missing."""

    @abc.abstractmethod
    def findings(self) -> Iterator[Finding]:
        """What ``imgbackend doctor`` tells of the store, of an open backend; nothing is changed.

        One line for each check, that is well too; where it is not, with what to do.
        What cannot be looked at is a finding as well.
        """


class TellsLeftovers(abc.ABC):
    """A backend whose store tells what killed calls left in it, so that it need not wait for the next use.

    What is told of a disk is cleared by that disk's ``discard``; what is told of a base by ``remove_base``, where
    ``find_base`` finds none.  The engine does either under the lock of what it is, and only when it is old enough.
    """

    @abc.abstractmethod
    def leftovers(self) -> Iterator[StoreLeftover]:
        """What is unfinished in the store, of this backend and by tag or record, also what is being made just now.

        What has the marks of a disk and is not where a disk is, people may have put aside: it is told with
        ``kept_because``, and neither ``discard`` nor anything else here removes it.  Nothing is changed.
        """


def abilities(kind: type) -> list[str]:
    """The names of what a class of disks or of backends is able to do."""
    known = [each for each in globals().values() if isinstance(each, type) and each.__module__ == __name__]
    return [ability.__name__ for ability in known if ability is not Lockable and issubclass(kind, ability)]
