"""The class that a driver's author subclasses: all topics together."""

from typing import Any

from imgbackend.testing._away import AwayTests
from imgbackend.testing._bytes import BytesTests
from imgbackend.testing._clone import CloneTests
from imgbackend.testing._commands import CommandTests
from imgbackend.testing._concurrency import ConcurrencyTests
from imgbackend.testing._crash import CrashTests
from imgbackend.testing._create import CreateTests
from imgbackend.testing._durable import DurableTests
from imgbackend.testing._errors import ErrorTests
from imgbackend.testing._extract import ExtractTests
from imgbackend.testing._faults import FaultTests
from imgbackend.testing._fetch_once import FetchOnceTests
from imgbackend.testing._flatten import FlattenTests
from imgbackend.testing._idempotence import IdempotenceTests
from imgbackend.testing._info import InfoTests
from imgbackend.testing._manners import MannerTests
from imgbackend.testing._naming import NamingTests
from imgbackend.testing._owners import OwnerTests
from imgbackend.testing._progress import ProgressTests
from imgbackend.testing._refusals import RefusalTests
from imgbackend.testing._remove import RemoveTests
from imgbackend.testing._running import RunningTests
from imgbackend.testing._size import SizeTests
from imgbackend.testing._snapshot import SnapshotTests
from imgbackend.testing._source import SourceTests
from imgbackend.testing._stores import StoreTests
from imgbackend.testing.sampling import LEAST_SAMPLE


class BackendConformance(
    CreateTests,
    FetchOnceTests,
    SizeTests,
    RefusalTests,
    RemoveTests,
    InfoTests,
    SourceTests,
    ExtractTests,
    RunningTests,
    CrashTests,
    DurableTests,
    FaultTests,
    AwayTests,
    CommandTests,
    ConcurrencyTests,
    ProgressTests,
    IdempotenceTests,
    BytesTests,
    NamingTests,
    ErrorTests,
    MannerTests,
    SnapshotTests,
    FlattenTests,
    CloneTests,
    OwnerTests,
    StoreTests,
):
    """What every backend promises.  Subclass it, and give a fixture ``backend``.

    Own tests may be added; those of the kit may not be replaced.  What the driver is known not
    to do is declared in ``known_deviations``, by the name of the test, with the reason and a
    link.  Abilities, declared by the classes that are mixed in, decide which tests apply.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse what would make a pass mean nothing.

        :raises TypeError: if a test of the kit is replaced, a deviation names none, or a sample is too small.
        """
        super().__init_subclass__(**kwargs)
        tests = {name for name in dir(BackendConformance) if name.startswith("test_")}
        replaced = sorted(name for name in tests if getattr(cls, name) is not getattr(BackendConformance, name))
        if replaced:
            raise TypeError(f"{cls.__name__} overrides {', '.join(replaced)}; say why in known_deviations instead")
        unknown = sorted(set(cls.known_deviations) - tests)
        if unknown:
            raise TypeError(f"{cls.__name__}.known_deviations names no test of the kit: {', '.join(unknown)}")
        if cls.crash_sample is not None and cls.crash_sample < LEAST_SAMPLE:
            raise TypeError(
                f"{cls.__name__}.crash_sample is {cls.crash_sample}; "
                f"give {LEAST_SAMPLE} or more, or None for all points"
            )
        silent = sorted(name for name, reason in cls.known_deviations.items() if not reason.strip())
        if silent:
            raise TypeError(f"{cls.__name__}.known_deviations gives no reason for {', '.join(silent)}")
