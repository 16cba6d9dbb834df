"""Flattening, and disks that hang on a base."""

from pathlib import Path
from typing import Any

import pytest

from imgbackend import errors
from imgbackend.driver.abilities import Backed, Flattenable
from imgbackend.testing.topic import Topic, needs
from imgbackend.testing.trial import Trial
from imgbackend.types import Mi, Progress


class FlattenTests(Topic):
    """For disks that are :class:`Backed`, or :class:`Flattenable`."""

    @needs(Flattenable)
    def test_flattened_disk_has_the_same_bytes(self, trial: Trial) -> None:
        """And the same size; twice is no error."""
        disk: Any = trial.made(trial.image(), size=trial.rounded(2 * trial.large))
        trial.write(disk, Mi, Mi, 0x19)
        before, size = trial.read(disk), disk.info().size
        for _ in range(2):
            disk.flatten()
            trial.expect(disk, before)
            assert disk.info().size == size

    @needs(Flattenable, Backed)
    def test_flattened_disk_needs_no_base(self, trial: Trial) -> None:
        """It is read without it, and says that it has none."""
        image = trial.image()
        disk: Any = trial.made(image)
        before = trial.read(disk)
        disk.flatten()
        assert disk.backing() is None
        record = trial.backend.host.records.of(disk.id)
        assert record is not None
        assert (record.base, record.digest) == (None, None)
        with _away(trial.backend.attached.bases.path(image.name)):
            trial.expect(disk, before)

    @needs(Flattenable)
    def test_flattening_one_disk_leaves_the_others(self, trial: Trial) -> None:
        """Of the same base."""
        image = trial.image()
        one: Any = trial.made(image, "a")
        two = trial.made(image, "b")
        one.flatten()
        trial.expect(two, image.content.read_bytes())

    @needs(Backed)
    def test_backing_names_the_base(self, trial: Trial) -> None:
        """The file and the format, as the disk's own header states them."""
        image = trial.image()
        disk: Any = trial.made(image)
        base = trial.backend.attached.bases.path(image.name)
        assert disk.backing() == (base, "raw")

    @needs(Backed)
    def test_missing_base_is_brought_back(self, trial: Trial) -> None:
        """By the same call, without touching the disk."""
        image = trial.image()
        disk = trial.made(image)
        trial.write(disk, 0, Mi, 0x58)
        before = trial.read(disk)
        trial.backend.attached.bases.path(image.name).unlink()
        done = disk.cache(image, image.name)
        assert (done.way, done.fetched) == ("exists", True)
        trial.expect(disk, before)

    @needs(Backed)
    def test_missing_base_that_cannot_be_had_is_told(self, trial: Trial) -> None:
        """BaseMissing, and the disk stays."""
        image, other = trial.image(), trial.image(seed=1)

        def fetch(target: Path, progress: Progress) -> None:
            other(target, progress)

        disk = trial.made(image)
        base = trial.backend.attached.bases.path(image.name)
        with _away(base):
            with pytest.raises(errors.BaseMissing):
                disk.cache(fetch, other.name)  # it does not say which image it is
            with pytest.raises(errors.BaseMissing):
                disk.extract(trial.scratch / "out", "raw")
            assert disk.exists()
        trial.expect(disk, image.content.read_bytes())


class _away:  # noqa: N801 - reads as what it does
    """A file is under another name for a while."""

    def __init__(self, path: Path) -> None:
        self._path, self._other = path, path.with_name("away")

    def __enter__(self) -> None:
        self._path.rename(self._other)

    def __exit__(self, *exc: object) -> None:
        self._other.rename(self._path)
