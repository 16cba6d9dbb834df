"""Progress: told truly, in the caller's thread, and a way to cancel."""

import threading

import pytest

from imgbackend import errors
from imgbackend.testing.sampling import sampled
from imgbackend.testing.topic import Topic
from imgbackend.testing.trial import Trial
from imgbackend.types import Mi

_PHASES = frozenset({"wait", "fetch", "convert", "copy", "digest", "import", "extract"})


class CancelledError(Exception):
    """What a caller's progress raises."""


class ProgressTests(Topic):
    """``progress(phase, done, total)``, and what it raises comes back."""

    def test_progress_is_told_in_known_words_and_rising_numbers(self, trial: Trial) -> None:
        """Bytes, never more than there are, and by the thread that called."""
        told: list[tuple[str, int, int | None]] = []
        threads: set[int] = set()

        def progress(phase: str, done: int, total: int | None) -> None:
            told.append((phase, done, total))
            threads.add(threading.get_ident())

        disk = trial.made(trial.as_qcow2(trial.image()), size=trial.rounded(trial.large + Mi), progress=progress)
        disk.extract(trial.scratch / "out", "qcow2", progress=progress)
        phases = {phase for phase, _, _ in told}
        assert phases <= _PHASES
        assert {"fetch", "extract"} <= phases
        assert threads == {threading.get_ident()}
        for phase in phases - {"wait"}:
            numbers = [(done, total) for each, done, total in told if each == phase]
            assert [done for done, _ in numbers] == sorted(done for done, _ in numbers)
            assert all(0 <= done <= total for done, total in numbers if total is not None)

    def test_cancelling_leaves_nothing(self, trial: Trial) -> None:
        """At each time that progress is told: what it raises comes back, and the call can be repeated."""
        image, before = trial.as_qcow2(trial.image(size=trial.small)), trial.entries(bases=False)
        size, calls = trial.rounded(2 * trial.small), 0

        def make(label: str, last: int | None) -> None:
            nonlocal calls

            def progress(phase: str, _done: int, _total: int | None) -> None:
                nonlocal calls
                calls += phase != "wait"
                assert calls < 1000, "progress is told without an end"
                if last is not None and calls > last:
                    raise CancelledError(f"at {last}")

            calls = 0
            trial.made(image.but(image_id=f"{image.image_id}-{label}"), size=size, progress=progress)

        make("whole", None)
        trial.disk().remove()
        assert calls, "progress is told nothing"
        for number in sampled(range(calls), self.crash_sample):
            try:
                make(f"{number}", number)
            except CancelledError as exc:
                assert str(exc) == f"at {number}"  # noqa: PT017 - how often progress is told need not be the same
                assert not trial.disk().exists()
            else:
                assert calls <= number, f"cancelled at {number}, and made all the same"
                trial.disk().remove()
            assert trial.entries(bases=False) == before, f"cancelled at {number}"
        make("again", None)
        whole = trial.image(size=trial.small).content.read_bytes()
        trial.expect(trial.disk(), whole + bytes(size - len(whole)))

    def test_cancelling_a_further_disk_leaves_the_others(self, trial: Trial) -> None:
        """And the base."""
        image = trial.image()
        other = trial.made(image, "other")
        before = trial.entries()

        def cancel(_phase: str, _done: int, _total: int | None) -> None:
            raise CancelledError

        try:
            trial.made(image, progress=cancel)
        except CancelledError:
            assert trial.entries() == before
        trial.expect(other, image.content.read_bytes())
        trial.expect(trial.made(image), image.content.read_bytes())

    def test_error_of_a_callback_is_not_taken_for_the_stores(self, trial: Trial) -> None:
        """Whatever it raises, an ``OSError`` too, comes back as it is."""
        for raised in (OSError(5, "mine"), errors.CommandFailed(["mine"], 1, ""), KeyboardInterrupt("mine")):

            def cancel(_phase: str, _done: int, _total: int | None, what: BaseException = raised) -> None:
                raise what

            with pytest.raises(type(raised)) as caught:
                trial.made(trial.image(), progress=cancel)
            assert caught.value is raised
            assert not trial.disk().exists()
