"""Which points of a matrix are tried where a store is too slow for all of them."""

import random
from collections.abc import Sequence
from typing import Final, TypeVar

PointT = TypeVar("PointT")


LEAST_SAMPLE: Final = 2
"""The first and the last."""


def sampled(points: Sequence[PointT], most: int | None) -> list[PointT]:
    """In their order: all points, or ``most`` of them (None: all), the same ones at every run.

    The first and the last are always among them: what goes wrong does so most often there.
    """
    if most is None or len(points) <= most:
        return list(points)
    between = range(1, len(points) - 1)
    chance = random.Random(f"{most} of {len(points)}")  # noqa: S311 - the same points again, no secret
    chosen = sorted({0, len(points) - 1, *chance.sample(between, most - 2)})
    return [points[number] for number in chosen]
