"""A hostile image is refused by its class of error, with no file of this host read and nothing left."""

from pathlib import Path

import pytest

from imgbackend import Engine
from imgbackend.errors import Error, ImageNotFound
from labs.corpus import ALL, SECRET, Hostile
from labs.glance import Glance
from labs.webserver import File, Site
from trust.conftest import MakeEngine, assert_nothing_left, assert_one_line

_each = pytest.mark.parametrize("hostile", ALL, ids=lambda hostile: hostile.name)
_servable = pytest.mark.parametrize(
    "hostile", [hostile for hostile in ALL if hostile.servable], ids=lambda hostile: hostile.name
)


def _assert_refused(engine: Engine, ref: str, refused: type[Error], instances: Path) -> None:
    with pytest.raises(refused) as caught:
        _provide(engine, ref)
    assert_one_line(caught.value)
    assert_nothing_left(instances)


def _provide(engine: Engine, ref: str) -> None:
    image = engine.image(ref)
    engine.disk("web1").cache(image, image.filename)


def test_corpus_is_large_enough() -> None:
    assert len(ALL) >= 30
    assert len({hostile.name for hostile in ALL}) == len(ALL)


@_each
@pytest.mark.parametrize(("images_type", "force_raw"), [("qcow2", True), ("raw", False)])
def test_folder_refuses(
    hostile: Hostile,
    images_type: str,
    force_raw: bool,
    make_engine: MakeEngine,
    instances: Path,
    images: Path,
    secret: Path,
) -> None:
    hostile.make(images / hostile.file, secret)
    engine = make_engine(images_type=images_type, force_raw_images=force_raw)
    _assert_refused(engine, hostile.file, hostile.refused, instances)
    assert secret.read_bytes() == SECRET


@_servable
def test_http_refuses(
    hostile: Hostile, make_engine: MakeEngine, instances: Path, images: Path, secret: Path, web: Site
) -> None:
    hostile.make(images / hostile.file, secret)
    web.files[f"/{hostile.file}"] = File((images / hostile.file).read_bytes())
    engine = make_engine(force_raw_images=False)
    _assert_refused(engine, web.url(f"/{hostile.file}"), hostile.refused_by_http or hostile.refused, instances)


def test_page_that_says_200_is_no_image(make_engine: MakeEngine, instances: Path, web: Site) -> None:
    web.files["/disk.img"] = File(b"<html>Please log in</html>", type="text/html")
    with pytest.raises(ImageNotFound, match="web page") as caught:
        _provide(make_engine(), web.url("/disk.img"))
    assert_one_line(caught.value)
    assert_nothing_left(instances)


_FORMATS = {"qcow2", "raw", "vmdk", "vhd", "vhdx", "vdi", "iso"}


@pytest.mark.parametrize(
    "hostile",
    [hostile for hostile in ALL if hostile.servable and hostile.file.rpartition(".")[2] in _FORMATS],
    ids=lambda hostile: hostile.name,
)
def test_glance_refuses(
    hostile: Hostile, make_engine: MakeEngine, instances: Path, images: Path, secret: Path, glance: Glance
) -> None:
    """Planted in Glance's store: Glance itself refuses some of them, and others only since lately."""
    hostile.make(images / hostile.file, secret)
    image_id = glance.plant("planted", (images / hostile.file).read_bytes(), hostile.file.rpartition(".")[2])
    engine = make_engine(glance__auth_type="none", glance__endpoint_override=glance.url)
    _assert_refused(engine, f"glance:{image_id}", hostile.refused, instances)
