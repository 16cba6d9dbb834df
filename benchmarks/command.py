"""The command as whole processes: what a person waits for."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import Call, Taken, take_turns
from benchmarks.results import Case, at_most
from benchmarks.workshop import Workshop, environment


def whole_processes(shop: Workshop) -> Case:
    """``imgbackend --help``, and a disk of a cached image."""
    ours = str(Path(sys.executable).with_name("imgbackend"))
    source, size = shop.source(), shop.size.image * 4
    with shop.engine() as engine:
        image = engine.image(str(source))
        shop.disk(engine, image, image.filename, size)()
        instances = engine.host.instances
        create = ["--image", str(source), "--size", str(size), "-f", "json"]
        competitors = [
            ("imgbackend --help", _process(shop, instances, [ours, "--help"])),
            ("imgbackend disk create, flushed", _process(shop, instances, [ours, "disk", "create"], create)),
            ("python -c pass", _process(shop, instances, [sys.executable, "-c", "pass"])),
        ]
        series = take_turns(competitors, shop.size.repeats, warm_ups=2)
    return Case(
        title="the command, as a whole process",
        series=series,
        targets=[
            at_most("--help: at most 0.20 s", series[0].median, 0.20, "s"),
            at_most("disk create of a cached image: at most 0.40 s", series[1].median, 0.40, "s"),
        ],
        notes=["The interpreter alone is shown for comparison; the processes counted are those started."],
    )


def _process(shop: Workshop, instances: Path, words: Sequence[str], create: Sequence[str] = ()) -> Call:
    """One process; ``create``: what follows the name of a new instance."""
    env = environment(OS_DEFAULT__INSTANCES_PATH=str(instances))

    def call() -> Taken:
        line = [*words, shop.instance(), *create] if create else words
        with shop.timer():
            done = subprocess.run(line, env=env, check=True, capture_output=True, text=True, timeout=120)
        assert not create or '"overlay"' in done.stdout
        shop.settle(instances)
        return shop.timer.taken

    return call
