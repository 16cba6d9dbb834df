"""Stores: a disk is not taken for lost where the options lead to another store than the one that it was made in."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imgbackend import errors
from imgbackend.driver.abilities import IdentifiesStore
from imgbackend.driver.contract import Backend
from imgbackend.testing.topic import Topic, advisory, needs
from imgbackend.testing.trial import Trial
from imgbackend.types import Record


class StoreTests(Topic):
    """For backends that are able to say which store they have: :class:`IdentifiesStore`."""

    @advisory("1.1")
    @needs(IdentifiesStore)
    def test_store_says_the_same_of_itself_to_every_backend(self, trial: Trial) -> None:
        """One line, which another process or host reads too; and what an operator is to look at are options."""
        told = _identity(trial)
        assert told.strip() == told
        assert told
        assert told.isprintable()
        with trial.again() as other:
            assert _identity(other) == told
        assert isinstance(trial.backend, IdentifiesStore)
        options = {opt.dest for opt in type(trial.backend).opts}
        assert trial.backend.store_options
        assert set(trial.backend.store_options) <= options

    @advisory("1.1")
    @needs(IdentifiesStore)
    def test_record_keeps_the_store(self, trial: Trial) -> None:
        """As it was when the disk was made; growth does not change it."""
        told = _identity(trial)
        disk = trial.made(trial.image(size=trial.small))
        assert _record(trial).store == told
        disk.resize(trial.rounded(2 * trial.small))
        assert _record(trial).store == told == _identity(trial)

    @advisory("1.1")
    @needs(IdentifiesStore)
    def test_disk_of_another_store_is_neither_looked_for_nor_made_nor_forgotten(self, trial: Trial) -> None:
        """Every call is refused, nothing is made in the other store, and the record stays as it was."""
        image = trial.image(size=trial.small)
        made, record = trial.made(image), _record(trial)
        before = trial.read(made)
        with self._other(trial) as other:
            assert _identity(other) != _identity(trial)
            disk: Any = other.disk()
            calls: tuple[Callable[[], object], ...] = (
                lambda: disk.cache(image, image.name),
                lambda: disk.resize(trial.rounded(2 * trial.small)),
                lambda: disk.extract(trial.scratch / "exported", "raw"),
                disk.remove,
                lambda: disk.remove(force=True),
                disk.exists,
                disk.info,
            )
            for call in calls:
                with pytest.raises(errors.WrongStore):
                    call()
            disk.given_record = dataclasses.replace(record, store=None)  # as if nobody had noted it
            assert not disk.exists()
        assert _record(trial) == record
        trial.expect(made, before)

    @contextlib.contextmanager
    def _other(self, trial: Trial) -> Iterator[Trial]:
        way = self.other_store(trial)
        if way is None:
            pytest.skip("not applicable: there is no other store to try; see other_store")
        with way as backend:
            yield dataclasses.replace(trial, backend=backend)


def _identity(trial: Trial) -> str:
    backend: Backend = trial.backend
    assert isinstance(backend, IdentifiesStore)
    return backend.store_identity()


def _record(trial: Trial) -> Record:
    found = trial.backend.host.records.of(trial.disk().id)
    assert found is not None
    return found
