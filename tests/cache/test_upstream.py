"""Whether images are still in their sources: gone only where the source says so."""

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from cache.conftest import HOUR, age
from imgbackend import Engine, errors
from imgbackend.cache import upstream
from imgbackend.cache.policy import CachedBase
from imgbackend.cache.ports import Wanted
from imgbackend.types import Mi
from labs.engines import MakeEngine


@dataclass
class Found:
    id: str
    filename: str = ""

    def __call__(self, _target: object, _progress: object, /) -> None:
        raise AssertionError("nobody fetches")


def base(source: str | None, image_id: str | None = "1") -> CachedBase:
    return CachedBase(store=None, name="a" * 40, allocated=1, last_used=0, image_id=image_id, source=source)


def answers(bases: list[CachedBase], told: dict[str, Found | errors.Error]) -> tuple[list[object], list[str]]:
    """What is found, and which were asked about."""
    asked: list[str] = []

    def find(ref: str) -> Wanted:
        asked.append(ref)
        answer = told[ref]
        if isinstance(answer, errors.Error):
            raise answer
        return answer

    return [each.upstream for each in upstream.asked(bases, find)], asked


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        (Found("1"), "there"),
        (Found("2"), "gone"),
        (errors.ImageNotFound("none"), "gone"),
        (errors.SourceUnavailable("down"), None),
        (errors.SourceDenied("denied"), None),
        (errors.ConfigError("not configured"), None),
    ],
)
def test_only_an_answer_says_something(answer: Found | errors.Error, wanted: object) -> None:
    assert answers([base("glance:1")], {"glance:1": answer}) == ([wanted], ["glance:1"])


def test_what_has_no_source_is_not_asked_about() -> None:
    assert answers([base(None), base("x", None)], {}) == ([None, None], [])


def test_source_that_failed_is_asked_no_more_and_others_are() -> None:
    down = errors.SourceUnavailable("down")
    told: dict[str, Found | errors.Error] = {
        "glance:1": down,
        "glance:2": Found("1"),
        "https://a/1": down,
        "https://a/2": down,
        "https://b/1": Found("1"),
    }
    found, asked = answers([base(ref) for ref in told], told)
    assert found == [None, None, None, None, "there"]
    assert asked == ["glance:1", "https://a/1", "https://b/1"]


def test_time_for_asking_is_bounded() -> None:
    ticks = iter([0.0, 1.0, upstream.SECONDS + 1, upstream.SECONDS + 2])
    found = upstream.asked([base("a:1")] * 3, lambda _: Found("1"), lambda: next(ticks))
    assert [each.upstream for each in found] == ["there", None, None]


def test_file_in_a_folder_that_is_away_or_empty_says_nothing(tmp_path: Path) -> None:
    missing = errors.ImageNotFound("none")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "another").touch()
    refs = [f"{tmp_path}/away/x", f"file://{tmp_path}/empty/x", f"{tmp_path}/full/x"]
    assert [answers([base(ref)], {ref: missing})[0] for ref in refs] == [[None], [None], ["gone"]]


def test_image_that_is_gone_has_its_base_removed_earlier_where_the_sources_are_asked(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = make_engine({"images_type": "qcow2", "image_cache.remove_gone_minimum_age_seconds": 2 * HOUR})
    kept = SimpleNamespace(gone=tmp_path / "gone.raw", there=tmp_path / "there.raw", changed=tmp_path / "changed.raw")
    by_ref = {}
    for path in vars(kept).values():
        path.write_bytes(os.urandom(Mi))
        [fetched] = engine.cache.prefetch([str(path)])
        assert fetched.base is not None
        by_ref[path] = fetched.base
        age(engine.host.bases / fetched.base, 3 * HOUR)
    kept.gone.unlink()
    kept.changed.write_bytes(os.urandom(Mi))
    found = {each.name: each.upstream for each in engine.cache.bases(ask_sources=True).bases}
    assert found == {by_ref[kept.gone]: "gone", by_ref[kept.there]: "there", by_ref[kept.changed]: "gone"}
    assert {each.action for each in engine.cache.prune().outcomes} == {"kept"}
    done = engine.cache.prune(ask_sources=True)
    assert {each.base.name for each in done.outcomes if each.action == "removed"} == {
        by_ref[kept.gone],
        by_ref[kept.changed],
    }
    assert done.freed >= 2 * Mi


def test_source_that_is_down_lets_nothing_go_earlier(engine: Engine, tmp_path: Path) -> None:
    ref = tmp_path / "images" / "x.raw"
    ref.parent.mkdir()
    ref.write_bytes(os.urandom(Mi))
    engine.cache.prefetch([str(ref)])
    ref.parent.rename(tmp_path / "not mounted")
    assert [each.upstream for each in engine.cache.bases(ask_sources=True).bases] == [None]
