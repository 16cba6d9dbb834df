"""The metrics of the cache as a text file for Prometheus; the one module that imports its library.

What is counted comes from :mod:`imgbackend.system.counters`, where all processes of the host put it; what is
measured, from the pass that writes the file.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgbackend.cache.policy import CachedBase
from imgbackend.system import files

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_PREFIX: Final = "imgbackend_cache"
_COUNTERS: Final = {
    "hits": "Disks that were made from a base that was here",
    "misses": "Disks whose base had to be fetched, or imported, first",
    "fetches": "Images that were fetched whole, for a disk or beforehand",
    "fetched_bytes": "Bytes of images that were fetched",
    "verifications": "Bases that were compared with their digests",
    "verified_bytes": "Bytes of bases that were compared with their digests",
    "verification_failures": "Bases that were not what their digests say",
}
_BY_CAUSE: Final = {
    "evictions": "Bases that were removed, by cause: unused, gone from the source, for room",
    "evicted_bytes": "Bytes that the removal of bases freed, by cause",
}
_BY_STORE: Final[dict[str, tuple[str, Callable[[CachedBase], int]]]] = {
    "bases": ("Bases, by where they are kept", lambda base: 1),  # noqa: ARG005 - each counts as one
    "bytes": ("Bytes that bases take, by where they are kept", lambda base: base.allocated),
    "unused_bytes": ("Bytes of bases that no disk hangs on", lambda base: 0 if base.users else base.allocated),
}
_CAUSES: Final = ("unused", "gone", "room")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a pass saw."""

    bases: list[CachedBase]
    """That are there after it."""
    free: int
    """Bytes, of the base folder's file system."""
    faults: int
    hosts: int
    """That are alive and share the folder, this one too."""


class _Collector:
    def __init__(self, counts: Mapping[str, float], measured: Measured) -> None:
        self._counts, self._measured = counts, measured

    def collect(self) -> "Iterator[Metric]":
        from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily

        for name, told in _COUNTERS.items():
            yield CounterMetricFamily(f"{_PREFIX}_{name}", told, value=self._counts.get(name, 0))
        for name, told in _BY_CAUSE.items():
            by_cause = CounterMetricFamily(f"{_PREFIX}_{name}", told, labels=["cause"])
            for cause in sorted({*_CAUSES, *self._labels(name)}):
                by_cause.add_metric([cause], self._counts.get(f"{name} {cause}", 0))
            yield by_cause
        spent = SummaryMetricFamily(f"{_PREFIX}_phase_seconds", "Seconds that each phase took", labels=["phase"])
        for phase in sorted(self._labels("spans")):
            spent.add_metric([phase], int(self._counts[f"spans {phase}"]), self._counts.get(f"seconds {phase}", 0))
        yield spent
        yield from self._gauges()

    def _labels(self, name: str) -> Iterator[str]:
        return (key.removeprefix(f"{name} ") for key in self._counts if key.startswith(f"{name} "))

    def _gauges(self) -> "Iterator[Metric]":
        from prometheus_client.core import GaugeMetricFamily

        found = self._measured
        for name, (told, size) in _BY_STORE.items():
            gauge = GaugeMetricFamily(f"{_PREFIX}_{name}", told, labels=["store"])
            for store, value in _added((base.where, size(base)) for base in found.bases).items():
                gauge.add_metric([store], value)
            yield gauge
        for name, told, single in (
            ("free_bytes", "Bytes free on the file system of the base folder", float(found.free)),
            ("last_pass_timestamp_seconds", "When the last pass ended", time.time()),
            ("last_pass_faults", "What the last pass could not look at or do", float(found.faults)),
            ("hosts", "Hosts that are alive and share the base folder", float(found.hosts)),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", told, value=single)


def _added(found: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums = {"local": 0}
    for store, value in found:
        sums[store] = sums.get(store, 0) + value
    return sums


def write(path: Path, counts: Mapping[str, float], measured: Measured) -> None:
    """Put the metrics at ``path``, which a reader sees whole: those of before, or these.

    :raises OSError: as writing does; what was there stays.
    """
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(counts, measured))
    files.write_whole(path, generate_latest(registry), durable=False)
