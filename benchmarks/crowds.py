"""Many at once: threads that make disks, processes that ask for one image."""

import hashlib
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.measuring import Call, Series, Taken
from benchmarks.results import Case, at_least, at_most
from benchmarks.workshop import Workshop
from imgbackend import Engine
from imgbackend.sources.contract import Image
from imgbackend.system import files
from imgbackend.types import Progress

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

THREADS: Final = 8
_PATIENCE: Final = 120.0


def threads(shop: Workshop) -> Case:
    """Further overlays from several threads of one process."""
    source, size = shop.source(), shop.size.image * 4
    flushed, plain = (
        Series("imgbackend, flushed, all of them"),
        Series("imgbackend, durable_disks = false, all of them"),
    )
    for _ in range(shop.size.few):
        for series, durable in ((flushed, True), (plain, False)):
            with shop.engine({"durable_disks": durable}) as engine:
                image = engine.image(str(source))
                shop.disk(engine, image, image.filename, size)()
                series.taken.append(_crowd(shop, engine, image, size)())
    each_second = shop.size.disks / flushed.median
    return Case(
        title=f"{shop.size.disks} further qcow2 disks from {THREADS} threads",
        series=[flushed, plain],
        targets=[at_least("flushed: 400 a second", each_second, 400, "/s")],
        notes=[f"{shop.size.disks / plain.median:.0f} a second without flushing."],
    )


def _crowd(shop: Workshop, engine: Engine, image: Image, size: int) -> Call:
    def call() -> Taken:
        names = [shop.instance() for _ in range(shop.size.disks)]
        with ThreadPoolExecutor(THREADS) as pool:
            ready = threading.Barrier(THREADS)
            list(pool.map(lambda _: ready.wait(), range(THREADS)))
            with shop.timer():
                made = list(pool.map(lambda name: engine.disk(name).cache(image, image.filename, size), names))
        assert {each.way for each in made} == {"overlay"}
        return shop.timer.taken

    return call


class SlowSource:
    """A fetch function that takes its time, and notes when it began and ended."""

    def __init__(self, source: Path, seconds: float, notes: Path) -> None:
        self._source, self._seconds, self._notes = source, seconds, notes

    def __call__(self, target: Path, _progress: Progress, /) -> None:
        """Copy the file bit by bit, holes kept; the clock is the same in all processes."""
        with self._source.open("rb") as source, target.open("xb") as file:
            size = self._source.stat().st_size
            file.truncate(size)
            ranges = list(files.data_ranges(source.fileno(), size))
            for start, end in ranges:
                time.sleep(self._seconds / len(ranges))
                os.pwrite(file.fileno(), os.pread(source.fileno(), end - start, start), start)
        with self._notes.open("a") as notes:
            notes.write(f"{time.monotonic()}\n")


def _ask(number: int, instances: Path, fetch: SlowSource, name: str, ready: Barrier, done: "Queue[float]") -> None:
    with Engine.from_config([], {"instances_path": str(instances)}) as engine:
        engine.backend()
        ready.wait(_PATIENCE)
        engine.disk(f"vm-{number}").cache(fetch, name)
        done.put(time.monotonic())


def processes(shop: Workshop) -> Case:
    """Several processes ask for an image that nobody has yet."""
    source = shop.source()
    series = Series(f"from the end of the fetch to the last of {shop.size.processes} disks")
    fetches = [_once(shop, source, series) for _ in range(shop.size.few)]
    return Case(
        title=f"{shop.size.processes} processes ask for the same uncached image",
        series=[series],
        targets=[
            at_most("all done at most 0.3 s after the fetch", series.median, 0.3, "s"),
            at_most("one fetch", max(fetches), 1),
        ],
        notes=[f"The source takes {shop.size.fetch:g} s for {source.stat().st_size >> 20} MiB."],
    )


def _once(shop: Workshop, source: Path, series: Series) -> int:
    """Let them ask once; the number of fetches."""
    context = multiprocessing.get_context("spawn")
    place = shop.folder / shop.instance()
    place.mkdir()
    notes, name = place / "fetches", hashlib.sha1(os.fsencode(place), usedforsecurity=False).hexdigest()
    fetch = SlowSource(source, shop.size.fetch, notes)
    ready, done = context.Barrier(shop.size.processes), context.Queue()
    asking = [
        context.Process(target=_ask, args=(number, place / "instances", fetch, name, ready, done))
        for number in range(shop.size.processes)
    ]
    _run_all(asking)
    finished = [done.get(timeout=_PATIENCE) for _ in asking]
    ends = [float(line) for line in notes.read_text().splitlines()]
    series.taken.append(Taken(seconds=max(finished) - max(ends)))
    return len(ends)


def _run_all(asking: "list[multiprocessing.context.SpawnProcess]") -> None:
    try:
        for each in asking:
            each.start()
        for each in asking:
            each.join(_PATIENCE)
            assert each.exitcode == 0, "a process that asked failed; what it said is above"
    finally:
        for each in asking:
            if each.pid is not None and each.is_alive():
                each.kill()
                each.join()
