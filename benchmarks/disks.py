"""Disks of a local image, in a running process, against Nova's and against cp."""

from pathlib import Path

from benchmarks.measuring import Call, Taken, difference, ratio, take_turns
from benchmarks.peer import Peer
from benchmarks.results import Case, Target, at_least, at_most
from benchmarks.workshop import Workshop
from imgbackend import Engine
from imgbackend.sources.contract import Image
from imgbackend.types import Mi, base_name

_PEER = "Nova 34 (flushes nothing)"


def _processes(count: int | None) -> Target:
    return at_most("no process is started", count if count is not None else -1, 0)


def further_qcow2(shop: Workshop, peer: Peer | None) -> Case:
    """A further overlay, larger than its base."""
    source, size = shop.source(), shop.size.image * 4
    with shop.engine() as flushed, shop.engine({"durable_disks": False}) as plain:
        image = flushed.image(str(source))
        competitors = [
            ("imgbackend, flushed", shop.disk(flushed, image, image.filename, size)),
            ("imgbackend, durable_disks = false", shop.disk(plain, image, image.filename, size)),
        ]
        if peer is not None:
            competitors.append((_PEER, peer.disk("qcow2", source, base_name("image"), size)))
        series = take_turns(competitors, shop.size.repeats, warm_ups=3)
    targets = [at_most("flushed: at most 3 ms", series[0].median * 1e3, 3, "ms"), _processes(series[0].processes)]
    notes = []
    if peer is not None:
        targets.append(at_least("flushed: 80 times faster than Nova", ratio(series[2], series[0]), 80, "x"))
        notes.append(f"Nova's {series[2].processes} processes run {peer.programs} programs.")
    return Case(title="further qcow2 disk, larger than its base", series=series, targets=targets, notes=notes)


def further_raw(shop: Workshop, peer: Peer | None) -> Case:
    """A further raw disk, copied."""
    source, size = shop.source(), shop.size.image * 4
    with (
        shop.engine({"images_type": "raw"}) as flushed,
        shop.engine({"images_type": "raw", "durable_disks": False}) as plain,
    ):
        image = flushed.image(str(source))
        competitors = [
            ("imgbackend, flushed", shop.disk(flushed, image, image.filename, size)),
            ("cp --sparse=auto, flushed", shop.copy(source, shop.folder, flushed=True)),
            ("imgbackend, durable_disks = false", shop.disk(plain, image, image.filename, size)),
            ("cp --sparse=auto", shop.copy(source, shop.folder, flushed=False)),
        ]
        if peer is not None:
            competitors.append((_PEER, peer.disk("raw", source, base_name("image"), size)))
        series = take_turns(competitors, shop.size.repeats, warm_ups=2)
    targets = [
        at_most("flushed: at most 1.1 x cp", ratio(series[0], series[1]), 1.1, "x"),
        at_most("not flushed: at most 1.1 x cp", ratio(series[2], series[3]), 1.1, "x"),
        _processes(series[0].processes),
    ]
    notes = []
    if peer is not None:
        notes.append(
            f"Nova takes {ratio(series[4], series[2]):.1f} times as long as imgbackend without flushing; "
            f"its {series[4].processes} processes run {peer.programs} programs."
        )
    return Case(title="further raw disk, a quarter of the image data", series=series, targets=targets, notes=notes)


def first_qcow2(shop: Workshop, peer: Peer | None) -> Case:
    """The first overlay of an image: the base is made too."""
    source, size = shop.source(), shop.size.image * 4
    with shop.engine() as engine:
        image = engine.image(str(source))
        competitors = [
            ("imgbackend, flushed", _first(shop, engine, image, size)),
            ("cp --sparse=auto, flushed", shop.copy(source, shop.folder, flushed=True)),
        ]
        if peer is not None:
            competitors.append((_PEER, peer.disk("qcow2", source, base_name("image"), size, first=True)))
        series = take_turns(competitors, shop.size.repeats, warm_ups=2)
    more = difference(series[0], series[1]) * 1e3
    targets = [at_most("at most 30 ms more than the flushed copy, digest included", more, 30, "ms")]
    return Case(title="first qcow2 disk of a local raw image", series=series, targets=targets)


def _first(shop: Workshop, engine: Engine, image: Image, size: int) -> Call:
    made = shop.disk(engine, image, image.filename, size)
    base = engine.host.bases / image.filename

    def call() -> Taken:
        for path in (base, Path(f"{base}.json")):
            path.unlink(missing_ok=True)
        if base.parent.exists():
            shop.settle(base.parent)
        return made()

    return call


def whatever_the_size(shop: Workshop, folder: Path, name: str, sizes: list[int]) -> Case:
    """Further raw disks where the file system shares blocks: of larger images, and of one in more pieces."""
    pieces = [(size, size // sizes[0] * Mi) for size in sizes]
    shapes = pieces if len(sizes) == 1 else [*pieces, (sizes[-1], Mi)]
    with shop.engine({"images_type": "raw"}, folder=folder) as engine:
        calls: list[tuple[str, Call]] = []
        for size, extent in shapes:
            image = engine.image(str(shop.source(folder, size, extent=extent)))
            told = f"{size // Mi} MiB, its data in {size // 4 // extent} pieces"
            calls.append((f"imgbackend, flushed, {told}", shop.disk(engine, image, image.filename, size * 2)))
        last = shop.source(folder, shapes[-1][0], extent=shapes[-1][1])
        calls.append((f"cp --sparse=auto, flushed, {told}", shop.copy(last, folder, flushed=True)))
        series = take_turns(calls, shop.size.repeats, warm_ups=2)
    worst = max(each.median for each in series[: len(sizes)]) * 1e3
    return Case(
        title=f"further raw disk on {name}",
        series=series,
        targets=[at_most("at most 5 ms, whatever the size", worst, 5, "ms"), _processes(series[0].processes)],
        notes=[
            "The file system is in a file on a loop device.  What grows is the time that the file system takes to "
            "share each further piece of data: the target is held against images of as many pieces as the smallest."
        ],
    )
