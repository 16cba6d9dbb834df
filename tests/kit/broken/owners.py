"""Drivers that do not tell one host's disks from another's."""

from imgbackend.types import Mark, Owner
from kit.faults import caught
from labs.able import AbleDisk


@caught(
    {
        "test_mark_says_what_the_record_says": "_mark(disk) == Mark(owner=record.owner",
        "test_disk_of_another_host_is_neither_taken_nor_changed": "DID NOT RAISE",
    }
)
class NotesNoOwner(AbleDisk):
    """Whose a disk is, the records tell."""

    def mark(self) -> Mark | None:
        mark = super().mark()
        return mark and Mark(owner=None, identity=mark.identity)


@caught({"test_disk_made_anew_has_another_identity": "is not the disk that is on record here"})
class KnowsADiskByItsName(AbleDisk):
    """No two disks have one name."""

    def mark(self) -> Mark | None:
        mark = super().mark()
        return mark and Mark(owner=mark.owner, identity=str(self.id))


@caught({"test_mark_is_changed_only_where_it_is_what_was_seen": "DID NOT RAISE"})
class ChangesMarksBlindly(AbleDisk):
    """What was seen a moment ago is still so."""

    def set_mark(self, before: Mark, owner: Owner) -> None:
        self._write_mark(Mark(owner=owner, identity=before.identity))


@caught({"test_growth_keeps_the_mark": "_mark(disk) == before"})
class GrowsIntoAnotherDisk(AbleDisk):
    """The grown disk is a new one, and what was noted of the old one goes with that."""

    def resize_image(self, size: int) -> None:
        super().resize_image(size)
        self._mark.unlink()


@caught(
    {"test_what_is_left_with_a_disk_is_read_on_another_host_and_changes_nothing_of_it": "theirs.handover() == left"}
)
class KeepsWhatIsLeftToItself(AbleDisk):
    """What was left is still known here."""

    def handover(self) -> str | None:
        return getattr(self, "_left", None)

    def set_handover(self, text: str | None) -> None:
        self._left = text
