"""What time it is for the things that a pass finds: a file's age is told by the file system that it is on.

The clock of this host may be wrong, and so may another's.  It counts only where nothing better is known, and then the
earlier of two times does: what is taken to be younger than it is stays a little longer.
"""

import os
import time
from pathlib import Path

from imgbackend.cache.policy import CachedBase
from imgbackend.system.clock import FileSystemClock
from imgbackend.system.host import Host


class Clocks:
    """The clocks of one engine's folders."""

    def __init__(self, host: Host) -> None:
        """Nothing is touched."""
        self.instances = FileSystemClock(host.instances, host.instances / "locks")
        """Of ``instances_path``; all hosts that share it go by it."""
        self.bases = FileSystemClock(host.bases)
        """Of the base folder, which may be another file system."""
        self._folders = {host.instances: self.instances, host.bases: self.bases}

    def of_base(self, base: CachedBase) -> float:
        """Now, as the last use of a base is to be compared with it."""
        return self.bases() if base.store is None else self.of_stores()

    def of_stores(self) -> float:
        """Now, at the earliest.  What is in a store has its time from the clock of whichever host put it there."""
        return min(time.time(), self.instances())

    def of_stores_at_the_latest(self) -> float:
        """Now, at the latest: what is later is surely in the future."""
        return max(time.time(), self.instances())

    def of_file(self, found: os.stat_result) -> float:
        """Now, by the file system that a file is on."""
        for folder, clock in self._folders.items():
            if _device(folder) == found.st_dev:
                return clock()
        return self.of_stores()


def _device(folder: Path) -> int | None:
    try:
        return os.stat(folder).st_dev
    except OSError:
        return None
