"""Two hosts that spawn and destroy an instance of one name, each with a libvirtd of its own, as fast as they can.

What each does is drawn from a seed.  A spawn that succeeds makes the instance its host's: until that host destroys it,
its guest runs there, the other's libvirtd has none, and its disk stays the one that it is.
"""

import contextlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from imgbackend import Engine, errors
from imgbackend.guest.hypervisor import DomainState
from imgbackend.guest.instances import Instances
from imgbackend.guest.spec import InstanceSpec

_SECONDS: Final = 60
_REFUSED: Final = (errors.InstanceElsewhere, errors.DiskElsewhere, errors.InstanceNotFound, errors.DiskBusy)
"""What a host is told of a name that the other has, or that nobody has."""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """What one host does."""

    overrides: dict[str, Any]
    """Of its engine."""
    spec: InstanceSpec
    other: str
    """The address of the other host's libvirtd."""
    seed: int
    turns: int
    """How often it has the instance for a while."""
    take_over: bool = False
    """Whether it takes the instance wherever no guest keeps it from that; then none is stopped but to be destroyed."""

    def run(self) -> dict[str, str]:
        """Take them all: how many calls of each kind succeeded, and how many were refused."""
        chance, done = random.Random(self.seed), Counter[str]()
        with Engine.from_config([], self.overrides) as engine:
            while done["spawned"] < self.turns:
                if chance.random() < 0.2:
                    self._take(done, "destroyed another's", lambda: self._destroy(engine.instances))
                elif self._take(done, "spawned", lambda: self._spawn(engine.instances)):
                    self._own(engine, chance, done)
                time.sleep(chance.random() / 10)
        return {what: str(count) for what, count in done.items()}

    def _take(self, done: "Counter[str]", what: str, call: Callable[[], object]) -> bool:
        with contextlib.suppress(*_REFUSED):
            call()
            done[what] += 1
            return True
        done["refused"] += 1
        return False

    def _own(self, engine: Engine, chance: random.Random, done: "Counter[str]") -> None:
        """The instance is this host's: use it, see that it stays so, and destroy it."""
        instances, disk = engine.instances, engine.disk(self.spec.id)
        identity = self._identity(engine)
        for _ in range(chance.randrange(3)):
            time.sleep(chance.random() / 5)
            self._expect_alone(instances)
            assert (disk.exists(), self._identity(engine)) == (True, identity), "the disk is another"
            if not self.take_over and chance.random() < 0.5:
                instances.stop(self.spec.id, seconds=0)
                instances.start(self.spec.id)
                done["restarted"] += 1
        self._expect_alone(instances)
        instances.destroy(self.spec.id)
        done["destroyed"] += 1

    def _spawn(self, instances: Instances) -> None:
        instances.spawn(self.spec, take_over=self.take_over)

    def _destroy(self, instances: Instances) -> None:
        instances.destroy(self.spec.id, take_over=self.take_over)

    def _identity(self, engine: Engine) -> str | None:
        found = engine.host.records.of(engine.disk(self.spec.id).id)
        return None if found is None else found.identity

    def _expect_alone(self, instances: Instances) -> None:
        assert instances.show(self.spec.id).state is DomainState.RUNNING
        command = ["virsh", "-q", "-c", self.other, "list", "--all", "--name"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS).stdout
        assert self.spec.id not in listed.split(), "the other host has a domain of this name too"
