"""Removing: the whole disk, that disk alone, and as often as one likes."""

from typing import Any

from imgbackend.driver.abilities import Snapshottable
from imgbackend.testing.topic import Topic, advisory
from imgbackend.testing.trial import Trial


class RemoveTests(Topic):
    """After ``remove`` there is nothing of the disk."""

    def test_removed_disk_is_gone(self, trial: Trial) -> None:
        """It is not found, not listed, and not on record."""
        disk = trial.made(trial.image())
        disk.remove()
        assert not disk.exists()
        assert trial.listed() == set()
        assert trial.backend.host.records.of(disk.id) is None

    def test_remove_leaves_nothing(self, trial: Trial) -> None:
        """But the base, which other disks share."""
        before = trial.entries(bases=False)
        disk = trial.made(trial.image(), size=trial.rounded(2 * trial.large))
        disk.remove()
        assert trial.entries(bases=False) == before

    @advisory("1.1")
    def test_remove_leaves_no_folder(self, trial: Trial) -> None:
        """That the driver made for the disk; one that another disk needs too may stay."""
        image = trial.image(size=trial.small)
        trial.made(image, "other")
        before = trial.folders()
        disk: Any = trial.made(image, size=trial.rounded(2 * trial.small))
        if isinstance(disk, Snapshottable):
            disk.create_snap("kept")
        disk.remove()
        assert trial.folders() == before

    def test_remove_of_an_absent_disk_is_no_error(self, trial: Trial) -> None:
        """One that never was, and one that was removed before."""
        trial.disk().remove()
        disk = trial.made(trial.image())
        disk.remove()
        disk.remove()
        with trial.again() as other:
            other.disk().remove()
        assert not disk.exists()

    def test_remove_takes_no_other_disk(self, trial: Trial) -> None:
        """Neither of an instance whose name begins alike, nor of the same instance."""
        image = trial.image(size=trial.small)
        others = [
            trial.made(image, "vm1", name="disk.local"),
            trial.made(image, "vm1", name="disk.rescue"),
            trial.made(image, "vm10"),
            trial.made(image, "vm1-0"),
            trial.made(image, "vm1.disk"),
            trial.made(image, "vm"),
        ]
        trial.made(image, "vm1").remove()
        for other in others:
            trial.expect(other, image.content.read_bytes())
            assert trial.backend.host.records.of(other.id) is not None
        assert trial.listed() == {other.id for other in others}

    def test_removed_disk_can_be_made_again(self, trial: Trial) -> None:
        """With nothing of what was in it."""
        image = trial.image()
        disk = trial.made(image)
        trial.write(disk, 0, trial.large, 0xEE)
        disk.remove()
        trial.expect(trial.made(image), image.content.read_bytes())

    def test_hooks_of_an_absent_disk_do_nothing(self, trial: Trial) -> None:
        """``discard`` and ``remove_image`` alone, and twice."""
        other, disk = trial.made(trial.image(), "other"), trial.disk()
        before, whole = trial.entries(), trial.read(other)
        with disk.locked():
            for hook in (disk.discard, disk.remove_image, disk.remove_image, disk.discard):
                hook()
        assert trial.entries() == before
        trial.expect(other, whole)

    def test_discard_keeps_a_whole_disk(self, trial: Trial) -> None:
        """It takes away what is unfinished, and nothing else."""
        disk = trial.made(trial.image())
        before, whole = trial.entries(), trial.read(disk)
        with disk.locked():
            disk.discard()
            disk.discard()
        assert trial.entries() == before
        trial.expect(disk, whole)
