"""A store that is away: not mounted, not reached.  It has its disks still, and nobody knows more than that."""

import contextlib

import pytest

from imgbackend import errors
from imgbackend.testing.topic import Topic, advisory
from imgbackend.testing.trial import Trial


class AwayTests(Topic):
    """While a store is away from a backend that is open; where :meth:`Topic.without_store` has a way."""

    @advisory("1.1")
    def test_store_that_is_away_has_lost_no_disk(self, trial: Trial) -> None:
        """``find`` says StorageUnavailable, never None; when the store is back the disk is."""
        image = trial.image(size=trial.small)
        disk = trial.made(image)
        with self._away(trial):
            for call in (disk.find, disk.exists, disk.info):
                with pytest.raises(errors.StorageUnavailable):
                    call()
        assert disk.exists()
        trial.expect(disk, image.content.read_bytes())

    @advisory("1.1")
    def test_store_that_is_away_is_not_told_as_empty(self, trial: Trial) -> None:
        """``list_disks`` says StorageUnavailable, or lists by what is kept elsewhere; never nothing."""
        disk = trial.made(trial.image(size=trial.small))
        with self._away(trial), contextlib.suppress(errors.StorageUnavailable):
            assert trial.listed() == {disk.id}
        assert trial.listed() == {disk.id}

    @advisory("1.1")
    def test_store_that_is_away_gets_no_other_disk(self, trial: Trial) -> None:
        """No second disk is made in its place, which would hide the first, nor is the first forgotten."""
        image = trial.image(size=trial.small)
        disk = trial.made(image)
        trial.write(disk, 0, 4096, 0x29)
        before = trial.read(disk)
        with self._away(trial):
            for call in (lambda: disk.cache(image, image.name), disk.remove):
                with pytest.raises(errors.StorageUnavailable):
                    call()
        assert trial.backend.host.records.of(disk.id) is not None
        trial.expect(disk, before)

    def _away(self, trial: Trial) -> contextlib.AbstractContextManager[None]:
        way = self.without_store(trial)
        if way is None:
            pytest.skip("not applicable: no way is given to take the store away; see without_store")
        return way
