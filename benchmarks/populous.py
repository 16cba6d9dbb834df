"""A host with many instances, made up of real qcow2 headers, records and manifests; and what a pass over it costs.

    PYTHONPATH=tests python -m benchmarks.populous [--instances 1000 10000] [--folder FOLDER]

Each instance has three overlays with their records, ours and Nova's.  The headers are
qemu-img's, with another base's name written into each; what is behind the header is left out,
for a pass does not read it.  A tenth of the bases is used by nobody, and old enough to go.
The pass is run in a process of its own, whose time and memory are what is told.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Processes, Series, Taken, cpu_seconds, take_turns
from benchmarks.results import Case, at_most
from benchmarks.workshop import Workshop, folder_at
from imgbackend import Engine
from imgbackend.state import manifests
from imgbackend.state.manifests import FileIdentity, Manifest
from imgbackend.types import Mi, base_name
from labs.images import qcow2, qemu_img, sparse_raw

DISKS: Final = ("disk", "disk.eph0", "disk.swap")
_LENGTH: Final = 196_616
_OLD: Final = 9 * 86400


def populate(
    instances: Path, count: int, bases: int, *, unused: int | None = None, disks: Sequence[str] = DISKS
) -> None:
    """Fill an ``instances_path`` with ``count`` instances and ``bases`` bases, ``unused`` (a tenth) of them idle."""
    idle = bases // 10 if unused is None else unused
    names = [base_name(f"image {number}") for number in range(bases)]
    instances.mkdir(parents=True)
    (instances / "_base").mkdir()
    for name in names:
        _base(instances / "_base" / name)
    head = _header(instances / "_base" / names[0])
    used = names[: bases - idle]
    for number in range(count):
        folder = instances / f"instance-{number:06}"
        folder.mkdir()
        mine = {disk: used[(number * len(disks) + at) % len(used)] for at, disk in enumerate(disks)}
        _records(folder, mine)
        for disk, base in mine.items():
            with (folder / disk).open("wb") as file:
                file.write(head.replace(names[0].encode(), base.encode()))
                file.truncate(_LENGTH)


def _base(path: Path) -> None:
    sparse_raw(path, Mi)
    with path.open("rb") as file:
        identity = FileIdentity.of(file.fileno())
    made = Manifest(
        image_id=path.name,
        source=None,
        role="image",
        format="raw",
        virtual_size=Mi,
        identity=identity,
        inspected_by="nobody",
        inspected_at=0.0,
        digest="0" * 64,
    )
    manifests.write(path, made)
    then = time.time() - _OLD
    for each in (path, manifests.path_of(path)):
        os.utime(each, (then, then))


def _header(base: Path) -> bytes:
    """The first page of an overlay on ``base``."""
    with tempfile.TemporaryDirectory() as folder:
        path = qcow2(Path(folder) / "overlay", Mi)
        qemu_img("rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(base), str(path))
        return path.read_bytes()[:4096]


def _records(folder: Path, disks: dict[str, str]) -> None:
    records = {
        name: {
            "backend": "qcow2",
            "driver": "qcow2",
            "format": "qcow2",
            "way": "overlay",
            "time": 1.8e9,
            "image_id": base,
            "base": base,
            "digest": "0" * 64,
        }
        for name, base in disks.items()
    }
    (folder / "disks.json").write_text(json.dumps({"version": 1, "disks": records}))
    (folder / "disk.info").write_text(json.dumps({str(folder / name): "qcow2" for name in disks}))


def run_pass(instances: Path, *, dry_run: bool) -> dict[str, Any]:
    """One pass in this process: seconds, those of CPU, the most memory that the process had, and what was found."""
    processes = Processes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Engine.from_config([], {"instances_path": str(instances)}) as engine:
        started, cpu = time.perf_counter(), cpu_seconds()
        done = engine.cache.prune(dry_run=dry_run)
        seconds, cpu = time.perf_counter() - started, cpu_seconds() - cpu
    assert done.faults == [], done.faults
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mib": before / 1024,
        "bases": len(done.outcomes),
        "going": sum(each.action != "kept" for each in done.outcomes),
        "processes": processes.started,
    }


def measured(instances: Path, *, dry_run: bool) -> dict[str, Any]:
    """:func:`run_pass` in a fresh process."""
    line = [sys.executable, "-m", "benchmarks.populous", "--pass", str(instances), *(["--dry-run"] if dry_run else [])]
    done = subprocess.run(line, check=True, capture_output=True, text=True, timeout=600)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of_sizes(shop: Workshop, counts: Sequence[int], bases: int) -> Case:
    """Passes over hosts of several sizes, smallest first; the second of three is what is wanted."""
    series, peaks = list[Series](), list[float]()
    for count in counts:
        with folder_at(shop.folder / "populous") as folder:
            populate(folder / "instances", count, bases)
            told = [measured(folder / "instances", dry_run=True) for _ in range(min(shop.size.few, 3))]
            if not peaks:
                peer = _asked_by_qemu_img(folder / "instances" / "instance-000000" / DISKS[0], shop.size.few)
        taken = [Taken(seconds=each["seconds"], cpu=each["cpu_seconds"], processes=each["processes"]) for each in told]
        series.append(Series(f"a pass over {count} instances of {len(DISKS)} disks, {bases} bases", taken))
        peaks.append(max(each["peak_mib"] for each in told))
    middle, last = len(counts) // 2, len(counts) - 1
    grown = counts[last] / counts[middle]
    return Case(
        title="a pass over the cache of a host with many instances",
        series=[*series, peer],
        targets=[
            at_most(f"{counts[middle]} instances: at most 3 s", series[middle].median, 3, "s"),
            at_most(f"{counts[middle]} instances: at most 150 MiB", peaks[middle], 150, "MiB"),
            at_most(
                f"{grown:.0f} times as many instances take at most {1.25 * grown:.3g} times as long",
                series[last].median / series[middle].median,
                1.25 * grown,
                "x",
            ),
            at_most("no process is started", max(each.processes or 0 for each in series), 0),
        ],
        notes=[
            f"The most memory that the process had, of {' and '.join(map(str, counts))} instances: "
            f"{', '.join(f'{peak:.0f}' for peak in peaks)} MiB. "
            f"Nova asks qemu-img once for each instance: {peer.median * counts[middle]:.0f} s for {counts[middle]}."
        ],
    )


def _asked_by_qemu_img(disk: Path, repeats: int) -> Series:
    def ask() -> Taken:
        started = time.perf_counter()
        subprocess.run(["qemu-img", "info", "-U", "--output=json", disk], check=True, capture_output=True, timeout=60)
        return Taken(seconds=time.perf_counter() - started, processes=1)

    return take_turns([("qemu-img info of one disk", ask)], repeats)[0]


def main(words: list[str]) -> int:
    """Make up hosts of several sizes, and print what passes over them cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, nargs="+", default=[1000, 10_000], metavar="N")
    parser.add_argument("--bases", type=int, default=1000, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="made up below it")
    parser.add_argument("--pass", dest="only", type=Path, metavar="INSTANCES", help=argparse.SUPPRESS)
    parser.add_argument("--dry-run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.only is not None:
        print(json.dumps(run_pass(options.only, dry_run=options.dry_run)))
        return 0
    for count in options.instances:
        with folder_at(options.folder) as folder:
            populate(folder / "instances", count, options.bases)
            for dry_run in (True, True, True, False):
                told = measured(folder / "instances", dry_run=dry_run)
                print(json.dumps({"instances": count, "dry_run": dry_run, **told}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
