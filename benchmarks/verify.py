"""Verification against ``sha256sum`` of the same files, taking turns.

    PYTHONPATH=tests python -m benchmarks.verify [--size 512M] [--bases 3] [--rounds 5] [--folder FOLDER]

Each base is data from end to end; ``--holes`` leaves three quarters out.  The files are in the page cache for both.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import Series, Taken, ratio, take_turns
from benchmarks.results import Case, Target, at_least
from benchmarks.workshop import Workshop, folder_at
from imgbackend import Engine
from imgbackend.sizes import parse_size
from imgbackend.state import digests, manifests
from imgbackend.state.manifests import FileIdentity, Manifest
from imgbackend.types import Mi, base_name


def populate(bases: Path, count: int, size: int, *, holes: bool) -> list[Path]:
    """Bases with their manifests, of random bytes."""
    bases.mkdir(parents=True)
    return [_base(bases / base_name(f"image {number}"), size, holes=holes) for number in range(count)]


def _base(path: Path, size: int, *, holes: bool) -> Path:
    with path.open("wb") as file:
        for number in range(size // Mi):
            if holes and number % 4:
                file.seek(Mi, os.SEEK_CUR)
            else:
                file.write(os.urandom(Mi))
        file.truncate(size)
    with path.open("rb") as file:
        made = Manifest(
            image_id=path.name,
            source=None,
            role="image",
            format="raw",
            virtual_size=size,
            identity=FileIdentity.of(file.fileno()),
            inspected_by="nobody",
            inspected_at=0.0,
            digest=digests.content_digest(file.fileno()),
        )
    manifests.write(path, made)
    return path


def turns(instances: Path, paths: list[Path], rounds: int) -> list[Series]:
    """Of ours and of ``sha256sum``, which begin every other round; what is not timed fills the page cache."""

    def sha256sum() -> Taken:
        started = time.perf_counter()
        subprocess.run(["sha256sum", *paths], check=True, stdout=subprocess.DEVNULL, timeout=600)
        return Taken(seconds=time.perf_counter() - started)

    with Engine.from_config([], {"instances_path": str(instances)}) as engine:

        def verify() -> Taken:
            started = time.perf_counter()
            assert all(each.found == "sound" for each in engine.cache.verify())
            return Taken(seconds=time.perf_counter() - started)

        return take_turns([("imgbackend cache verify", verify), ("sha256sum", sha256sum)], rounds)


def measured(instances: Path, paths: list[Path], rounds: int) -> dict[str, Any]:
    """Seconds of each, and the median of the ratios within a round."""
    ours, theirs = turns(instances, paths, rounds)
    size = sum(path.stat().st_size for path in paths)
    return {
        "bytes": size,
        "verify_seconds": ours.median,
        "sha256sum_seconds": theirs.median,
        "times_as_fast": ratio(theirs, ours),
        "verify_mib_per_second": size / Mi / ours.median,
    }


def against_sha256sum(shop: Workshop, size: int, count: int = 3) -> Case:
    """Bases of data from end to end, and bases of which three quarters are holes."""
    series, targets = list[Series](), list[Target]()
    for holes in (False, True):
        what = "a quarter data, the rest holes" if holes else "data from end to end"
        instances = shop.folder / f"verified-{int(holes)}"
        paths = populate(instances / "_base", count, size, holes=holes)
        ours, theirs = turns(instances, paths, shop.size.few)
        wanted = f"at least as fast as sha256sum: {what}"
        targets.append(at_least(wanted, ratio(theirs, ours), 1, "x"))
        series += [Series(f"{each.label}, {what}", each.taken) for each in (ours, theirs)]
        shutil.rmtree(instances)
    return Case(
        title=f"verification of {count} bases of {size // Mi} MiB",
        series=series,
        targets=targets,
        notes=[f"Both read from the page cache; {count * size / Mi / series[0].median:.0f} MiB of data a second."],
    )


def main(words: list[str]) -> int:
    """Measure; 1 where ``sha256sum`` is faster."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=512 * Mi, help="of each base")
    parser.add_argument("--bases", type=int, default=3, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--holes", action="store_true", help="three quarters of each are holes")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="made up below it")
    options = parser.parse_args(words)
    with folder_at(options.folder) as folder:
        paths = populate(folder / "instances" / "_base", options.bases, options.size, holes=options.holes)
        told = measured(folder / "instances", paths, options.rounds)
    print(json.dumps(told))
    return int(told["times_as_fast"] < 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
