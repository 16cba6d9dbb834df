"""Measures imgbackend against the real Nova 34 and against cp, taking turns in one run.

``./dev bench`` runs it; see doc/source/benchmarks.rst.  Equal on both sides: the same source
file, the same file system, locks against other processes, a check of the base before its
use, explicit formats, limits on whatever reads foreign bytes.  Not equal: Nova does not flush
its disks, so ours are measured both ways.
"""

import argparse
import contextlib
import dataclasses
import datetime
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

from benchmarks import (
    command,
    crowds,
    disks,
    downloads,
    machine,
    pools,
    populous,
    remote,
    report,
    spawn,
    verify,
    volumes,
)
from benchmarks.measuring import Processes
from benchmarks.peer import Peer, prepared, running
from benchmarks.results import Case, Skipped
from benchmarks.workshop import FULL, QUICK, Workshop, folder_at
from imgbackend.types import Gi, Mi
from labs import mounts

_ROOT: Final = Path(__file__).parents[1]
CASES: Final = (
    *("qcow2", "raw", "xfs", "btrfs", "first", "glance", "threads", "processes", "command", "spawn", "boot"),
    *("lvm", "lvm-thick", "rbd", "rbd-clone", "cache-pass", "cache-pass-nfs", "cache-verify"),
)
_SAME: Final = ("processor", "memory")
"""Figures of a machine that differs in one of these are not kept beside others."""
_SIZES: Final = [256 * Mi, 1 * Gi, 4 * Gi]
_HOSTS: Final = [1000, 10_000, 100_000]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 1 if a target was missed."""
    words = sys.argv[1:] if argv is None else list(argv)
    options = _parser().parse_args(words)
    if options.keep and options.quick:
        raise SystemExit("./dev bench: figures of --quick are not kept")
    names = options.cases or (
        CASES if not options.quick else ("qcow2", "raw", "first", "threads", "processes", "command")
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(folder_at(options.folder))
        facts = machine.facts(folder)
        shop = Workshop(folder, QUICK if options.quick else FULL, Processes())
        peer = None if options.no_peer or options.quick else _peer(stack, folder)
        facts |= {
            "Nova": peer.version if peer else "not measured",
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "command": f"``{shlex.join(['./dev', 'bench', *words])}``",
        }
        cases = []
        for name in names:
            measured = f"{facts['date']}, load {os.getloadavg()[0]:.2f}"
            case = _measured(name, shop, peer, quick=options.quick)
            cases.append(dataclasses.replace(case, name=name, measured=measured))
            print("\n".join(report.lines(cases[-1])), flush=True)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        report.write(facts, cases, options.output, options.output)
    elif options.keep or (not options.quick and names == CASES):
        keep(facts, cases, _ROOT / "benchmarks", _ROOT / "doc" / "source")
    return int(any(not target.met for case in cases for target in case.targets))


def keep(facts: dict[str, str], cases: Sequence[Case], json_folder: Path, rst_folder: Path) -> None:
    """Put figures in the place of older ones of the same cases; beside the others, if they are of this machine."""
    before, older = report.kept(json_folder)
    same = all(before[name] == facts[name] for name in _SAME)
    found = {case.name: case for case in [*(older if same else ()), *cases]}
    ordered = [found[name] for name in CASES if name in found]
    report.write({**before, **facts} if same else facts, ordered, json_folder, rst_folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, help="only these; the results are printed")
    parser.add_argument(
        "--keep", action="store_true", help="put these results into the project too, beside those of other cases"
    )
    parser.add_argument("--quick", action="store_true", help="small and few, to see that it works; without Nova")
    parser.add_argument("--no-peer", action="store_true", help="without Nova")
    parser.add_argument(
        "--folder", type=Path, default=_ROOT / ".dev", help="on the file system to measure (default: .dev)"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="keep the results there, not in the project")
    return parser


def _peer(stack: contextlib.ExitStack, folder: Path) -> Peer | None:
    try:
        return stack.enter_context(running(prepared(), folder))
    except Skipped as exc:
        print(f"without the peer: {exc}", file=sys.stderr)
        return None


def _measured(name: str, shop: Workshop, peer: Peer | None, *, quick: bool) -> Case:
    measures: dict[str, Callable[[], Case]] = {
        "qcow2": lambda: disks.further_qcow2(shop, peer),
        "raw": lambda: disks.further_raw(shop, peer),
        "xfs": lambda: _mounted("xfs", shop, quick=quick),
        "btrfs": lambda: _mounted("btrfs", shop, quick=quick),
        "first": lambda: disks.first_qcow2(shop, peer),
        "glance": lambda: downloads.from_glance(shop, 16 * Mi if quick else 512 * Mi),
        "threads": lambda: crowds.threads(shop),
        "processes": lambda: crowds.processes(shop),
        "command": lambda: command.whole_processes(shop),
        "spawn": lambda: spawn.in_process(shop),
        "boot": lambda: spawn.whole_processes(shop),
        "lvm": lambda: volumes.further(shop, peer, _SIZES if not quick else [64 * Mi], thin=True),
        "lvm-thick": lambda: volumes.further(shop, peer, _SIZES if not quick else [64 * Mi], thin=False),
        "rbd": lambda: pools.further(shop, peer, _SIZES if not quick else [64 * Mi]),
        "rbd-clone": lambda: pools.clones(shop, peer),
        "cache-pass": lambda: populous.of_sizes(shop, _HOSTS if not quick else [5, 10, 20], 1000 if not quick else 10),
        "cache-pass-nfs": lambda: remote.on_nfs(shop, [100, 1000] if not quick else [200]),
        "cache-verify": lambda: verify.against_sha256sum(shop, 512 * Mi if not quick else 8 * Mi),
    }
    try:
        return measures[name]()
    except Skipped as exc:
        return Case(title=name, skipped=str(exc))


def _mounted(kind: Literal["xfs", "btrfs"], shop: Workshop, *, quick: bool) -> Case:
    try:
        with mounts.loop(kind, shop.folder, 8 * Gi) as place:
            return disks.whatever_the_size(shop, place, kind, _SIZES[:1] if quick else _SIZES)
    except mounts.MountError as exc:
        raise Skipped(str(exc)) from exc


if __name__ == "__main__":
    sys.exit(main())
