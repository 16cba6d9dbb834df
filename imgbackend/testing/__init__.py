"""The conformance kit: what proves that a driver keeps the contract.

In the tests of a driver's own package, all of it::

    class TestZfs(BackendConformance):
        @pytest.fixture
        def backend(self, zpool: str, tmp_path: Path) -> Iterator[Backend]:
            with conforming(ZfsBackend, tmp_path, {"pool": zpool}) as backend:
                yield backend

It needs pytest: ``pip install 'imgbackend[testing]'``.  The names are imported when they are
first used, so that the command can say so where pytest is missing.
"""

import contextlib
import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from imgbackend.testing.conformance import BackendConformance as BackendConformance
    from imgbackend.testing.memory import MemoryBackend as MemoryBackend
    from imgbackend.testing.place import conforming as conforming

SUITE: Final = "1.1"
"""The version of what is demanded.  A new demand is advisory for one minor release."""

_HOMES: Final = {"BackendConformance": "conformance", "MemoryBackend": "memory", "conforming": "place"}

TOPICS: Final = (
    "create",
    "fetch_once",
    "size",
    "refusals",
    "remove",
    "info",
    "source",
    "extract",
    "running",
    "crash",
    "durable",
    "faults",
    "away",
    "commands",
    "concurrency",
    "progress",
    "idempotence",
    "bytes",
    "naming",
    "errors",
    "manners",
    "snapshot",
    "flatten",
    "clone",
    "owners",
    "stores",
)
"""What is demanded, a module each."""

__all__ = ["SUITE", "BackendConformance", "MemoryBackend", "conforming"]

with contextlib.suppress(ModuleNotFoundError):
    import pytest

    # without it a failed assertion does not tell its values
    pytest.register_assert_rewrite(*(f"{__name__}._{topic}" for topic in TOPICS))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'imgbackend.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"imgbackend.testing.{_HOMES[name]}"), name)
