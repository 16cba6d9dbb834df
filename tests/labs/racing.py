"""Passes of the cache and creations of disks that race each other, each in a process of its own.

What each does is drawn from a seed.  No lease keeps anything, and no base has to be old: each goes as
soon as a pass finds it unused, at whatever moment that is for who makes a disk of it.
"""

import contextlib
import json
import os
import pickle
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from imgbackend import Engine, errors
from imgbackend.cache import service
from imgbackend.disks.prepare import Preparer
from imgbackend.driver.template import Base
from imgbackend.types import ImageInfo, Mi
from labs.images import scattered, sparse_raw
from labs.templates import Template

AT_ONCE: Final = {
    "image_cache.lease_seconds": 0,
    "image_cache.remove_unused_original_minimum_age_seconds": 0,
    "durable_disks": False,
}
"""Options with which whatever is not used goes at once."""

_TESTS: Final = Path(__file__).parents[1]
_SECONDS: Final = 600


def small_images(folder: Path, count: int) -> list[Template]:
    """Of 1 MiB, half of it data, each different."""
    made = []
    for number in range(count):
        data = scattered(Mi, 0.5, extent=64 << 10, seed=number)
        content = sparse_raw(folder / f"image{number}.raw", Mi, data=data)
        made.append(Template(content=content, image_id=f"image {number}", format="raw"))
    return made


@dataclass(frozen=True, kw_only=True)
class Creations:
    """What one process makes."""

    overrides: dict[str, Any]
    """Of its engine."""
    images: Sequence[Template]
    size: int
    """Of each disk."""
    seed: int
    rounds: int
    scratch: Path | None = None
    """Where the bytes of each disk are compared with its image's before it goes; None: they are not."""

    def run(self) -> dict[str, str]:
        """Make disks and remove most of them; the images of those that are left, by instance."""
        chance, kept = random.Random(self.seed), dict[str, str]()
        _dawdle(random.Random(self.seed))
        with Engine.from_config([], self.overrides) as engine:
            for number in range(self.rounds):
                image, instance = chance.choice(self.images), f"vm-{self.seed}-{number}"
                try:
                    engine.disk(instance).cache(image, image.name, self.size)
                except errors.BaseMissing:
                    assert not engine.disk(instance).exists(), instance
                    continue
                kept[instance] = image.image_id
                while len(kept) > 1 and chance.random() < 0.7:
                    gone = chance.choice(sorted(kept))
                    self._compare(engine, gone, kept.pop(gone))
                    engine.disk(gone).remove()
        return kept

    def _compare(self, engine: Engine, instance: str, image_id: str) -> None:
        if self.scratch is not None:
            [image] = [image for image in self.images if image.image_id == image_id]
            content = image.content.read_bytes()
            assert content_of(engine, instance, self.scratch) == content.ljust(self.size, b"\0"), instance


def _dawdle(chance: random.Random) -> None:
    """Let time pass between the moment when a base is ready and that when a disk is made of it."""
    real = Preparer.__call__

    def prepare(preparer: Preparer, target: Base | Path, /) -> ImageInfo:
        found = real(preparer, target)
        time.sleep(chance.random() / 20)
        return found

    Preparer.__call__ = prepare  # type: ignore[method-assign]  # this process does nothing else


def _any_lease(path: Path) -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class Passes:
    """One pass after another, until somebody closes this process' input."""

    overrides: dict[str, Any]
    log: Path
    """A line for each pass."""

    def run(self) -> dict[str, str]:
        """Make them."""
        service.least_lease = _any_lease  # type: ignore[attr-defined]  # a race without a lease, also on NFS
        with Engine.from_config([], self.overrides) as engine, self.log.open("ab", buffering=0) as log:
            while not select.select([sys.stdin], [], [], 0)[0]:
                done = engine.cache.prune()
                removed = [each.base.name for each in done.outcomes if each.action == "removed"]
                log.write(json.dumps({"removed": removed, "faults": done.faults}).encode() + b"\n")
        return {}


class Work(Protocol):
    """What one process of a race does; it can be pickled."""

    def run(self) -> dict[str, str]:
        """Do it; what is returned can be told as JSON."""


class Racers:
    """The processes of one race."""

    def __init__(self, scratch: Path, path: str = "") -> None:
        """``path`` is put before the tests on PYTHONPATH."""
        self._log = scratch / "passes"
        self._stack = contextlib.ExitStack()
        found = [path, str(_TESTS), os.environ.get("PYTHONPATH", "")]
        self._environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, found))}
        self._passing: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Racers":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def prune(self, overrides: dict[str, Any], within: Sequence[str] = ()) -> None:
        """Begin to make passes; ``within``: by a command that runs a command somewhere."""
        self._passing.append(self._started(Passes(overrides=overrides, log=self._log), within))

    def wait(self, passes: int) -> None:
        """Until so many passes have been made."""
        end = time.monotonic() + _SECONDS
        while not self._log.exists() or self._log.read_bytes().count(b"\n") < passes:
            assert time.monotonic() < end, "no pass is made"
            time.sleep(0.01)

    def create(self, work: Work, within: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        """Begin to make disks, or what else ends by itself."""
        return self._started(work, within)

    def kill_a_pass(self, chance: random.Random, overrides: dict[str, Any], within: Sequence[str] = ()) -> None:
        """SIGKILL to the last who makes passes, or to its host, at some moment, and another in its place."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._passing[-1].wait(chance.random())
        dying = self._passing.pop()
        dying.send_signal(signal.SIGKILL)
        assert dying.wait(60) == -signal.SIGKILL
        self.prune(overrides, within)

    def made(self, process: "subprocess.Popen[bytes]") -> dict[str, str]:
        """What a process that makes disks has left, or what else its work told, when it has ended."""
        out, _ = process.communicate(timeout=_SECONDS)
        assert process.returncode == 0
        found: dict[str, str] = json.loads(out)
        return found

    def stop(self) -> tuple[int, list[str]]:
        """End all passes: how many bases they removed, and what they could not see or do."""
        for process in self._passing:
            process.communicate(timeout=_SECONDS)
            assert process.returncode == 0
        told = [json.loads(line) for line in self._log.read_text().splitlines()]
        return sum(len(each["removed"]) for each in told), [fault for each in told for fault in each["faults"]]

    def _started(self, work: Work, within: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
        argv = [*within, sys.executable, "-m", "labs.racing"]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment)
        self._stack.enter_context(_ended(process))
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(work))
        process.stdin.flush()
        return process


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    with process:
        try:
            yield
        finally:
            process.kill()


def content_of(engine: Engine, instance: str, scratch: Path) -> bytes:
    """All bytes of a disk, wherever it is."""
    target = scratch / f"{instance}.raw"
    engine.disk(instance).extract(target, "raw")
    try:
        return target.read_bytes()
    finally:
        target.unlink()


if __name__ == "__main__":
    from labs import racing  # what was pickled is of the module, not of the program

    work: racing.Work = pickle.load(sys.stdin.buffer)  # noqa: S301 - the test wrote it
    print(json.dumps(work.run()), flush=True)
