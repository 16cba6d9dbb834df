"""How long a backend takes for what matters, on the same footing as its tests."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from imgbackend.driver.abilities import Snapshottable
from imgbackend.testing import SUITE
from imgbackend.testing.trial import Trial
from imgbackend.types import Mi

_ROUNDS: Final = 5
_SIZE: Final = 64 * Mi


def measured(trial: Trial) -> dict[str, Any]:
    """Milliseconds of each operation: the median, the best and the worst of some rounds.

    Of an image of 64 MiB, a quarter of it data, of which the first disk is made (with the
    base), and a further one; grown by half, a snapshot made and rolled back, removed.
    """
    size = trial.rounded(max(_SIZE, trial.smallest))
    taken: dict[str, list[float]] = {}
    for number in range(_ROUNDS):
        image = trial.image(size=size).but(image_id=f"{trial.instance('benchmark')}-{number}")
        first, further = trial.disk(f"first{number}"), trial.disk(f"further{number}")
        _time(taken, "first disk", partial(first.cache, image, image.name))
        _time(taken, "further disk", partial(further.cache, image, image.name))
        _time(taken, "disk that exists", partial(further.cache, image, image.name))
        _time(taken, "grow", partial(further.resize, trial.rounded(size * 3 // 2)))
        if isinstance(further, Snapshottable):
            _time(taken, "snapshot", partial(further.create_snap, "kept"))
            _time(taken, "rollback", partial(further.rollback_to_snap, "kept"))
        _time(taken, "remove", further.remove)
        first.remove()
    return {
        "suite": SUITE,
        "backend": trial.backend.name,
        "driver": trial.backend.driver,
        "image_bytes": size,
        "rounds": _ROUNDS,
        "milliseconds": {name: _told(values) for name, values in taken.items()},
    }


def _time(taken: dict[str, list[float]], name: str, work: Callable[[], object]) -> None:
    started = time.perf_counter()
    work()
    taken.setdefault(name, []).append((time.perf_counter() - started) * 1000)


def _told(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "best": round(min(values), 3),
        "worst": round(max(values), 3),
    }
