"""What a pass over instances costs on NFS: calls of its protocol for each instance, and seconds; in its lab.

    NFS_LAB_DELAY=1ms tests/labs/nfs-lab.sh env PYTHONPATH=tests .venv/bin/python -m benchmarks.remote \\
        [--instances 100 1000] [--disks 1] [--warm]

The instances are made up on the server, and mounted anew for each number, so that nothing of them is in the client's
caches.  The delay is of each packet, so that a call takes twice as long.  The lab is a kernel that is a process, with
one slow CPU for client and server: with many instances the seconds are those of its CPU, and the calls are what counts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import populous
from benchmarks.measuring import Series, Taken
from benchmarks.results import Case, Skipped, at_most
from benchmarks.workshop import Workshop
from labs.nfs import calls_of, filled_at, mounted_at

_ROOT: Final = Path(__file__).parents[1]
_LAB: Final = _ROOT / "tests" / "labs" / "nfs-lab.sh"
_NO_LAB: Final = 125
_SECONDS: Final = 1800
_DELAY: Final = "1ms"
_AT: Final = Path("/mnt/populous")
"""Headers name the bases by their paths: where the server fills the folder, there it is mounted."""
_MOST_CALLS: Final = 10
"""Three for the folder of an instance, three for its records, three for the header of its disk; and some of a pass."""


def on_nfs(shop: Workshop, counts: Sequence[int]) -> Case:
    """Passes over instances with a disk each, with empty caches and once more."""
    program = [sys.executable, "-m", "benchmarks.remote", "--warm", "--instances", *map(str, counts)]
    env = {**os.environ, "NFS_LAB_DELAY": _DELAY, "NFS_LAB_TIMEOUT": str(_SECONDS)}
    done = subprocess.run(
        [str(_LAB), "env", f"--chdir={_ROOT}", *program],
        cwd=shop.folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=_SECONDS + 60,
        check=False,
    )
    if done.returncode == _NO_LAB:
        raise Skipped(f"no NFS could be started: {done.stderr.strip().rpartition(chr(10))[2]}")
    if done.returncode:
        raise RuntimeError(f"inside the lab of NFS it ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    return Case(
        title=f"a pass over instances on NFS, each packet delayed by {_DELAY}",
        series=[
            Series(f"a pass over {each['instances']} instances of a disk, {each['caches']} caches", [_taken(each)])
            for each in told
        ],
        targets=[
            at_most(
                f"{each['instances']} instances, cold caches: at most {_MOST_CALLS} calls of NFS for each",
                each["calls"],
                _MOST_CALLS,
            )
            for each in told
            if each["caches"] == "cold"
        ],
        notes=[
            "Calls of NFS for each instance: "
            + ", ".join(f"{each['calls']} ({each['instances']}, {each['caches']})" for each in told)
            + ".  The lab has one slow CPU, which client and server share: most of the seconds are its."
        ],
    )


def _taken(told: dict[str, Any]) -> Taken:
    return Taken(seconds=told["seconds"], cpu=told["cpu_seconds"], processes=told["processes"])


def of_passes(count: int, disks: int, bases: int, *, warm: bool) -> Iterator[dict[str, Any]]:
    """What passes over so many instances cost: one with cold caches, and where ``warm`` another at once."""
    with tempfile.TemporaryDirectory(dir=os.environ["NFS_SERVER"]) as server:
        _AT.mkdir(exist_ok=True)
        with filled_at(_AT, Path(server)):
            populous.populate(_AT / "instances", count, bases, disks=populous.DISKS[:disks])
        with mounted_at(_AT, Path(server).name):
            for state in ("cold", "warm") if warm else ("cold",):
                before = calls_of(_AT)
                told = populous.measured(_AT / "instances", dry_run=True)
                made = calls_of(_AT) - before
                each = {name: round(number / count, 2) for name, number in made.most_common() if number * 50 > count}
                total = round(made.total() / count, 2)
                yield {"instances": count, "disks": disks, "caches": state, "calls": total, **each, **told}


def main(words: list[str]) -> int:
    """Print what passes over several numbers of instances cost, a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, nargs="+", default=[100, 1000], metavar="N")
    parser.add_argument("--disks", type=int, default=1, choices=range(1, 4), help="of each instance")
    parser.add_argument("--bases", type=int, default=10, metavar="N")
    parser.add_argument("--warm", action="store_true", help="make a second pass, with what the first left in caches")
    options = parser.parse_args(words)
    if os.environ.get("NFS_LAB") != "1":
        parser.error("run it in the lab: tests/labs/nfs-lab.sh")
    for count in options.instances:
        for told in of_passes(count, options.disks, options.bases, warm=options.warm):
            print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
