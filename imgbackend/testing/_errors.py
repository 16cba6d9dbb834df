"""Errors: those of :mod:`imgbackend.errors` alone leave a driver, and each says what to do."""

import os
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import Progress


class ErrorTests(Topic):
    """Who can act is told by the class, and what to do by the message."""

    def test_errors_have_one_line(self, trial: Trial) -> None:
        """And it says something."""
        disk, image = trial.disk(), trial.image(size=trial.rounded(2 * trial.large))
        calls = (
            disk.info,
            lambda: disk.resize(trial.large),
            lambda: disk.cache(image, image.name, trial.large),
            lambda: disk.cache(image, "no-name"),
        )
        for call in calls:
            with pytest.raises(errors.Error) as caught:
                call()
            assert str(caught.value).strip()
            assert "\n" not in str(caught.value)

    def test_error_of_the_system_is_translated(self, trial: Trial) -> None:
        """An ``OSError`` of a fetch becomes one of ours, and stays its cause."""

        def broken(_target: Path, _progress: Progress) -> None:
            raise OSError(28, os.strerror(28))

        with pytest.raises(errors.Error) as caught:
            trial.made(trial.image().but(instead=broken))
        assert isinstance(caught.value, errors.StorageFull)
        assert isinstance(caught.value.__cause__, OSError)

    def test_disk_without_an_engine_is_told(self, trial: Trial) -> None:
        """A backend that no engine attached says so, and does nothing."""
        backend = trial.backend
        bare = type(backend)(backend.name, backend.conf, backend.host)
        with pytest.raises(errors.StorageError):
            bare.disk(trial.disk().id).info()
