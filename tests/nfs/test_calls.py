"""What a pass asks a server of NFS: calls of the protocol for each instance, as the client counts them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from imgbackend import Engine
from imgbackend.cache.prune import Pass
from imgbackend.types import Mi
from labs.images import sparse_raw
from labs.nfs import calls_of, filled_at, mounted_at
from labs.shares import Share
from labs.templates import Template

_FEW, _MANY = 10, 80
_FOLDER: Final = {"ACCESS": 1, "GETATTR": 1, "READDIR": 1}
"""Who may look into it, whether what is known of it is old, what is in it."""
_FILE: Final = {"OPEN": 1, "READ": 1, "CLOSE": 1}


@pytest.fixture
def image(tmp_path: Path) -> Template:
    return Template(content=sparse_raw(tmp_path / "content.raw", Mi), image_id="small", format="raw")


class Passes:
    """Passes over so many instances, each on a mount of its own; what they called."""

    def __init__(self, place: Path, server: Path, image: Template) -> None:
        self._place, self._server, self._image = place, server, image
        place.mkdir()

    def _engine(self) -> Engine:
        return Engine.from_config([], {"instances_path": str(self._place), "host": "a", "images_type": "qcow2"})

    def calls(self, count: int, *, passes: int) -> list[Counter[str]]:
        """What each of several passes over ``count`` instances called, the first of them with empty caches."""
        with filled_at(self._place, self._server), self._engine() as engine:
            for number in range(count):
                engine.disk(f"vm{number}").cache(self._image, self._image.name, None)
        with mounted_at(self._place, self._server.name), self._engine() as engine:
            return [self._of_one(engine.cache.prune) for _ in range(passes)]

    def _of_one(self, make: Callable[[], Pass]) -> Counter[str]:
        before = calls_of(self._place)
        done = make()
        assert [each.action for each in done.outcomes] == ["kept"]
        assert (done.faults, done.leftovers) == ([], [])
        return calls_of(self._place) - before


def test_pass_calls_for_a_folder_a_file_of_records_and_a_header_and_the_next_one_only_asks_for_what_is_new(
    nfs_share: Share, tmp_path: Path, image: Template
) -> None:
    passes = Passes(tmp_path / "instances", nfs_share.server, image)
    few = passes.calls(_FEW, passes=2)
    many = passes.calls(_MANY, passes=2)
    first, second = ((more - less).total() / (_MANY - _FEW) for more, less in zip(many, few, strict=True))
    assert first <= sum(_FOLDER.values()) + 2 * sum(_FILE.values()) + 0.5, many[0] - few[0]
    assert second <= _FOLDER["GETATTR"] + 0.5, many[1] - few[1]
