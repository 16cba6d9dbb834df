"""How an operation is killed before each of its steps, and what is looked at each time."""

from collections.abc import Callable, Sequence
from typing import Protocol

from imgbackend.driver.abilities import HoldsBases
from imgbackend.testing.children import ChildOutcome, run
from imgbackend.testing.content import SimpleImage
from imgbackend.testing.sampling import sampled
from imgbackend.testing.trial import Trial

Work = Callable[[Trial, str], object]
"""What is done to the disk of a label."""


class LookAfterKill(Protocol):
    """Asserts that what is there may be there."""

    def __call__(self, on: Trial, label: str, when: str, *, done: bool) -> None:
        """``done``: the work was done, and not killed; ``when`` ends the messages."""


class Killing:
    """One operation, killed again and again."""

    def __init__(
        self,
        trial: Trial,
        work: Work,
        look: LookAfterKill,
        make: Work,
        names: Callable[[str], SimpleImage] | None,
        libraries: Sequence[str],
        sample: int | None,
    ) -> None:
        """``make`` prepares a label, unwatched; ``names`` is the image of a label, where each has its own;
        ``sample``: how many of the points are tried, None: all."""
        self._trial, self._work, self._look, self._make = trial, work, look, make
        self._names, self._libraries, self._sample = names, libraries, sample

    def at_every_step(self) -> None:
        """A clean run tells the steps, and what is there afterwards; then it is killed before each of them."""
        neighbour = self._trial.made(self._trial.image(size=self._trial.small, seed=7), "neighbour")
        self._trial.write(neighbour, 0, 4096, 0x77)
        whole = self._trial.read(neighbour)
        self._trial.backend.close()  # a child makes its own connections, and inherits none
        before = self._made("clean")
        outcome = self._run("clean", None)
        assert outcome.error is None, outcome.error
        assert outcome.steps, "the operation takes no steps"
        self._looked("clean", " when nothing was killed", done=True)
        clean = self._more("clean", before)
        for number, step in sampled(list(enumerate(outcome.steps)), self._sample):
            label, when = f"k{number}", f" killed before {step}"
            before = self._made(label)
            outcome = self._run(label, number)
            assert outcome.killed or outcome.error is None, f"{outcome.error}{when}"
            self._looked(label, when, done=False)
            with self._trial.again() as on:
                on.expect(on.disk("neighbour"), whole, f" is another disk, changed by one{when}")
                self._work(on, label)
            self._looked(label, f" done again,{when}", done=True)
            assert self._more(label, before) == clean, f"something else is there, done again{when}"

    def _made(self, label: str) -> set[str]:
        with self._trial.again() as on:
            self._make(on, label)
            return on.entries()

    def _run(self, label: str, number: int | None) -> ChildOutcome:
        def operation() -> None:
            with self._trial.again() as on:
                self._work(on, label)

        return run(operation, number, ignored=self._trial.ignored, libraries=self._libraries)

    def _looked(self, label: str, when: str, *, done: bool) -> None:
        with self._trial.again() as on:
            self._look(on, label, when, done=done)

    def _more(self, label: str, before: set[str]) -> list[str]:
        """What is there and was not, or the other way; with names that are the same for every label."""
        with self._trial.again() as on:
            found = on.entries() ^ before
        base = self._names(label).name if self._names else ""
        if base and isinstance(self._trial.backend, HoldsBases):
            # whole, and not yet in the store when that was killed: the cache's own to keep or to prune
            local = self._trial.backend.attached.bases.path(base)
            found -= {str(local), f"{local}.json"}
        tags = {self._trial.instance(label): "LABEL", **({base: "BASE"} if base else {})}
        return sorted(_renamed(each, tags) for each in found)


def _renamed(text: str, tags: dict[str, str]) -> str:
    for old, new in tags.items():
        text = text.replace(old, new)
    return text
