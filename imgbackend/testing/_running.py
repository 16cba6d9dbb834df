"""What is not done under a guest that runs: it would get half of one state and half of another."""

from collections.abc import Callable
from typing import Any

import pytest

from imgbackend import errors
from imgbackend.driver.abilities import Flattenable, Snapshottable
from imgbackend.testing import oracle
from imgbackend.testing.topic import Topic, advisory, needs
from imgbackend.testing.trial import Trial


class RunningTests(Topic):
    """Refused with DiskBusy while the guest runs; nothing is changed, and it works when the guest is stopped."""

    @advisory("1.1")
    def test_disk_of_a_running_guest_is_not_exported(self, trial: Trial) -> None:
        """In either format; no file is left."""
        image = trial.image(size=trial.small)
        disk = trial.made(image)
        folder = trial.scratch / "exports"
        folder.mkdir()
        with trial.guest(disk):
            for kind in ("raw", "qcow2"):
                with pytest.raises(errors.DiskBusy):
                    disk.extract(folder / kind, kind)
            assert list(folder.iterdir()) == []
        for kind in ("raw", "qcow2"):
            disk.extract(folder / kind, kind)
            got = oracle.file_bytes(folder / kind, kind, trial.scratch)
            oracle.expect(got, image.content.read_bytes(), f"the export as {kind}")

    @advisory("1.1")
    @needs(Snapshottable)
    def test_snapshots_of_a_running_guest_are_not_touched(self, trial: Trial) -> None:
        """None is made, rolled back to, or removed."""
        disk: Any = trial.made(trial.image(size=trial.small))
        first = trial.read(disk)
        disk.create_snap("first")
        trial.write(disk, 0, 4096, 0x17)
        before = trial.read(disk)
        calls: tuple[Callable[[], None], ...] = (
            lambda: disk.create_snap("second"),
            lambda: disk.rollback_to_snap("first"),
            lambda: disk.remove_snap("first"),
        )
        with trial.guest(disk):
            for call in calls:
                with pytest.raises(errors.DiskBusy):
                    call()
        assert [snap.name for snap in disk.snaps()] == ["first"]
        trial.expect(disk, before)
        for call in calls:
            call()
        assert [snap.name for snap in disk.snaps()] == ["second"]
        trial.expect(disk, first, " rolled back to first")

    @advisory("1.1")
    @needs(Flattenable)
    def test_disk_of_a_running_guest_is_not_flattened(self, trial: Trial) -> None:
        """It hangs on its base as before."""
        disk: Any = trial.made(trial.image(size=trial.small))
        before, record = trial.read(disk), trial.backend.host.records.of(disk.id)
        with trial.guest(disk), pytest.raises(errors.DiskBusy):
            disk.flatten()
        assert trial.backend.host.records.of(disk.id) == record
        trial.expect(disk, before)
        disk.flatten()
        trial.expect(disk, before, " flattened")

    @advisory("1.1")
    def test_disk_of_a_running_guest_is_not_removed(self, trial: Trial) -> None:
        """The guest goes on, and the disk is there when it ends."""
        disk = trial.made(trial.image(size=trial.small))
        before, record = trial.read(disk), trial.backend.host.records.of(disk.id)
        with trial.guest(disk), pytest.raises(errors.DiskBusy):
            disk.remove()
        assert trial.backend.host.records.of(disk.id) == record
        trial.expect(disk, before)
        disk.remove()
        assert not disk.exists()

    @advisory("1.1")
    def test_disk_of_a_running_guest_is_not_grown_behind_its_back(self, trial: Trial) -> None:
        """The guest would not know, and QEMU may write the old size back."""
        disk = trial.made(trial.image(size=trial.small))
        before = disk.info().size
        with trial.guest(disk), pytest.raises(errors.DiskBusy):
            disk.resize(trial.rounded(2 * before))
        assert disk.info().size == before
        disk.resize(trial.rounded(2 * before))
        assert disk.info().size > before
