"""Every step fails once: the call tells of it, or has done its work; and nothing half-done is left."""

import errno
import os
from collections.abc import Callable
from typing import Any, Final

import pytest

from imgbackend import errors
from imgbackend.driver.abilities import Snapshottable
from imgbackend.testing.children import ChildOutcome, fail, run
from imgbackend.testing.sampling import sampled
from imgbackend.testing.steps import is_engines
from imgbackend.testing.topic import Topic, advisory, destructive, needs
from imgbackend.testing.trial import Trial
from imgbackend.types import Mi

_FILLING: Final = frozenset(
    {
        "open",
        "os.mkdir",
        "os.rename",
        "os.link",
        "os.truncate",
        "os.write",
        "os.pwrite",
        "os.copy_file_range",
        "os.sendfile",
        "os.posix_fallocate",
        "os.fsync",
        "file.write",
        "file.truncate",
    }
)
"""Steps that a full file system refuses."""

Work = Callable[[Trial, str], object]


class FaultTests(Topic):
    """Nothing is promised of a broken store, but that it is told, and that a retry works."""

    def test_input_output_error_at_each_step_of_creation(self, trial: Trial) -> None:
        """EIO."""
        self._create_with_faults(trial, errno.EIO)

    def test_full_store_at_each_step_of_creation(self, trial: Trial) -> None:
        """ENOSPC."""
        self._create_with_faults(trial, errno.ENOSPC)

    def test_input_output_error_at_each_step_of_growth(self, trial: Trial) -> None:
        """The disk has the old size or the new one, and its bytes."""
        size = trial.rounded(2 * trial.small)
        image = trial.image(size=trial.small)
        whole = image.content.read_bytes()

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            told = on.disk(label).info().size
            assert told == size if done else told in (trial.small, size), when
            on.expect(on.disk(label), whole + bytes(told - len(whole)), when)

        def grow(on: Trial, label: str) -> None:
            on.disk(label).resize(size)

        self._failing_at_every_step(trial, errno.EIO, grow, look, lambda on, label: on.made(image, label))

    def test_input_output_error_at_each_step_of_removal(self, trial: Trial) -> None:
        """The disk is whole, or gone."""
        image = trial.image(size=trial.small)

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            if on.disk(label).exists():
                assert not done, when
                on.expect(on.disk(label), image.content.read_bytes(), when)

        def remove(on: Trial, label: str) -> None:
            on.disk(label).remove()

        self._failing_at_every_step(trial, errno.EIO, remove, look, lambda on, label: on.made(image, label))

    @advisory("1.1")
    @needs(Snapshottable)
    def test_failed_snapshot_leaves_nothing(self, trial: Trial) -> None:
        """None of that name is listed, no part of it is there, and it can be made then."""
        image = trial.image(size=trial.small)
        entries: dict[str, set[str]] = {}

        def make(on: Trial, label: str) -> None:
            on.made(image, label)
            entries[label] = on.entries()

        def snapshot(on: Trial, label: str) -> None:
            disk: Any = on.disk(label)
            if not disk.snaps():
                disk.create_snap("kept")

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk: Any = on.disk(label)
            assert [snap.name for snap in disk.snaps()] == (["kept"] if done else []), when
            assert done or on.entries() == entries[label], f"something of it is there{when}"
            on.expect(disk, image.content.read_bytes(), when)

        self._failing_at_every_step(trial, errno.EIO, snapshot, look, make)

    def test_absence_is_told_only_where_it_is_sure(self, trial: Trial) -> None:
        """A store that cannot be read has not lost its disks: ``find`` never says None of one that is there."""
        disk = trial.made(trial.image(size=trial.small))
        trial.backend.close()

        def find() -> None:
            with trial.again() as on:
                found = on.backend.disk(disk.id)
                found.recorded = disk.recorded
                assert found.find() is not None, "find said None of a disk that it could not look at"

        count = len(run(find, reads=True, ignored=trial.ignored, libraries=self.libraries).steps)
        assert count, "find looks at nothing"
        for number in sampled(range(count), self.crash_sample):
            outcome = run(find, number, fail(errno.EIO), reads=True, ignored=trial.ignored, libraries=self.libraries)
            assert "find said None" not in (outcome.error or ""), outcome.error

    @destructive
    def test_full_store_is_told(self, trial: Trial) -> None:
        """Where the store is small enough to be filled: StorageFull, and nothing is left."""
        free = trial.backend.capacity().free
        if free > 256 * Mi:
            pytest.skip(f"not applicable: {free} bytes are free, too many to fill")
        image, before = trial.image("random", size=trial.rounded(free + 8 * Mi)), trial.entries(bases=False)
        try:
            disk = trial.made(image)
        except errors.StorageFull:
            assert trial.entries(bases=False) == before  # a base that is kept elsewhere had room
        else:
            trial.expect(disk, image.content.read_bytes())

    # How each fault is tried

    def _create_with_faults(self, trial: Trial, code: int) -> None:
        image, size = trial.image(size=trial.small), trial.rounded(2 * trial.small)
        whole = image.content.read_bytes()
        trial.made(image, "first")

        def create(on: Trial, label: str) -> None:
            on.made(image, label, size)

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            if done or on.disk(label).exists():
                told = on.disk(label).info().size
                assert told == size or not done, when
                on.expect(on.disk(label), whole + bytes(told - len(whole)), when)

        self._failing_at_every_step(trial, code, create, look)

    def _failing_at_every_step(
        self,
        trial: Trial,
        code: int,
        work: Work,
        look: Callable[..., None],
        make: Work = lambda _on, _label: None,
    ) -> None:
        def do(label: str, number: int | None) -> ChildOutcome:
            def operation() -> None:
                with trial.again() as on:
                    work(on, label)

            return run(operation, number, fail(code), ignored=trial.ignored, libraries=self.libraries)

        with trial.again() as on:
            make(on, "clean")
        trial.backend.close()
        seen = do("clean", None).steps
        assert seen, "the operation takes no steps"
        points = [
            (number, step)
            for number, step in enumerate(seen)
            if not is_engines(step, trial.backend.host.instances) and (code != errno.ENOSPC or step.name in _FILLING)
        ]
        for number, step in sampled(points, self.crash_sample):
            label, when = f"f{number}", f" after errno {code} at {step}"
            with trial.again() as on:
                make(on, label)
            outcome = do(label, number)
            self._told_properly(outcome, when)
            silent = outcome.error is None
            with trial.again() as on:
                look(on, label, f"{when}, of which nothing was told" if silent else when, done=silent)
                work(on, label)
                look(on, label, f" done again,{when}", done=True)
                _no_part_of(on, label, when)

    @staticmethod
    def _told_properly(outcome: ChildOutcome, when: str) -> None:
        assert not outcome.killed, when
        assert outcome.error is None or outcome.ours, f"{outcome.error} left the library{when}"
        assert outcome.error is None or outcome.caused, f"{outcome.error} names no cause{when}"


def _no_part_of(on: Trial, label: str, when: str) -> None:
    """Nothing of a disk is under a hidden name once a call for it has succeeded."""
    left = [each for each in on.entries() if on.instance(label) in each and os.path.basename(each).startswith(".")]
    assert left == [], when
