"""The folder, the images and the engines that the cases work with."""

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Call, Processes, Taken, Timer
from imgbackend import Engine
from imgbackend.sources.contract import Image
from imgbackend.types import FetchFunc, Mi
from labs import images

_MEASURED: Final = frozenset({"overlay", "copy", "reflink", "snapshot", "clone"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    image: int
    """Bytes of the local image."""
    repeats: int
    """Of what is cheap."""
    few: int
    """Repeats of what is not."""
    disks: int
    """Made by the threads."""
    processes: int
    """That ask for one image."""
    fetch: float
    """Seconds that the slow source takes."""


FULL: Final = Size(image=256 * Mi, repeats=30, few=7, disks=1000, processes=16, fetch=1.0)
QUICK: Final = Size(image=8 * Mi, repeats=3, few=2, disks=16, processes=3, fetch=0.2)


class Workshop:
    """A folder on the file system that is measured; all that is made is below it."""

    def __init__(self, folder: Path, size: Size, processes: Processes) -> None:
        """``folder`` is empty, and the caller removes it."""
        self.folder, self.size = folder, size
        self.timer = Timer(processes)
        self._numbers = itertools.count()

    def source(
        self, folder: Path | None = None, size: int | None = None, share: float = 0.25, extent: int = Mi
    ) -> Path:
        """A raw image with data in a share of it, in extents at random places; flushed, and in memory."""
        path = (folder or self.folder) / f"image-{(size or self.size.image) // Mi}-{extent // Mi}.raw"
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(size or self.size.image)
                for offset, content in images.scattering(size or self.size.image, share, extent=extent):
                    file.seek(offset)
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
        return path

    @contextlib.contextmanager
    def engine(self, overrides: Mapping[str, Any] | None = None, *, folder: Path | None = None) -> Iterator[Engine]:
        """An engine with an ``instances_path`` of its own."""
        path = (folder or self.folder) / f"instances-{next(self._numbers)}"
        with Engine.from_config([], {"instances_path": str(path), **(overrides or {})}) as engine:
            yield engine

    def instance(self) -> str:
        """A name that no instance had."""
        return f"vm-{next(self._numbers)}"

    def settle(self, folder: Path) -> None:
        """Let what one call left to be written not be the next one's burden."""
        flush(folder)

    def disk(self, engine: Engine, image: Image | FetchFunc, name: str, size: int) -> Call:
        """A call that makes the disk of a new instance, checks it, and removes it."""

        def call() -> Taken:
            instance = self.instance()
            with self.timer():
                made = engine.disk(instance, "disk").cache(image, name, size)
            assert made.way in _MEASURED, made
            assert engine.disk(instance, "disk").info().size == size
            engine.disk(instance, "disk").remove()
            self.settle(engine.host.instances)
            return self.timer.taken

        return call

    def copy(self, source: Path, folder: Path, *, flushed: bool) -> Call:
        """``cp --sparse=auto`` as a process, with the new file and its folder flushed, or not."""
        target = folder / f"copy-{next(self._numbers)}"

        def call() -> Taken:
            with self.timer():
                subprocess.run(["cp", "--sparse=auto", str(source), str(target)], check=True, timeout=600)
                if flushed:
                    flush(target)
                    flush(folder)
            target.unlink()
            self.settle(folder)
            return self.timer.taken

        return call


def environment(**more: str) -> dict[str, str]:
    """Of a process that is measured: it finds its modules compiled, as they are where a package is installed."""
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}, **more}


def flush(path: Path) -> None:
    """fsync of a file or a folder."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def folder_at(parent: Path) -> Iterator[Path]:
    """An empty folder of this process, removed at the end."""
    path = parent / f"bench-{os.getpid()}"
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path)
