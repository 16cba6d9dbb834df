"""Whole instances: what a spawn adds to what libvirt itself takes, and how long a guest takes to say that it booted."""

import contextlib
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Call, Taken, difference, take_turns
from benchmarks.results import Case, Skipped, at_most
from benchmarks.workshop import Workshop, environment
from imgbackend import Engine
from imgbackend.guest.instances import Instances
from imgbackend.guest.spec import InstanceSpec
from imgbackend.types import Mi
from labs import bootsector
from labs.libvirt import Libvirt, LibvirtError

_DISK: Final = 64 * Mi
_MEMORY: Final = 64 * Mi
_MARKER: Final = "BOOT OK"
_PATIENCE: Final = 60.0
_LOOK: Final = 0.001


@dataclass(kw_only=True)
class Lab:
    """A libvirtd, an image that boots, and an engine with its base made."""

    libvirtd: Libvirt
    image: Path
    engine: Engine
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def instances(self) -> Instances:
        """Of the engine."""
        return self.engine.instances

    def spec(self) -> InstanceSpec:
        """Of an instance that was not there before."""
        return InstanceSpec(id=f"vm-{next(self.numbers)}", image=str(self.image), root_size=_DISK, memory=_MEMORY)

    def log(self, name: str) -> Path:
        """What its guest says."""
        return self.engine.host.instances / name / "console.log"

    def until_booted(self, name: str) -> None:
        """Wait for the guest's word."""
        log, end = self.log(name), time.monotonic() + _PATIENCE
        while not (log.exists() and _MARKER in log.read_text(errors="replace")):
            assert time.monotonic() < end, f"{name} did not boot"
            time.sleep(_LOOK)


def in_process(shop: Workshop) -> Case:
    """A spawn in a running process, against define and create of the same XML on a disk that is ready."""
    with _lab(shop) as lab, contextlib.closing(_connection(lab)) as connection:
        competitors = [
            ("imgbackend: spawn of a cached image, qcow2, flushed", _spawn(shop, lab)),
            ("libvirt alone: define and create, the disk being ready", _bare(shop, lab, connection)),
        ]
        series = take_turns(competitors, shop.size.repeats, warm_ups=2)
    more = difference(series[0], series[1]) * 1e3
    return Case(
        title="an instance, until libvirt says that it runs",
        series=series,
        targets=[at_most("at most 60 ms more than libvirt alone", more, 60, "ms")],
        notes=["QEMU emulates the processor. The instance is destroyed outside the measured time."],
    )


def whole_processes(shop: Workshop) -> Case:
    """The command, until its guest says that it booted, against ``virsh create``."""
    with _lab(shop) as lab:
        competitors = [
            ("imgbackend instance spawn, to the guest's word", _command(shop, lab)),
            ("virsh create, the disk being ready, to the guest's word", _virsh(shop, lab)),
        ]
        series = take_turns(competitors, shop.size.few * 2, warm_ups=1)
    return Case(
        title="from the command to the guest's boot marker",
        series=series,
        targets=[at_most("at most 1.0 s", series[0].median, 1.0, "s")],
        notes=[f"{difference(series[0], series[1]) * 1e3:.0f} ms more than libvirt alone."],
    )


def _spawn(shop: Workshop, lab: Lab) -> Call:
    def call() -> Taken:
        spec = lab.spec()
        with shop.timer():
            done = lab.instances.spawn(spec)
        assert done.disks["disk"].way == "overlay"
        lab.instances.destroy(spec.id)
        return shop.timer.taken

    return call


def _bare(shop: Workshop, lab: Lab, connection: Any) -> Call:
    def call() -> Taken:
        name, xml = _ready(lab)
        with shop.timer():
            connection.defineXML(xml).create()
        lab.instances.destroy(name)
        return shop.timer.taken

    return call


def _connection(lab: Lab) -> Any:
    import libvirt  # type: ignore[import-untyped]  # libvirt-python ships no types

    return libvirt.open(lab.libvirtd.uri)


def _ready(lab: Lab) -> tuple[str, str]:
    """The XML of an instance whose disk is there, and which libvirt does not know."""
    spec = lab.spec()
    xml = lab.instances.to_xml(spec)
    image = lab.engine.image(str(lab.image))
    lab.engine.disk(spec.id).cache(image, image.filename, _DISK)
    return spec.id, xml


def _command(shop: Workshop, lab: Lab) -> Call:
    ours = str(Path(sys.executable).with_name("imgbackend"))
    env = environment(
        OS_DEFAULT__INSTANCES_PATH=str(lab.engine.host.instances),
        OS_LIBVIRT__CONNECTION_URI=lab.libvirtd.uri,
        OS_LIBVIRT__VIRT_TYPE="qemu",
    )

    def call() -> Taken:
        spec = lab.spec()
        words = ["--image", str(lab.image), "--root-size", str(_DISK), "--memory", str(_MEMORY), "-f", "json"]
        with shop.timer():
            subprocess.run(
                [ours, "instance", "spawn", spec.id, *words],
                env=env,
                check=True,
                capture_output=True,
                timeout=_PATIENCE,
            )
            lab.until_booted(spec.id)
        lab.instances.destroy(spec.id)
        return shop.timer.taken

    return call


def _virsh(shop: Workshop, lab: Lab) -> Call:
    def call() -> Taken:
        name, xml = _ready(lab)
        file = lab.log(name).with_name("bare.xml")
        file.write_text(xml)
        with shop.timer():
            lab.libvirtd.virsh("create", str(file))
            lab.until_booted(name)
        lab.instances.destroy(name)
        return shop.timer.taken

    return call


@contextlib.contextmanager
def _lab(shop: Workshop) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp")))
        place.chmod(0o755)
        libvirtd = Libvirt(place)
        stack.callback(libvirtd.stop)
        try:
            libvirtd.start()
        except LibvirtError as exc:
            raise Skipped(f"no libvirtd could be started: {exc}") from exc
        image = shop.folder / "boots.qcow2"
        bootsector.write_disk(image, _DISK // 4, format="qcow2", marker=_MARKER)
        overrides = {"libvirt.connection_uri": libvirtd.uri, "libvirt.virt_type": "qemu"}
        lab = Lab(libvirtd=libvirtd, image=image, engine=stack.enter_context(shop.engine(overrides)))
        first = lab.spec()
        lab.instances.spawn(first)
        lab.instances.destroy(first.id)
        yield lab
