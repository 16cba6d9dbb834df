"""Owners: two hosts that share a store, and no records, keep off each other's disks."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgbackend import errors
from imgbackend.driver.abilities import CarriesHandover, Flattenable, Marked, Snapshottable
from imgbackend.driver.contract import Disk
from imgbackend.system.host import Host
from imgbackend.testing.topic import Topic, advisory, needs
from imgbackend.testing.trial import Trial
from imgbackend.types import Mark, Owner, Progress


class OwnerTests(Topic):
    """For disks that are :class:`Marked`."""

    @advisory("1.1")
    @needs(Marked)
    def test_mark_says_what_the_record_says(self, trial: Trial) -> None:
        """Whose the disk is, and which; of an absent one there is none."""
        disk = trial.disk()
        assert _mark(disk) is None
        trial.made(trial.image(size=trial.small))
        record = trial.backend.host.records.of(disk.id)
        assert record is not None
        assert record.owner is not None
        assert record.identity is not None
        assert _mark(disk) == Mark(owner=record.owner, identity=record.identity)
        disk.remove()
        assert _mark(disk) is None

    @advisory("1.1")
    @needs(Marked)
    def test_disk_made_anew_has_another_identity(self, trial: Trial) -> None:
        """So that nobody takes it for the one before."""
        image = trial.image(size=trial.small)
        first = _mark(trial.made(image))
        trial.disk().remove()
        second = _mark(trial.made(image))
        assert first is not None
        assert second is not None
        assert first.identity != second.identity

    @advisory("1.1")
    @needs(Marked)
    def test_disk_of_another_host_is_neither_taken_nor_changed(self, trial: Trial) -> None:
        """Its name is taken, whatever image is asked for; it has its bytes, its size and its mark after it."""
        image = trial.image(size=trial.small)
        disk = trial.made(image)
        before, mark, size = trial.read(disk), _mark(disk), disk.info().size
        with _elsewhere(trial) as other:
            theirs = other.disk()
            for change in (
                lambda: theirs.cache(image, image.name),
                lambda: theirs.resize(other.rounded(2 * size)),
                theirs.remove,
            ):
                with pytest.raises(errors.DiskElsewhere):
                    change()
            assert other.backend.host.records.of(theirs.id) is None
        assert (_mark(disk), disk.info().size) == (mark, size)
        trial.expect(disk, before)

    @advisory("1.1")
    @needs(Marked)
    def test_creation_that_fails_keeps_what_another_host_made_meanwhile(self, trial: Trial) -> None:
        """The fetch takes long, and then breaks off."""
        ours, theirs = trial.image(size=trial.small), trial.image(size=trial.small, seed=7)
        with _elsewhere(trial) as other:

            def made_elsewhere(_target: Path, _progress: Progress) -> None:
                host = threading.Thread(target=other.made, args=(theirs,))  # locks are taken in an order by each thread
                host.start()
                host.join()
                raise errors.SourceUnavailable("the server is gone")

            with pytest.raises(errors.SourceUnavailable):
                trial.disk().cache(made_elsewhere, ours.name)
            assert trial.backend.host.records.of(trial.disk().id) is None
            other.expect(other.disk(), theirs.content.read_bytes())
            other.disk().remove()

    @advisory("1.1")
    @needs(Marked)
    def test_mark_is_changed_only_where_it_is_what_was_seen(self, trial: Trial) -> None:
        """Two hosts that take a disk over at the same time do not both have it."""
        disk: Any = trial.made(trial.image(size=trial.small))
        seen = _mark(disk)
        assert seen is not None
        with disk.locked():
            disk.set_mark(seen, Owner(host="first", folder="f" * 32))
            with pytest.raises(errors.DiskElsewhere):
                disk.set_mark(seen, Owner(host="second", folder="f" * 32))
            now = disk.mark()
            assert now == Mark(owner=Owner(host="first", folder="f" * 32), identity=seen.identity)
            disk.set_mark(now, seen.owner)
        assert _mark(disk) == seen

    @advisory("1.1")
    @needs(Marked)
    def test_growth_keeps_the_mark(self, trial: Trial) -> None:
        """The disk is the same."""
        disk = trial.made(trial.image(size=trial.small))
        before = _mark(disk)
        disk.resize(trial.rounded(2 * trial.small))
        assert _mark(disk) == before

    @advisory("1.1")
    @needs(Marked, Snapshottable)
    def test_rollback_keeps_the_mark(self, trial: Trial) -> None:
        """Whatever takes the disk's place."""
        disk: Any = trial.made(trial.image(size=trial.small))
        before = _mark(disk)
        disk.create_snap("first")
        disk.rollback_to_snap("first")
        assert _mark(disk) == before

    @advisory("1.1")
    @needs(Marked, Flattenable)
    def test_flattening_keeps_the_mark(self, trial: Trial) -> None:
        """The disk is the same."""
        disk: Any = trial.made(trial.image(size=trial.small))
        before = _mark(disk)
        disk.flatten()
        assert _mark(disk) == before

    @advisory("1.1")
    @needs(Marked, CarriesHandover)
    def test_what_is_left_with_a_disk_is_read_on_another_host_and_changes_nothing_of_it(self, trial: Trial) -> None:
        """A text of many thousand bytes, until it is taken away."""
        disk = trial.made(trial.image(size=trial.small))
        assert isinstance(disk, CarriesHandover)
        before, mark, text = trial.read(disk), _mark(disk), "é<x/>" * 10_000
        for left in ("first", text, None, None):
            with disk.locked():
                disk.set_handover(left)
            with _elsewhere(trial) as other:
                theirs = other.disk()
                assert isinstance(theirs, CarriesHandover)
                with theirs.reading():
                    assert theirs.handover() == left
        with disk.locked():
            disk.set_handover(text)
        assert (trial.read(disk), _mark(disk)) == (before, mark)
        disk.remove()
        with trial.made(trial.image(size=trial.small)).reading():
            made: Any = trial.disk()
            assert made.handover() is None


def _mark(disk: Disk[Any]) -> Mark | None:
    assert isinstance(disk, Marked)
    with disk.reading():
        return disk.mark()


@contextlib.contextmanager
def _elsewhere(trial: Trial) -> Iterator[Trial]:
    """The same store, as a host sees it that has another name and another folder of instances."""
    settings = trial.backend.host.settings
    folder = trial.scratch / "another-host" / "instances"
    host = Host(dataclasses.replace(settings, hostname=f"not-{settings.hostname}", instances=folder))
    with trial.again(host) as other:
        yield other
