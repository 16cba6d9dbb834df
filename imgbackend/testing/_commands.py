"""Every command fails once, in each way that commands do; the call tells of it, and a retry works."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from imgbackend import errors
from imgbackend.driver.abilities import Backed, Flattenable, Snapshottable
from imgbackend.testing import oracle
from imgbackend.testing.commands import FAULTS, BrokenHost, Fault
from imgbackend.testing.sampling import sampled
from imgbackend.testing.topic import Topic, needs
from imgbackend.testing.trial import Trial

Work = Callable[[Trial, str], object]
"""What is done to the disk of a label."""


class CommandTests(Topic):
    """A command that fails, hangs, ends half-way or prints rubbish has not done its work."""

    def test_failing_commands_of_creation(self, trial: Trial) -> None:
        """A command that fails, hangs, ends half-way or prints rubbish makes no disk."""
        image = trial.as_qcow2(trial.image(size=trial.small))
        whole, size = trial.image(size=trial.small).content.read_bytes(), trial.rounded(2 * trial.small)
        trial.made(image, "first")

        def create(on: Trial, label: str) -> None:
            on.made(image, label, size)

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk = on.disk(label)
            assert disk.exists() is done, when
            if done:
                on.expect(disk, whole + bytes(size - len(whole)), when)

        self._with_broken_commands(trial, create, look, leaves_nothing=True)

    def test_failing_commands_of_growth(self, trial: Trial) -> None:
        """The disk has its bytes, and grows the next time."""
        image, size = trial.image(size=trial.small), trial.rounded(2 * trial.small)

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk, whole = on.disk(label), image.content.read_bytes()
            told = disk.info().size
            assert told == size if done else told in (trial.small, size), when
            on.expect(disk, whole + bytes(told - len(whole)), when)

        def grow(on: Trial, label: str) -> None:
            on.disk(label).resize(size)

        self._with_broken_commands(trial, grow, look, lambda on, label: on.made(image, label))

    def test_failing_commands_of_an_export(self, trial: Trial) -> None:
        """There is no file, or a whole one."""
        image = trial.image(size=trial.small)

        def extract(on: Trial, label: str) -> None:
            on.disk(label).extract(on.scratch / f"{label}.qcow2", "qcow2")

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            target = on.scratch / f"{label}.qcow2"
            assert target.exists() is done, when
            if done:
                oracle.expect(
                    oracle.file_bytes(target, "qcow2", on.scratch), image.content.read_bytes(), f"the export{when}"
                )
            on.expect(on.disk(label), image.content.read_bytes(), when)

        self._with_broken_commands(trial, extract, look, lambda on, label: on.made(image, label))

    @needs(Snapshottable)
    def test_failing_commands_of_a_snapshot(self, trial: Trial) -> None:
        """The disk has its bytes, and the snapshot is told of truly."""
        image = trial.image(size=trial.small)

        def snapshot(on: Trial, label: str) -> None:
            disk: Any = on.disk(label)
            if not disk.snaps():
                disk.create_snap("kept")

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk: Any = on.disk(label)
            assert [snap.name for snap in disk.snaps()] in ([["kept"]] if done else [[], ["kept"]]), when
            on.expect(disk, image.content.read_bytes(), when)

        self._with_broken_commands(trial, snapshot, look, lambda on, label: on.made(image, label))

    @needs(Flattenable)
    def test_failing_commands_of_flattening(self, trial: Trial) -> None:
        """The disk has its bytes, and is flat where nothing else was told."""
        image = trial.image(size=trial.small)

        def flatten(on: Trial, label: str) -> None:
            disk: Any = on.disk(label)
            disk.flatten()

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk: Any = on.disk(label)
            on.expect(disk, image.content.read_bytes(), when)
            if done and isinstance(disk, Backed):
                assert disk.backing() is None, f"nothing was told, and the disk hangs on its base{when}"

        self._with_broken_commands(trial, flatten, look, lambda on, label: on.made(image, label))

    # How each fault is tried

    def _with_broken_commands(
        self,
        trial: Trial,
        work: Work,
        look: Callable[..., None],
        make: Work = lambda _on, _label: None,
        *,
        leaves_nothing: bool = False,
    ) -> None:
        make(trial, "clean")
        counting = BrokenHost(trial.backend.host.settings)
        with trial.again(counting) as on:
            work(on, "clean")
        if not counting.count:
            pytest.skip("not applicable: no command is run")
        for fault, number in sampled(_all(FAULTS, counting.count), self.crash_sample):
            label, when = f"{fault.replace(' ', '-')}{number}", f" where command {number} {fault}"
            make(trial, label)
            before = trial.entries()
            try:  # opening a backend may run some too
                with trial.again(BrokenHost(trial.backend.host.settings, number, fault)) as on:
                    work(on, label)
            except errors.Error:
                look(trial, label, when, done=False)
                assert not leaves_nothing or trial.entries() == before, when
                work(trial, label)
            look(trial, label, when, done=True)


def _all(faults: Sequence[Fault], count: int) -> list[tuple[Fault, int]]:
    return [(fault, number) for fault in faults for number in range(count)]
