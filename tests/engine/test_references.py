"""How images are named to the engine, and what holds while their source is away."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from keystoneauth1 import token_endpoint
from keystoneauth1.session import Session

from imgbackend.disks.image_refs import source_of
from imgbackend.errors import ConfigError, ImageNotFound, SourceUnavailable
from imgbackend.types import Mi
from labs.engines import MakeEngine
from labs.glance import Glance
from labs.webserver import File, site

_DATA = os.urandom(Mi)
_IMPATIENT = {"sources.num_retries": 0, "sources.http_timeout": 5.0, "images_type": "qcow2"}


@pytest.mark.parametrize(
    ("ref", "source"),
    [
        ("glance:debian", "glance"),
        ("https://host/a.qcow2", "https"),
        ("HTTP://host/a.qcow2", "http"),
        ("file:///a/b", "folder"),
        ("/a/b:c", "folder"),
        ("./a", "folder"),
        ("..", "folder"),
        ("debian-12.qcow2", "preferred"),
        ("odd:name", "preferred"),
    ],
)
def test_reference_names_its_source(ref: str, source: str) -> None:
    assert source_of(ref, "preferred") == source


@pytest.mark.parametrize("ref", ["", "a\nb", "a\0b", "\x1b[31mred"])
def test_reference_that_is_none_is_refused(ref: str) -> None:
    with pytest.raises(ImageNotFound, match="not a reference"):
        source_of(ref, "folder")


def test_scheme_that_nobody_brings_is_refused(make_engine: MakeEngine) -> None:
    with pytest.raises(ConfigError, match="there is no source swift"):
        make_engine().image("swift://container/object")


def test_bare_name_is_looked_up_in_the_default_source(make_engine: MakeEngine, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "tiny.raw").write_bytes(_DATA)
    engine = make_engine({"sources.folder_path": str(tmp_path / "images")})
    assert engine.image("tiny.raw").declared.size == len(_DATA)
    with pytest.raises(ImageNotFound, match=r"images.*'\./other"):
        engine.image("other.raw")


def test_cached_url_outlives_its_server(make_engine: MakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    with site() as server:
        server.files["/a.raw"] = File(_DATA)
        url = server.url("/a.raw")
        with make_engine(_IMPATIENT) as engine:
            image = engine.image(url)
            assert engine.disk("one").cache(image, image.filename).fetched
    with make_engine(_IMPATIENT) as engine:
        image = engine.image(url)
        assert not engine.disk("two").cache(image, image.filename).fetched
        assert f"using the cached base of {url}" in caplog.text
        with pytest.raises(SourceUnavailable):
            engine.image(url + "x")


def test_base_that_is_gone_with_its_server_says_that_the_server_is_away(make_engine: MakeEngine) -> None:
    with site() as server:
        server.files["/a.raw"] = File(_DATA)
        url = server.url("/a.raw")
        engine = make_engine(_IMPATIENT)
        image = engine.image(url)
        engine.disk("one").cache(image, image.filename)
    image = engine.image(url)
    for base in engine.bases():
        base.path.rename(base.path.with_name("elsewhere"))
    with pytest.raises(SourceUnavailable):
        engine.disk("two").cache(image, image.filename)
    assert not engine.disk("two").exists()


def _glance(lab: Glance) -> dict[str, object]:
    return {**_IMPATIENT, "glance.auth_type": "none", "glance.endpoint_override": lab.url, "glance.timeout": 10}


def test_operator_needs_no_glance_for_a_cached_image(
    make_engine: MakeEngine, glance_of_my_own: Callable[..., Glance]
) -> None:
    lab = glance_of_my_own()
    image_id = lab.add("debian", _DATA)
    with make_engine(_glance(lab)) as engine:
        image = engine.image("glance:debian")
        assert engine.disk("one").cache(image, image.filename).fetched
        lab.stop()
        image = engine.image(f"glance:{image_id}")
        assert not engine.disk("two").cache(image, image.filename).fetched


def test_caller_sees_a_cached_image_only_where_glance_shows_it(
    make_engine: MakeEngine, glance_of_my_own: Callable[..., Glance]
) -> None:
    lab = glance_of_my_own(auth="token")
    image_id = lab.add("secret", _DATA, caller="project:mine", visibility="private")
    sessions = {name: Session(auth=token_endpoint.Token(lab.url, f"project:{name}")) for name in ("mine", "yours")}
    with make_engine(_IMPATIENT) as engine:
        image = engine.image(f"glance:{image_id}", session=sessions["mine"])
        assert engine.disk("one").cache(image, image.filename).fetched
        with pytest.raises(ImageNotFound):
            engine.image(f"glance:{image_id}", session=sessions["yours"])
        lab.stop()
        with pytest.raises(SourceUnavailable):
            engine.image(f"glance:{image_id}", session=sessions["mine"])
    for session in sessions.values():
        session.session.close()
