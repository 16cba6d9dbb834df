"""What the tests of trust share: engines, a secret, and the rule that a refusal leaves nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgbackend import Engine
from imgbackend.state import folder_marker
from labs.corpus import SECRET
from labs.glance import glance
from labs.webserver import Site, site

__all__ = ["glance"]

MakeEngine = Callable[..., Engine]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of this host that everybody may read, so that only our own care protects it."""
    tmp_path.chmod(0o755)
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o644)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The folder that bare names are looked up in."""
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def make_engine(instances: Path, images: Path) -> Iterator[MakeEngine]:
    """``make_engine(images_type="raw")``: an engine on ``instances``; a dot is written ``__``."""
    made: list[Engine] = []

    def make(**overrides: object) -> Engine:
        told = {"instances_path": str(instances), "sources.folder_path": str(images), "sources.num_retries": 0}
        told |= {key.replace("__", "."): value for key, value in overrides.items()}
        made.append(Engine.from_config([], told))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def web() -> Iterator[Site]:
    """A web server with nothing on it."""
    with site() as made:
        yield made


def assert_nothing_left(instances: Path) -> None:
    """Nothing but empty folders, the folder's marker, and the files of the locks."""
    files = [path for path in sorted(instances.rglob("*")) if not path.is_dir() or path.is_symlink()]
    left = [path for path in files if path != instances / folder_marker.NAME]
    assert [path for path in left if path.parent != instances / "locks"] == []
    for path in left:
        assert path.name.startswith(("nova-", "imgbackend-")) or path.suffix == ".failed", path
        assert SECRET[:29] not in path.read_bytes()


def assert_one_line(error: BaseException) -> None:
    """The message is one printable line that tells nothing of the secret."""
    text = str(error)
    assert text
    assert text.isprintable()
    assert "secret-of-this-host" not in text
