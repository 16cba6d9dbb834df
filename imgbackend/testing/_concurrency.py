"""Many at once: threads of one process, and processes of one host."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

import pytest

from imgbackend import errors
from imgbackend.testing.children import Child, run, stop
from imgbackend.testing.content import copy_sparse
from imgbackend.testing.sampling import sampled
from imgbackend.testing.steps import is_engines
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import Progress

T = TypeVar("T")
_CROWD = 8
_SECONDS = 60.0
"""How long anybody waits for another; then it hangs."""


class ConcurrencyTests(Topic):
    """The engine locks, and a driver does not have to; nor does it get in the way."""

    def test_threads_that_make_disks_fetch_once(self, trial: Trial) -> None:
        """One fetch for all, and each disk whole."""
        image = trial.image(size=trial.small)
        done = _in_threads(lambda number: trial.disk(f"t{number}").cache(image, image.name))
        assert sum(each.fetched for each in done) == image.fetches == 1
        for number in range(_CROWD):
            trial.expect(trial.disk(f"t{number}"), image.content.read_bytes())

    def test_threads_that_make_one_disk_make_it_once(self, trial: Trial) -> None:
        """The others find it."""
        image = trial.image(size=trial.small)
        done = _in_threads(lambda _number: trial.disk().cache(image, image.name))
        assert sum(each.way != "exists" for each in done) == 1
        trial.expect(trial.disk(), image.content.read_bytes())

    def test_processes_that_make_disks_fetch_once(self, trial: Trial) -> None:
        """As threads do."""
        image = trial.image(size=trial.small)

        def make(label: str) -> None:
            with trial.again() as on:
                on.made(image, label)

        trial.backend.close()
        self._in_processes(lambda number: lambda: make(f"p{number}"))
        with trial.again() as on:
            for number in range(_CROWD):
                on.expect(on.disk(f"p{number}"), image.content.read_bytes())
        assert image.fetches == 1

    def test_processes_that_make_one_disk_make_it_once(self, trial: Trial) -> None:
        """And grow it, and look at it, meanwhile."""
        image, size = trial.image(size=trial.small), trial.rounded(2 * trial.small)

        def make(number: int) -> None:
            with trial.again() as on:
                on.made(image, size=size if number % 2 else None)
                assert on.disk().info().size in (trial.small, size)

        trial.backend.close()
        self._in_processes(lambda number: lambda: make(number))
        with trial.again() as on:
            on.expect(on.disk(), image.content.read_bytes() + bytes(size - trial.small))

    def test_disks_are_made_and_removed_at_once(self, trial: Trial) -> None:
        """What is left are the disks that nobody removed."""
        image = trial.image(size=trial.small)
        trial.made(image, "kept")

        def work(number: int) -> None:
            for _ in range(3):
                trial.made(image, f"w{number}").remove()
            if number % 2:
                trial.made(image, f"w{number}")

        _in_threads(work)
        kept = {trial.disk(f"w{number}").id for number in range(_CROWD) if number % 2} | {trial.disk("kept").id}
        assert trial.listed() == kept
        for disk_id in kept:
            trial.expect(trial.backend.disk(disk_id), image.content.read_bytes())

    def test_disk_does_not_wait_for_another_ones_image(self, trial: Trial) -> None:
        """While one image is fetched, disks of others are made: no lock is held around that."""
        begun, go_on = threading.Event(), threading.Event()

        def slow(target: Path, _progress: Progress) -> None:
            begun.set()
            assert go_on.wait(_SECONDS), "the other disk was not made meanwhile"
            copy_sparse(first.content, target)

        first, second = trial.image(size=trial.small), trial.image(size=trial.small, seed=1)
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(trial.made, first.but(instead=slow), "slow")
            try:
                assert begun.wait(_SECONDS), "the fetch was not begun"
                quick = pool.submit(trial.made, second, "quick")
                assert wait([quick], _SECONDS).done, "the other disk was not made meanwhile"
                quick.result()
            finally:
                go_on.set()
            trial.expect(one.result(_SECONDS), first.content.read_bytes())
        trial.expect(trial.disk("quick"), second.content.read_bytes())

    def test_disks_made_at_once_share_no_temporary_name(self, trial: Trial) -> None:
        """One process is stopped before each of its steps, while another makes a disk."""
        images = [trial.image(size=trial.small, seed=seed) for seed in range(2)]
        for image in images:
            trial.made(image, f"base{image.name}")
        trial.backend.close()

        def make(number: int, label: str) -> None:
            with trial.again() as on:
                on.made(images[number], label, trial.rounded(2 * trial.small))

        seen = run(lambda: make(0, "clean"), ignored=trial.ignored, libraries=self.libraries).steps
        own = [number for number, step in enumerate(seen) if not is_engines(step, trial.backend.host.instances)]
        for number in sampled(own, self.crash_sample):
            self._with_one_stopped(trial, make, number)
            with trial.again() as on:
                for which, label in enumerate((f"stopped{number}", f"passing{number}")):
                    wanted = images[which].content.read_bytes()
                    on.expect(on.disk(label), wanted + bytes(trial.rounded(2 * trial.small) - len(wanted)))
                    on.disk(label).remove()

    def _with_one_stopped(self, trial: Trial, make: Callable[[int, str], None], number: int) -> None:
        stopped = Child(
            lambda: make(0, f"stopped{number}"), number, stop, ignored=trial.ignored, libraries=self.libraries
        )
        try:
            if stopped.stopped():
                passing = Child(lambda: make(1, f"passing{number}"), watched=False)
                assert passing.outcome().error is None
        finally:
            stopped.go_on()
            assert stopped.outcome().error is None

    def test_call_from_inside_a_call_is_refused(self, trial: Trial) -> None:
        """It would wait for itself."""
        image = trial.image(size=trial.small)

        def again(_phase: str, _done: int, _total: int | None) -> None:
            trial.made(image)

        with pytest.raises(errors.DiskBusy):
            trial.made(image, progress=again)
        assert not trial.disk().exists()

    @staticmethod
    def _in_processes(work: Callable[[int], Callable[[], None]]) -> None:
        crowd = [Child(work(number), watched=False) for number in range(_CROWD)]
        assert [child.outcome().error for child in crowd] == [None] * _CROWD


def _in_threads(work: Callable[[int], T]) -> list[T]:
    """What ``work`` returns for 0, 1, ..., begun at once."""
    start = threading.Barrier(_CROWD)

    def begin(number: int) -> T:
        start.wait(_SECONDS)
        return work(number)

    with ThreadPoolExecutor(_CROWD) as pool:
        return [done.result(2 * _SECONDS) for done in [pool.submit(begin, number) for number in range(_CROWD)]]
