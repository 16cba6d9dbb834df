"""Manners: what a driver does not do, whatever it is asked."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from oslo_config import cfg

from imgbackend import errors
from imgbackend.driver import abilities
from imgbackend.driver.contract import Backend, Disk
from imgbackend.testing import children, steps
from imgbackend.testing.content import copy_sparse
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import FileSource, Progress

_ABILITIES = (
    abilities.Backed,
    abilities.Cloneable,
    abilities.Importable,
    abilities.CarriesHandover,
    abilities.Snapshottable,
    abilities.Flattenable,
    abilities.HoldsBases,
    abilities.ChecksBases,
    abilities.SharedStore,
    abilities.IdentifiesStore,
    abilities.Checkable,
    abilities.TellsLeftovers,
)
_FINAL = (
    *("cache", "explain", "exists", "info", "resize", "remove", "extract"),
    *("found", "reading", "locked", "amend", "expect_closed", "note_loss"),
)


class MannerTests(Topic):
    """The shape of the classes, and what is left in the process."""

    def test_making_objects_does_no_io(self, trial: Trial) -> None:
        """Whatever touches the storage is for ``open``."""
        backend = trial.backend

        def make() -> None:
            made = type(backend)(backend.name, backend.conf, backend.host)
            made.disk(trial.disk().id)

        assert children.seen(make, reads=True, libraries=self.libraries) == []

    def test_abilities_are_declared_by_their_classes(self, trial: Trial) -> None:
        """A method of an ability is there with the ability, and not without it."""
        kinds: tuple[type, ...] = (trial.backend.disk_type, type(trial.backend))
        for ability in _ABILITIES:
            if any(issubclass(kind, ability) for kind in kinds):
                continue
            own = {name for name in vars(ability) if not name.startswith("_")}
            told = sorted(name for kind in kinds for name in own if hasattr(kind, name))
            assert told == [], f"{', '.join(told)} without {ability.__name__}: mix it in, or rename them"

    def test_abilities_are_on_the_right_class(self, trial: Trial) -> None:
        """Those of bases and stores are a backend's, the others a disk's."""
        of_backends = _ABILITIES[_ABILITIES.index(abilities.HoldsBases) :]
        for ability in _ABILITIES:
            wrong: type = trial.backend.disk_type if ability in of_backends else type(trial.backend)
            assert not issubclass(wrong, ability)

    def test_final_methods_are_the_engines(self, trial: Trial) -> None:
        """Locks, order and records are in them."""
        for name in _FINAL:
            assert getattr(trial.backend.disk_type, name) is getattr(Disk, name), f"{name} is overridden"
        for name in ("disk", "attach"):
            assert getattr(type(trial.backend), name) is getattr(Backend, name), f"{name} is overridden"

    def test_traits_are_plausible(self, trial: Trial) -> None:
        """They are promises, and the engine acts on them."""
        traits = trial.backend.traits
        assert traits.granularity >= 512
        assert traits.granularity % 512 == 0
        assert traits.formats
        assert isinstance(trial.disk().source(), FileSource) or not traits.files

    def test_options_have_defaults_or_are_required(self, trial: Trial) -> None:
        """And a help text each: they are in the sample configuration."""
        for option in type(trial.backend).opts:
            assert isinstance(option, cfg.Opt)
            assert option.help, f"{option.name} has no help"

    def test_nothing_is_left_in_the_process(self, trial: Trial) -> None:
        """No descriptor, no child, no thread: of calls that succeed, fail, and are cancelled."""
        image = trial.image(size=trial.small)
        self._use(trial, image.content, "warm")  # what is loaded once, and kept, is no leak
        before = self._held()
        for number in range(3):
            self._use(trial, image.content, f"n{number}")
        assert self._held() == before

    def _use(self, trial: Trial, content: Path, label: str) -> None:
        def broken(target: Path, _progress: Progress) -> None:
            copy_sparse(content, target)
            raise errors.SourceUnavailable("broke off")

        def cancel(phase: str, _done: int, _total: int | None) -> None:
            raise KeyboardInterrupt(phase)

        image = trial.image(size=trial.small)
        larger = trial.image(size=trial.rounded(2 * trial.small))
        other = image.but(image_id=f"{image.image_id}-{label}", instead=broken)
        with trial.again() as on:
            disk = on.made(image, label, on.rounded(2 * on.small))
            disk.resize(on.rounded(3 * on.small))
            disk.extract(on.scratch / label, "qcow2")
            disk.remove()
            calls: tuple[Callable[[], object], ...] = (
                disk.info,
                lambda: on.made(other, label),
                lambda: on.made(other.but(image_id="x"), label, progress=cancel),
                lambda: on.made(larger, label, on.small),
            )
            for call in calls:
                with pytest.raises((errors.Error, KeyboardInterrupt)):
                    call()

    @staticmethod
    def _held() -> tuple[int, int, set[str]]:
        children = {
            child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()
        }
        return len(os.listdir("/proc/self/fd")), threading.active_count(), children

    def test_no_lock_is_taken_by_a_driver(self, trial: Trial) -> None:
        """The engine holds the disk's; a driver's own would wait for somebody, some day."""
        if isinstance(trial.backend, abilities.SharedStore):
            pytest.skip("not applicable: the driver provides the store's lock")
        image = trial.image(size=trial.small)
        trial.made(image, "first")

        def use() -> None:
            with trial.again() as on:
                disk = on.made(image, "a", on.rounded(2 * on.small))
                disk.resize(on.rounded(3 * on.small))
                disk.extract(on.scratch / "locked", "raw")
                disk.remove()

        trial.backend.close()
        taken = [step for step in children.seen(use, locks=True, ignored=trial.ignored) if step.name in steps.LOCKS]
        assert taken == []

    def test_bases_that_are_private_stay_so(self, trial: Trial) -> None:
        """One instance's secret is refused, or nobody else can read it, and it is no base."""
        image = trial.secret()
        try:
            disk = trial.made(image, name="disk.config")
        except errors.Error:
            assert not trial.disk(name="disk.config").exists()
        else:
            trial.expect(disk, image.content.read_bytes())
            source = trial.source(disk)
            if isinstance(source, FileSource):
                assert os.stat(source.path).st_mode & 0o077 == 0
        assert not trial.backend.attached.bases.path(image.name).exists()

    def test_generated_template_gives_a_disk(self, trial: Trial) -> None:
        """A swap area, a fresh file system: put in place, or made a base of, as the driver likes."""
        image, size = trial.generated(), trial.rounded(2 * trial.small)
        disk = trial.made(image, size=size, name="disk.swap")
        whole = image.content.read_bytes()
        trial.expect(disk, whole + bytes(size - len(whole)))
