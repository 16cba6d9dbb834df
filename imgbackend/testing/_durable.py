"""What a call did is there after a power cut: snapshots, removals, new folders.

Told by the steps that Python sees; what a command or a server flushes is theirs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from imgbackend.driver.abilities import Snapshottable
from imgbackend.testing import children, flushing
from imgbackend.testing.content import FETCHES
from imgbackend.testing.steps import Step, is_engines
from imgbackend.testing.topic import Topic, advisory, needs
from imgbackend.testing.trial import Trial


class DurableTests(Topic):
    """Where disks are durable, as they are unless an operator says otherwise."""

    @advisory("1.1")
    @needs(Snapshottable)
    def test_snapshots_are_flushed(self, trial: Trial) -> None:
        """When one is made, and when the disk goes back to one: bytes before names, names before the return."""
        disk = trial.made(trial.image(size=trial.small))
        for work in (lambda on: on.create_snap("kept"), lambda on: on.rollback_to_snap("kept")):
            trial.write(disk, 0, 4096, 0x18)
            seen = self._seen(trial, work)
            flushing.expect_before_renames(seen)
            flushing.expect_after_writes(seen)

    @advisory("1.1")
    def test_removal_is_flushed(self, trial: Trial) -> None:
        """A disk that was removed does not come back."""
        trial.made(trial.image(size=trial.small))

        def remove(disk: Any) -> None:
            with disk.locked():
                disk.discard()
                disk.remove_image()

        self._expect_gone_for_good(trial, remove)

    @advisory("1.1")
    @needs(Snapshottable)
    def test_removal_of_a_snapshot_is_flushed(self, trial: Trial) -> None:
        """Nor does a snapshot."""
        disk: Any = trial.made(trial.image(size=trial.small))
        disk.create_snap("kept")
        self._expect_gone_for_good(trial, lambda on: on.remove_snap("kept"))

    @advisory("1.1")
    def test_new_folders_are_flushed(self, trial: Trial) -> None:
        """A disk is lost with the folder that it is in: of the first disk, and of another instance's."""
        host = trial.backend.host
        for label in ("a", "b"):
            made = children.seen(partial(self._make_small, trial, label), ignored=trial.ignored)
            seen = [step for step in made if not is_engines(step, host.instances)]
            kits = str(trial.scratch / FETCHES)
            flushing.expect_of_new_folders(seen, {str(host.instances), str(host.bases), kits})

    @staticmethod
    def _make_small(trial: Trial, label: str) -> None:
        with trial.durable() as on:
            on.made(on.image(size=on.small), label)

    def _expect_gone_for_good(self, trial: Trial, work: Callable[[Any], object]) -> None:
        before = trial.entries()
        seen = self._seen(trial, work)
        flushing.expect_after_removals(seen, {path for path in before - trial.entries() if path.startswith("/")})

    @staticmethod
    def _seen(trial: Trial, work: Callable[[Any], object]) -> list[Step]:
        """The steps of the work on the usual disk."""

        def operation() -> None:
            with trial.durable() as on:
                work(on.disk())

        return children.seen(operation, ignored=trial.ignored)
