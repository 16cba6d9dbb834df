"""Drivers whose classes, plans and options are not what the engine counts on."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from oslo_config import cfg

from imgbackend import errors
from imgbackend.driver.contract import Disk
from imgbackend.testing import MemoryBackend
from imgbackend.testing.memory import MemoryDisk
from imgbackend.types import Declared, DiskInfo, ImageInfo, Plan, Progress, Traits, Way, ignore
from kit.faults import caught


@caught({"test_explain_does_nothing": "(image.fetches, trial.entries()) == (0, before)"})
class PlansByDoing(MemoryDisk):
    """Whether there is room is found out by taking it."""

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        self.path.with_name(f".{self.path.name}.reserved").touch()
        return super().plan(template, base, size)


@caught({"test_plan_tells_the_way_that_is_taken": "done.way == plan.way"})
class PlansAnotherWay(MemoryDisk):
    """The fast way is what is planned; whether it can be gone is seen on the way."""

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        way: Way = "clone" if template.role == "image" and base is None else "copy"
        return Plan(way="overlay" if base else way)


@caught({"test_explain_does_nothing": "no base yet"})
class PlansFromTheBaseOnly(MemoryDisk):
    """There was always a base where the author looked."""

    def plan(self, template: Declared, base: ImageInfo | None, size: int | None) -> Plan:
        if base is None:
            raise errors.StorageError("there is no base yet")
        return super().plan(template, base, size)


@caught({"test_final_methods_are_the_engines": "remove is overridden"})
class OverridesTheEngine(MemoryDisk):
    """``remove`` is what is called, so ``remove`` is what is written; Python does not object."""

    def remove(self, *, force: bool = False) -> None:  # type: ignore[misc]  # that it is final is the point
        self.path.unlink(missing_ok=True)


@caught({"test_options_have_defaults_or_are_required": "has no help"})
class ExplainsNoOption(MemoryBackend):
    """The author knows what it is for."""

    opts: ClassVar[Sequence[cfg.Opt]] = (*MemoryBackend.opts, cfg.StrOpt("tier"))


@caught({"test_traits_are_plausible": "traits.granularity >= 512"})
class CountsInBlocks(MemoryBackend):
    """The granularity is one, in the store's own blocks."""

    traits = Traits(granularity=1)


@caught({"test_disk_keeps_its_name": "disk.id == wanted"})
class GivesOneDiskForAll(MemoryDisk):
    """A disk keeps state, and only for ``disk`` was there any."""

    def __init__(self, backend: MemoryBackend, disk_id: object) -> None:
        Disk.__init__(self, backend, disk_id)  # type: ignore[arg-type]  # it is one: that is not looked at here
        self.id = type(self.id)(instance=self.id.instance, name="disk")


@caught({"test_looking_changes_nothing": "trial.entries() == before"})
class RepairsWhereItLooks(MemoryDisk):
    """What seems to be left over is cleared by whoever sees it first."""

    def find(self) -> DiskInfo | None:
        found = super().find()
        self.path.with_name(f".{self.path.name}.seen").touch()
        return found


@caught({"test_export_alone_can_be_repeated": "the export"})
class ExportsToAnotherFile(MemoryDisk):
    """The suffix tells the format, and is put on."""

    def extract_image(self, target: Path, format: str, *, compress: bool, progress: Progress) -> None:
        other = target.with_name(f"{target.name}.{format}")
        other.touch()
        super().extract_image(other, format, compress=compress, progress=ignore)
