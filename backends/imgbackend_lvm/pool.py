"""A thin pool: how much room it has, and what is written into its volumes."""

import os
import time
from collections.abc import Sequence
from typing import Final

from imgbackend import errors
from imgbackend.system import files
from imgbackend.types import Capacity, Progress
from imgbackend_lvm.block_io import fill, opened
from imgbackend_lvm.group import GroupBackend
from imgbackend_lvm.lvm2 import LogicalVolume

_WATCHED: Final = 2.0
"""Seconds between two looks at the pool while it is written to."""
_OF_CHUNK: Final = 64
"""Bytes of metadata that a chunk may take: two entries of B-trees that are half full."""
_USABLE: Final = 0.9
"""Of the metadata: the kernel keeps a tenth for itself, and stops all writing to the pool beyond that."""


class Pool:
    """The thin pool of a backend."""

    def __init__(self, backend: GroupBackend, volume: str) -> None:
        """Keep the backend, and the name of the pool's own volume; nothing is run."""
        self._backend, self._volume = backend, volume
        self.name = f"the thin pool {backend.group}/{volume}"
        """For messages."""

    def volume(self, seen: Sequence[LogicalVolume] | None = None) -> LogicalVolume:
        """As lvm2 has it; ``seen`` are the volumes of the group, where they were just looked at.

        :raises ConfigError: if there is none, or it is no thin pool.
        """
        backend = self._backend
        if seen is None:
            seen = backend.lvm.lvs(backend.group, self._volume)
        found = [volume for volume in seen if volume.lv_name == self._volume]
        if not found or not found[0].is_thin_pool:
            what = f"{backend.group}/{self._volume} is no thin pool" if found else f"{self.name} is not there"
            made = f"lvcreate --type thin-pool -n {self._volume} -L SIZE {backend.group}"
            raise errors.ConfigError(f"{what}; set thin_pool, or make one: {made}")
        return found[0]

    def capacity(self) -> Capacity:
        """Of its data."""
        volume = self.volume()
        return Capacity(total=volume.lv_size, free=_free(volume))

    def refuse_full(self, seen: Sequence[LogicalVolume]) -> None:
        """See that another volume can be made; ``seen`` are the volumes of the group.

        :raises StorageFull: if it cannot; with what is needed and what is free.
        :raises StorageUnavailable: if the pool has failed.
        """
        self._refuse(self.volume(seen), 0)

    def _refuse(self, volume: LogicalVolume, need: int) -> None:
        if volume.health == "F":
            raise errors.StorageUnavailable(f"{self.name} has failed; see lvs and dmesg")
        chunk = volume.chunk_size or 1
        if need + chunk > _free(volume):
            raise errors.StorageFull(self.name, max(need, chunk), _free(volume))
        wanted, left = (need // chunk + 1) * _OF_CHUNK, _metadata_left(volume)
        if wanted > left or volume.health == "M":
            raise errors.StorageFull(f"the metadata of {self.name}", wanted, max(left, 0))

    def make(
        self,
        name: str,
        source: int,
        size: int,
        tags: Sequence[str],
        progress: Progress,
        *,
        phase: str,
        seen: Sequence[LogicalVolume],
    ) -> None:
        """Make the thin volume ``name`` of ``size`` bytes, with an open file's data in it, flushed.

        ``seen`` are the volumes of the group.

        :raises StorageFull: if they do not fit, before anything is made, or while they are written.
        """
        backend, volume = self._backend, self.volume(seen)
        data = _data(source, volume.chunk_size or 1)
        self._refuse(volume, data)
        backend.lvm.lvcreate_thin(backend.group, self._volume, name, size, tags=tags)
        watched = time.monotonic()

        def look() -> None:
            nonlocal watched
            if time.monotonic() - watched > _WATCHED:
                self._refuse_out_of_space(data)
                watched = time.monotonic()

        try:
            with opened(backend.device(name), os.O_WRONLY | os.O_DIRECT) as device:
                fill(source, device, size, progress, phase=phase, zero=False, look=look)
        except OSError as exc:
            self._refuse_out_of_space(data, exc)
            raise

    def _refuse_out_of_space(self, need: int, cause: OSError | None = None) -> None:
        volume = self.volume()
        if volume.health in "DM" or _free(volume) <= 0 or (cause is not None and cause.errno in files.FULL):
            raise errors.StorageFull(self.name, need, _free(volume)) from cause


def _data(source: int, chunk: int) -> int:
    """Bytes that a file's data take, in whole chunks."""
    total, at = 0, 0
    for start, end in files.data_ranges(source, os.fstat(source).st_size):
        first, last = max(start // chunk, at), -(-end // chunk)
        total, at = total + max(last - first, 0) * chunk, max(last, at)
    return total


def _free(volume: LogicalVolume) -> int:
    return max(0, int(volume.lv_size * (100 - (volume.data_percent or 0)) / 100))


def _metadata_left(volume: LogicalVolume) -> int:
    return int((volume.lv_metadata_size or 0) * (_USABLE - (volume.metadata_percent or 0) / 100))
