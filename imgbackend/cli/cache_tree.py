"""``imgbackend cache list --tree``: the bases, and below each the instances whose disks hang on it."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from cliff.columns import FormattableColumn

from imgbackend.cli.figures import Listed, Size

if TYPE_CHECKING:
    from imgbackend.cache.policy import CachedBase

COLUMNS: Final = ("name", "kind", "store", "image_id", "disks", "allocated", "pinned")


class _Branch(FormattableColumn[str]):
    """A name below another: with the lines of a tree for people, by itself for machines."""

    def __init__(self, value: str, mark: str) -> None:
        super().__init__(value)
        self._mark = mark

    def human_readable(self) -> str:
        return f"{self._mark} {self._value}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Branch) and (self._value, self._mark) == (other._value, other._mark)

    __hash__ = FormattableColumn.__hash__


def rows(bases: "Iterable[CachedBase]") -> Iterator[tuple[Any, ...]]:
    """A row for each base, followed by one for each instance that has disks on it."""
    for base in bases:
        yield base.name, "base", base.where, base.image_id, base.users, Size(base.allocated), base.pinned
        below = [
            (instance, "instance", [disk.partition("/")[2] for disk in disks])
            for instance, disks in groupby(sorted(base.disks), key=lambda disk: disk.partition("/")[0])
        ]
        unknown = base.users - len(base.disks)
        if unknown > 0:
            below.append((f"{unknown} more, of other hosts or not on record", "unknown", []))
        for at, (name, kind, disks) in enumerate(below):
            mark = "└─" if at == len(below) - 1 else "├─"
            yield _Branch(name, mark), kind, base.where, None, Listed(disks), None, None
