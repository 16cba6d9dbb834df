"""Killed before each of its steps, an operation leaves what it found, or what it was to make.

Each point: a child is killed there; the disk is absent or whole, no other disk is changed;
the same call succeeds, and leaves what it leaves where nothing was killed.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from imgbackend import errors
from imgbackend.driver.abilities import Flattenable, Snapshottable
from imgbackend.testing import children, flushing, oracle
from imgbackend.testing.content import SimpleImage
from imgbackend.testing.killing import Killing, LookAfterKill, Work
from imgbackend.testing.topic import Topic, needs
from imgbackend.testing.trial import Trial


class CrashTests(Topic):
    """SIGKILL, and what is there afterwards."""

    def test_killed_creation_of_the_first_disk(self, trial: Trial) -> None:
        """While the image is fetched, its base made, and the disk."""
        size = trial.rounded(2 * trial.small)

        def image(label: str) -> SimpleImage:
            return trial.image("sparse", size=trial.small).but(image_id=f"{trial.instance('image')}-{label}")

        def create(on: Trial, label: str) -> None:
            on.made(image(label), label, size)

        self._at_every_step(trial, create, self._absent_or_whole(image("any"), size), names=image)

    def test_killed_creation_of_a_further_disk(self, trial: Trial) -> None:
        """With the base there already."""
        size, image = trial.rounded(2 * trial.small), trial.image(size=trial.small)
        trial.made(image, "first")
        look = self._absent_or_whole(image, size)
        self._at_every_step(trial, lambda on, label: on.made(image, label, size), look)

    def test_killed_growth_keeps_the_bytes(self, trial: Trial) -> None:
        """Of the old size or of the new one."""
        size = trial.rounded(2 * trial.small)

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk, wanted = on.disk(label), self._written(trial)
            assert disk.exists(), f"there is no disk{when}"
            told = disk.info().size
            assert told == size if done else told in (trial.small, size), when
            on.expect(disk, wanted + bytes(told - len(wanted)), when)

        self._at_every_step(trial, lambda on, label: on.disk(label).resize(size), look, self._make_written)

    def test_killed_removal_can_be_repeated(self, trial: Trial) -> None:
        """The disk is whole until it is gone."""

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk = on.disk(label)
            if done:
                assert not disk.exists(), when
            elif disk.exists():
                on.expect(disk, self._written(trial), when)

        self._at_every_step(trial, lambda on, label: on.disk(label).remove(), look, self._make_written)

    def test_killed_extract_changes_nothing(self, trial: Trial) -> None:
        """There is no export, or a whole one."""

        def extract(on: Trial, label: str) -> None:
            target = self._target(trial, label)
            with contextlib.suppress(errors.DiskError) if target.exists() else contextlib.nullcontext():
                on.disk(label).extract(target, "raw")

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            target, wanted = self._target(trial, label), self._written(trial)
            on.expect(on.disk(label), wanted, when)
            assert target.exists() or not done, when
            if target.exists():
                oracle.expect(target.read_bytes(), wanted, f"the export{when}")
            assert not done or sorted(target.parent.iterdir()) == [target], when

        self._at_every_step(trial, extract, look, self._make_written)

    @needs(Snapshottable)
    def test_killed_snapshot_keeps_the_bytes(self, trial: Trial) -> None:
        """It is there, or it is not, and the disk is the same."""

        def snapshot(on: Trial, label: str) -> None:
            disk: Any = on.disk(label)
            if not disk.snaps():
                disk.create_snap("kept")

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk: Any = on.disk(label)
            on.expect(disk, self._written(trial), when)
            assert [snap.name for snap in disk.snaps()] in ([["kept"]] if done else [[], ["kept"]]), when
            if done:  # what is listed is whole, whenever it was made
                on.write(disk, 0, 4096, 0x31)
                disk.rollback_to_snap("kept")
                on.expect(disk, self._written(trial), f" rolled back,{when}")

        self._at_every_step(trial, snapshot, look, self._make_written)

    @needs(Snapshottable)
    def test_killed_rollback_can_be_repeated(self, trial: Trial) -> None:
        """And gives the bytes of the snapshot."""

        def make(on: Trial, label: str) -> None:
            self._make_written(on, label)
            disk: Any = on.disk(label)
            disk.create_snap("kept")
            on.write(disk, 0, trial.small, 0x99)

        def rollback(on: Trial, label: str) -> None:
            disk: Any = on.disk(label)
            disk.rollback_to_snap("kept")

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk: Any = on.disk(label)
            assert [snap.name for snap in disk.snaps()] == ["kept"], when
            if done or on.read(disk) != b"\x99" * trial.small:
                on.expect(disk, self._written(trial), when)

        self._at_every_step(trial, rollback, look, make)

    @needs(Flattenable)
    def test_killed_flatten_keeps_the_bytes(self, trial: Trial) -> None:
        """At any point the disk reads the same."""

        def flatten(on: Trial, label: str) -> None:
            disk: Any = on.disk(label)
            disk.flatten()

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:  # noqa: ARG001 - the same before and after
            on.expect(on.disk(label), self._written(trial), when)

        self._at_every_step(trial, flatten, look, self._make_written)

    def test_flush_comes_before_each_rename(self, trial: Trial) -> None:
        """A power cut after a rename finds the bytes: the order of the steps shows that it will."""
        image = trial.image(size=trial.small)
        for label in ("a", "b"):
            flushing.expect_before_renames(
                children.seen(partial(self._anew, trial, label, image), ignored=trial.ignored)
            )

    def test_growth_is_flushed(self, trial: Trial) -> None:
        """A power cut after it finds the disk as large as was told."""
        trial.made(trial.image(size=trial.small))
        flushing.expect_after_writes(children.seen(partial(self._grown, trial), ignored=trial.ignored))

    @staticmethod
    def _grown(trial: Trial) -> None:
        with trial.durable() as on:
            on.disk().resize(trial.rounded(2 * trial.small))

    @staticmethod
    def _anew(trial: Trial, label: str, image: SimpleImage) -> None:
        with trial.durable() as on:
            on.made(image, label, trial.rounded(2 * trial.small))

    # How each point is tried

    def _at_every_step(
        self,
        trial: Trial,
        work: Work,
        look: LookAfterKill,
        make: Work = lambda _on, _label: None,
        *,
        names: Callable[[str], SimpleImage] | None = None,
    ) -> None:
        Killing(trial, work, look, make, names, self.libraries, self.crash_sample).at_every_step()

    @staticmethod
    def _absent_or_whole(image: SimpleImage, size: int) -> LookAfterKill:
        whole = image.content.read_bytes()

        def look(on: Trial, label: str, when: str, *, done: bool) -> None:
            disk = on.disk(label)
            if done or disk.exists():
                told = disk.info().size
                assert told == size if done else told in (len(whole), size), when
                on.expect(disk, whole + bytes(told - len(whole)), when)

        return look

    @staticmethod
    def _make_written(on: Trial, label: str) -> None:
        on.write(on.made(on.image(size=on.small), label), 0, on.small // 4, 0x55)

    @staticmethod
    def _written(trial: Trial) -> bytes:
        return b"\x55" * (trial.small // 4) + trial.image(size=trial.small).content.read_bytes()[trial.small // 4 :]

    @staticmethod
    def _target(trial: Trial, label: str) -> Path:
        folder = trial.scratch / f"export-{label}"
        folder.mkdir(exist_ok=True)
        return folder / "out"
