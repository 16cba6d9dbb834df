"""Instances in turn, with what is read of each: one after another, or ahead in threads where that is slow."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TypeVar

from imgbackend.bases.instance_folders import nothing
from imgbackend.system import shared_storage

T = TypeVar("T")


class Turns:
    """Turns over the folders below one ``instances_path``."""

    def __init__(self, instances: Path) -> None:
        """Keep the path; nothing is looked at."""
        self._instances = instances
        self._remote: bool | None = None

    def each(
        self,
        names: Sequence[str],
        look: Callable[[str], T],
        ahead: Callable[[T], T] | None = None,
        turn: Callable[[], object] = nothing,
    ) -> Generator[tuple[str, T], None, None]:
        """Each name, with what ``look`` returns of it; ``turn`` is called before it is its turn, and may raise.

        Where the file system is remote ``look`` is called in threads, for the next names too, and ``ahead`` on what it
        returns; elsewhere ``look`` alone, when it is the name's turn, and no thread is started.  Whoever may stop
        before the end closes it.
        """
        if not self._is_remote():
            for name in names:
                turn()
                yield name, look(name)
            return
        from imgbackend.bases import read_ahead

        def read(name: str) -> T:
            return look(name) if ahead is None else ahead(look(name))

        with contextlib.closing(read_ahead.in_order(names, read, turn)) as answers:
            yield from zip(names, answers, strict=True)

    def _is_remote(self) -> bool:
        """Whether the file system is one that several hosts share, by its type.

        Not by how long it takes to answer: the first answers may come out of a cache, and those that follow not; and a
        disk of this host that is busy at the moment gets no faster by 16 readers.
        """
        if self._remote is None:
            try:
                self._remote = shared_storage.is_shared(shared_storage.file_system(self._instances))
            except OSError:
                self._remote = False  # whoever reads next tells what is wrong
        return self._remote
