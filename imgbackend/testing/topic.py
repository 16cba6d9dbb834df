"""What every topic of the kit has: the fixtures, and how tests say when they apply."""

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Final, TypeVar

import pytest

from imgbackend.driver.contract import Backend
from imgbackend.testing.trial import Trial
from imgbackend.types import Location

F = TypeVar("F", bound=Callable[..., None])

_NEEDS: Final = "__imgbackend_needs__"
_ADVISORY: Final = "__imgbackend_advisory__"
_DESTRUCTIVE: Final = "__imgbackend_destructive__"


def needs(*abilities: type) -> Callable[[F], F]:
    """The test applies where the driver's disks or backend have all these abilities."""

    def mark(test: F) -> F:
        setattr(test, _NEEDS, abilities)
        return test

    return mark


def advisory(since: str) -> Callable[[F], F]:
    """The test's demand is new in that version of the suite; until the next a failure is told, and no more."""

    def mark(test: F) -> F:
        setattr(test, _ADVISORY, since)
        return test

    return mark


def destructive(test: F) -> F:
    """The test fills or damages the store; on a host's own backend it runs only if asked for."""
    setattr(test, _DESTRUCTIVE, True)
    return test


def is_destructive(test: object) -> bool:
    """Whether a test function was so marked."""
    return bool(getattr(test, _DESTRUCTIVE, False))


def is_advisory(test: object) -> bool:
    """Whether a test function was so marked."""
    return hasattr(test, _ADVISORY)


def missing(test: object, backend: Backend) -> list[str]:
    """The abilities that a test needs and the driver does not declare."""
    wanted: tuple[type, ...] = getattr(test, _NEEDS, ())
    return [
        kind.__name__
        for kind in wanted
        if not issubclass(type(backend), kind) and not issubclass(backend.disk_type, kind)
    ]


class Topic:
    """Fixtures for all topics; ``backend`` is the subclass's own."""

    known_deviations: ClassVar[dict[str, str]] = {}
    """``{"test_name": "reason and link"}``: what the driver does not do, and why.  Each has to
    fail: one that passes is stale, and fails as such."""
    advisories_count: ClassVar[bool] = False
    """New demands fail already now, and not only from the next minor release on."""
    smallest: ClassVar[int] = 512
    """Bytes of the smallest disk that the store can keep, where that is more than a sector."""
    crash_sample: ClassVar[int | None] = None
    """Points that are tried of each matrix of kills and of faults, 2 or more: the first, the last, and
    some between them, the same ones at every run; None: all.  For a store where a step takes seconds."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Modules written in C through which the driver changes its store: their calls are steps
    at which the crash tests kill."""

    @pytest.fixture(autouse=True)
    def _judged(self, request: pytest.FixtureRequest, backend: Backend) -> None:
        """Skip what does not apply, and expect what is known to deviate."""
        test, name = request.function, request.function.__name__
        lacking, reason = missing(test, backend), self.known_deviations.get(name)
        if lacking and reason is not None:
            pytest.fail(f"known_deviations names {name}, which does not apply: not {', '.join(lacking)}")
        if lacking:
            pytest.skip(f"not applicable: not {', '.join(lacking)}")
        if reason is not None:
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
        elif is_advisory(test) and not self.advisories_count:
            since = getattr(test, _ADVISORY)
            request.applymarker(pytest.mark.xfail(strict=False, reason=f"advisory, new in suite {since}"))

    def without_store(self, trial: Trial) -> contextlib.AbstractContextManager[None] | None:  # noqa: ARG002 - for those who override it
        """Take the store away, as where it is not mounted or does not answer, and give it back at the end.

        To be overridden where there is a way: by an unmount, a stopped server, a firewall's rule.  The
        backend stays open meanwhile.  None: there is none, and what is demanded of it does not apply.
        """
        return None

    def other_store(self, trial: Trial) -> contextlib.AbstractContextManager[Backend] | None:  # noqa: ARG002 - for those who override it
        """A backend of the same section and ``instances_path``, open, whose options lead to another store.

        To be overridden by a driver whose backends are IdentifiesStore: another pool, another group; see
        :func:`~imgbackend.testing.place.conforming`.  None: there is no other, and what is demanded of it does not
        apply.
        """
        return None

    @pytest.fixture
    def run_token(self) -> str:
        """What the names of all disks of a run have in common; the command gives one."""
        return ""

    @pytest.fixture
    def trial(
        self, backend: Backend, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, run_token: str, _judged: None
    ) -> Iterator[Trial]:
        """The backend, with names, images and a scratch folder of this test's own."""
        scratch = tmp_path_factory.mktemp("scratch")
        made = Trial(
            backend=backend,
            scratch=scratch,
            watched=[tmp_path],
            smallest=self.smallest,
            token=run_token + secrets.token_hex(3),
        )
        yield made
        made.clear()
        shutil.rmtree(scratch, ignore_errors=True)

    @pytest.fixture
    def location(self, trial: Trial) -> Location:
        """Of a driver whose disks are Cloneable: where a source keeps :meth:`Trial.image`.

        To be given beside ``backend``: put the file ``trial.image().content`` where sources
        keep images in the storage, and return that place.
        """
        pytest.fail(f"{type(trial.backend).__name__} clones: give a fixture `location` too (see its docstring)")
