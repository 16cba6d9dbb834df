"""Snapshots: a disk goes back to the bytes, and the size, that it had."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbackend import errors
from imgbackend.driver.abilities import Snapshottable
from imgbackend.testing.topic import Topic, advisory, needs
from imgbackend.testing.trial import Trial
from imgbackend.types import FileSource, Mi


class SnapshotTests(Topic):
    """For disks that are :class:`Snapshottable`."""

    @needs(Snapshottable)
    def test_rollback_gives_the_bytes_of_the_snapshot(self, trial: Trial) -> None:
        """Of that one, whichever was made later."""
        disk: Any = trial.made(trial.image())
        states = {}
        for number, name in enumerate(("first", "second", "third"), start=1):
            trial.write(disk, 0, Mi * number, number)
            disk.create_snap(name)
            states[name] = trial.read(disk)
        trial.write(disk, 0, trial.large, 0xFF)
        for name in ("second", "third", "first", "third"):
            disk.rollback_to_snap(name)
            trial.expect(disk, states[name], f" rolled back to {name}")

    @needs(Snapshottable)
    def test_rollback_gives_the_size_of_the_snapshot(self, trial: Trial) -> None:
        """A disk that was grown since is as large as it was."""
        disk: Any = trial.made(trial.image())
        before = trial.read(disk)
        disk.create_snap("small")
        disk.resize(trial.rounded(2 * trial.large))
        trial.write(disk, trial.large, Mi, 0x44)
        disk.rollback_to_snap("small")
        assert disk.info().size == trial.large
        trial.expect(disk, before)
        disk.resize(trial.rounded(2 * trial.large))
        trial.expect(disk, before + bytes(trial.rounded(2 * trial.large) - trial.large), " grown again")

    @needs(Snapshottable)
    def test_snapshots_are_listed_oldest_first(self, trial: Trial) -> None:
        """With the size that the disk had."""
        disk: Any = trial.made(trial.image())
        assert disk.snaps() == []
        for name in ("zebra", "Ant", "m.1_2-3"):
            disk.create_snap(name)
        found = disk.snaps()
        assert [snap.name for snap in found] == ["zebra", "Ant", "m.1_2-3"]
        assert {snap.size for snap in found} == {trial.large}
        assert [snap.time for snap in found] == sorted(snap.time for snap in found)
        with trial.again() as on:
            other: Any = on.disk()
            assert other.snaps() == found

    @advisory("1.1")
    @needs(Snapshottable)
    def test_order_of_snapshots_outlives_their_use(self, trial: Trial) -> None:
        """Rolling back makes none younger; one that is made again is the youngest."""
        disk: Any = trial.made(trial.image(size=trial.small))
        for name in ("m", "z", "a"):
            disk.create_snap(name)
        disk.rollback_to_snap("m")
        assert [snap.name for snap in disk.snaps()] == ["m", "z", "a"]
        disk.remove_snap("z")
        disk.create_snap("z")
        assert [snap.name for snap in disk.snaps()] == ["m", "a", "z"]
        assert [snap.time for snap in disk.snaps()] == sorted(snap.time for snap in disk.snaps())

    @advisory("1.1")
    @needs(Snapshottable)
    def test_snapshots_are_readable_by_whom_the_disk_is(self, trial: Trial) -> None:
        """Where they are files: of a secret disk by its owner alone; and a rollback opens nothing."""
        secret = trial.secret()
        for image, name in ((trial.image(size=trial.small), "disk"), (secret, "disk.config")):
            try:
                disk: Any = trial.made(image, name=name)
            except errors.Error:
                assert image is secret
                continue
            source, before = trial.source(disk), trial.entries()
            mode = stat.S_IMODE(os.stat(source.path).st_mode) if isinstance(source, FileSource) else 0o640
            disk.create_snap("kept")
            for path in [Path(each) for each in trial.entries() - before if each.startswith("/")]:
                if path.stat().st_size >= trial.small:  # not a note about it
                    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == mode & 0o444, f"{path}, of a disk of {mode:#o}"
            disk.rollback_to_snap("kept")
            if isinstance(source, FileSource):
                assert stat.S_IMODE(os.stat(source.path).st_mode) == mode, "the rollback changed the disk's mode"

    @needs(Snapshottable)
    def test_snapshot_changes_no_bytes(self, trial: Trial) -> None:
        """Neither when it is made, nor when it is removed."""
        disk: Any = trial.made(trial.image())
        before, info = trial.read(disk), disk.info()
        disk.create_snap("kept")
        trial.expect(disk, before)
        disk.remove_snap("kept")
        trial.expect(disk, before)
        assert disk.snaps() == []
        assert disk.info().size == info.size

    @needs(Snapshottable)
    def test_removing_a_snapshot_keeps_the_others(self, trial: Trial) -> None:
        """And what they hold."""
        disk: Any = trial.made(trial.image())
        states = {}
        for number, name in enumerate(("a", "b", "c"), start=1):
            trial.write(disk, Mi, Mi, number)
            disk.create_snap(name)
            states[name] = trial.read(disk)
        disk.remove_snap("b")
        assert [snap.name for snap in disk.snaps()] == ["a", "c"]
        for name in ("a", "c"):
            disk.rollback_to_snap(name)
            trial.expect(disk, states[name], f" rolled back to {name}")

    @needs(Snapshottable)
    def test_snapshots_of_one_disk_are_not_anothers(self, trial: Trial) -> None:
        """Of the same base, and the same name."""
        image = trial.image()
        one: Any = trial.made(image, "a")
        two: Any = trial.made(image, "b")
        one.create_snap("kept")
        assert two.snaps() == []
        trial.write(two, 0, Mi, 0x21)
        two.create_snap("kept")
        one.rollback_to_snap("kept")
        trial.expect(one, image.content.read_bytes())
        assert trial.read(two)[:Mi] == b"\x21" * Mi

    @needs(Snapshottable)
    def test_wrong_names_of_snapshots_are_refused(self, trial: Trial) -> None:
        """One that is taken, one that is not there, and what is no name."""
        disk: Any = trial.made(trial.image())
        disk.create_snap("kept")
        before = trial.read(disk)
        calls: tuple[Callable[[], None], ...] = (
            lambda: disk.create_snap("kept"),
            lambda: disk.rollback_to_snap("none"),
            lambda: disk.remove_snap("none"),
            lambda: disk.create_snap("-c"),
            lambda: disk.create_snap("a/b"),
        )
        for call in calls:
            with pytest.raises(errors.DiskError):
                call()
        assert [snap.name for snap in disk.snaps()] == ["kept"]
        trial.expect(disk, before)

    @needs(Snapshottable)
    def test_disk_with_snapshots_can_be_removed(self, trial: Trial) -> None:
        """And nothing of them is there in a disk of the same name."""
        image, before = trial.image(), trial.entries(bases=False)
        disk: Any = trial.made(image)
        disk.create_snap("kept")
        disk.remove()
        assert trial.entries(bases=False) == before
        again: Any = trial.made(image)
        assert again.snaps() == []

    @needs(Snapshottable)
    def test_absent_disk_has_no_snapshots(self, trial: Trial) -> None:
        """It is told, whatever is asked."""
        disk: Any = trial.disk()
        for call in (disk.snaps, lambda: disk.create_snap("a"), lambda: disk.rollback_to_snap("a")):
            with pytest.raises(errors.DiskNotFound):
                call()
