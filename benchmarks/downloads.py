"""An image from the real Glance, verified, against what its client and the digest take alone."""

import contextlib
import hashlib
import mmap
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Call, Taken, difference, ratio, take_turns
from benchmarks.results import Case, Skipped, at_most
from benchmarks.workshop import Workshop
from imgbackend.types import Mi
from labs.glance import Glance, GlanceError

_LAB: Final = Path(__file__).parents[1] / "tests" / "labs" / "glance-lab.sh"


def from_glance(shop: Workshop, size: int) -> Case:
    """The first qcow2 disk of an image that Glance has."""
    with _glance(shop.folder) as glance:
        source = shop.source(size=size, share=0.5)
        image_id = glance.add("bench", source)
        fetched = _client(glance)
        with shop.engine({"glance.auth_type": "none", "glance.endpoint_override": glance.url}) as engine:
            image = engine.image(f"glance:{image_id}")
            base = engine.host.bases / image.filename
            disk = shop.disk(engine, image, image.filename, size)

            def first() -> Taken:
                for path in (base, Path(f"{base}.json")):
                    path.unlink(missing_ok=True)
                return disk()

            competitors: list[tuple[str, Call]] = [
                ("imgbackend: first qcow2 disk, sha512 checked, flushed", first),
                ("glanceclient's iterator, unchecked, bytes dropped", _timed(shop, lambda: fetched(image_id, False))),
                ("glanceclient's iterator, checked, bytes dropped", _timed(shop, lambda: fetched(image_id, True))),
                ("sha512 of the bytes, in memory", _timed(shop, lambda: _sha512(source))),
            ]
            series = take_turns(competitors, shop.size.few)
    slower = series[1] if series[1].median > series[3].median else series[3]
    wanted = f"at most 1.15 x the slower of the two that it cannot avoid ({slower.label})"
    return Case(
        title=f"{size // Mi} MiB raw image from a real Glance, verified",
        series=series,
        targets=[at_most(wanted, ratio(series[0], slower), 1.15, "x")],
        notes=[
            f"With inspection, holes, content digest and flush: {difference(series[0], slower) * 1e3:.0f} ms more. "
            "Half of the image is data. Glance runs on the same machine, and takes its share of the processors."
        ],
    )


def _timed(shop: Workshop, work: Callable[[], None]) -> Call:
    def call() -> Taken:
        with shop.timer():
            work()
        return shop.timer.taken

    return call


def _client(glance: Glance) -> Callable[[str, bool], None]:
    from glanceclient import Client  # type: ignore[import-untyped]  # it has no types

    client: Any = Client("2", endpoint=glance.url, token="none")  # noqa: S106 - this Glance asks for no token

    def fetched(image_id: str, checked: bool) -> None:
        for _ in client.images.data(image_id, do_checksum=checked):
            pass

    return fetched


def _sha512(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        hashlib.sha512(data).hexdigest()


@contextlib.contextmanager
def _glance(folder: Path) -> Iterator[Glance]:
    with tempfile.TemporaryDirectory(dir=folder, prefix="glance-") as place:
        glance = Glance(Path(place))
        try:
            subprocess.run([_LAB, "install"], check=True, timeout=1800)
            glance.start()
        except (GlanceError, OSError, subprocess.SubprocessError) as exc:
            raise Skipped(f"no Glance could be started: {exc}") from exc
        try:
            yield glance
        finally:
            glance.stop()
