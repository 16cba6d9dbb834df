"""What an engine gives to its backends, for the final methods of their disks; nothing for drivers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from imgbackend.bases.store import Bases
from imgbackend.types import Owner, Record

Disk: TypeAlias = Any
"""A disk, whose class knows this module."""


class Ownership(Protocol):
    """Whose disks are; the engine's, see :class:`imgbackend.disks.owners.Owners`."""

    def me(self) -> Owner: ...
    def is_mine(self, instance: str, owner: Owner | None, /) -> bool: ...
    def known_me(self) -> Owner | None: ...
    def expect_mounted(self) -> None: ...
    def check(self, disk: Disk, /, *, adopting: bool = False) -> None: ...
    def expect_unnamed(self, disk: Disk, /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """What an engine gives to its backends, for the final methods; nothing for drivers."""

    bases: Bases
    owners: Ownership
    bind: Callable[[Disk], Record | None]
    """The record that binds a disk; DiskError where that is another backend's."""
