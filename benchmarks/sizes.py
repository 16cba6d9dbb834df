"""What is wanted of disks of images of several sizes, made in turns with Nova."""

from collections.abc import Iterator, Sequence

from benchmarks.measuring import Series, ratio
from benchmarks.results import Target, at_least, at_most
from imgbackend.types import Mi


def against_nova(series: Sequence[Series], sizes: Sequence[int], times: float) -> list[Target]:
    """``series`` are ours and Nova's of each size, from the smallest on, or, where Nova is not there, ours alone.

    ``times``: how much faster than Nova is wanted with the largest.
    """
    return list(_targets(series, sizes, times))


def _targets(series: Sequence[Series], sizes: Sequence[int], times: float) -> Iterator[Target]:
    alone = len(series) == len(sizes)
    ours = series if alone else series[::2]
    if len(sizes) > 1:
        yield at_most("whatever the size: at most 1.25 x that of the smallest", ratio(ours[-1], ours[0]), 1.25, "x")
    if not alone:
        faster = [ratio(nova, mine) for mine, nova in zip(ours, series[1::2], strict=True)]
        yield at_least(f"{sizes[-1] // Mi} MiB: {times:g} times faster than Nova", faster[-1], times, "x")


def compared(series: Sequence[Series], sizes: Sequence[int]) -> list[str]:
    """A line about Nova's ratio at each size; none where Nova is not there."""
    if len(series) == len(sizes):
        return []
    faster = [f"{ratio(nova, mine):.3g}" for mine, nova in zip(series[::2], series[1::2], strict=True)]
    return [f"Nova takes {', '.join(faster)} times as long as imgbackend, from the smallest to the largest."]
