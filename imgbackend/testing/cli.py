"""The command ``imgbackend-conformance``: the kit, against a backend of this host's configuration.

Exit status: 0 all is well; 1 something failed, nothing ran, or the run was interrupted;
2 wrong usage, a configuration that cannot be used, or pytest is missing.
"""

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgbackend import errors
from imgbackend.testing.sampling import LEAST_SAMPLE


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; ``argv`` None: the arguments of this process."""
    asked = _parser().parse_args(argv)
    try:
        import pytest
    except ModuleNotFoundError:
        return _refuse("pytest is missing; install it with: pip install 'imgbackend[testing]'")
    del pytest
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _benchmark(asked) if asked.benchmark else _try(asked)
    except errors.ConfigError as exc:
        return _refuse(str(exc))
    except errors.Error as exc:
        print(f"imgbackend-conformance: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("imgbackend-conformance: interrupted; its disks were cleared", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imgbackend-conformance",
        description="Try a backend of this host's configuration: whether it keeps the contract. It touches only "
        "disks of its own, whose names begin with conformance-, and clears them.",
    )
    parser.add_argument("backend", metavar="NAME", help="a section of the configuration, or a driver")
    parser.add_argument(
        "--config-file", action="append", metavar="F", help="instead of this host's own; may be given repeatedly"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the report to FILE, too")
    parser.add_argument("--destructive", action="store_true", help="run also what fills or damages the store")
    parser.add_argument("--time-budget", metavar="SECONDS", type=float, help="begin no test later than that")
    parser.add_argument(
        "--sample", metavar="POINTS", type=_points, help="kill, and fail, at so many points only; for slow stores"
    )
    parser.add_argument("--benchmark", action="store_true", help="measure, and print JSON, instead of testing")
    return parser


def _points(word: str) -> int:
    if not word.isdecimal() or int(word) < LEAST_SAMPLE:
        raise argparse.ArgumentTypeError(f"{word}: give a number of points, {LEAST_SAMPLE} or more")
    return int(word)


def _try(asked: argparse.Namespace) -> int:
    from imgbackend.engine import Engine
    from imgbackend.testing.installed import Run, backend_in, place_beside

    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(Engine.from_config(asked.config_file))
        folder = stack.enter_context(place_beside(engine))
        backend = stack.enter_context(backend_in(engine, asked.backend, folder))
        run = Run(backend, destructive=asked.destructive, seconds=asked.time_budget, sample=asked.sample)
        run.go(folder)
    _write(asked.json, run.report.as_dict())
    print("\n".join(run.report.lines()))
    return 0 if run.report.good else 1


def _benchmark(asked: argparse.Namespace) -> int:
    from imgbackend.engine import Engine
    from imgbackend.testing.benchmark import measured
    from imgbackend.testing.installed import backend_in, place_beside
    from imgbackend.testing.trial import Trial

    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(Engine.from_config(asked.config_file))
        folder = stack.enter_context(place_beside(engine))
        backend = stack.enter_context(backend_in(engine, asked.backend, folder))
        scratch = folder / "scratch"
        scratch.mkdir()
        trial = Trial(backend=backend, scratch=scratch, watched=[], smallest=backend.traits.granularity)
        stack.callback(trial.clear)
        found = measured(trial)
    _write(asked.json, found)
    print(json.dumps(found, indent=2))
    return 0


def _write(path: Path | None, found: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        path.write_text(json.dumps(found, indent=2) + "\n")
    except OSError as exc:
        raise errors.ConfigError(f"--json {path}: {exc.strerror}; name a file that can be written") from exc


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _refuse(why: str) -> int:
    print(f"imgbackend-conformance: {why}", file=sys.stderr)
    return 2
