"""Room for a fetch: spare bases go for it, least recently used first, or it is refused with what it would need."""

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.conftest import DAY, HOUR, age, names
from imgbackend import Engine, errors
from imgbackend.system import extents, files
from imgbackend.types import Ki, Mi, Progress
from labs.contents import bytes_of
from labs.engines import MakeEngine
from labs.images import qemu_img, sparse_raw
from labs.templates import Template, in_threads

pytestmark = pytest.mark.slow

MakeTmpfs = Callable[[int], Path]
SLACK = 64 * Ki
"""For the manifests, and what a file system takes beside the bytes."""


def image(tmp_path: Path, name: str, length: int = 2 * Mi) -> Template:
    """A raw image of so many bytes, all of them data, that says how large it is."""
    path = tmp_path / name
    path.write_bytes(name.encode() * (length // len(name)))
    return Template(content=path, image_id=name, format="raw", size=path.stat().st_size)


def cached(engine: Engine, wanted: Template, ago: float) -> Path:
    """Its base, which no disk uses, and which was last used so long ago."""
    engine.disk("brief").cache(wanted, wanted.name)
    engine.disk("brief").remove()
    path = engine.host.bases / wanted.name
    age(path, ago)
    return path


def engine_with(make_engine: MakeEngine, **options: object) -> Engine:
    return make_engine({"images_type": "qcow2"} | {f"image_cache.{name}": value for name, value in options.items()})


def test_least_recently_used_goes_for_a_fetch_beyond_max_size(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = engine_with(make_engine, max_size=6 * Mi + SLACK)
    one, two, three, four = (image(tmp_path, name) for name in ("one1", "two2", "tri3", "for4"))
    cached(engine, one, 2 * HOUR)
    cached(engine, two, 5 * HOUR)
    cached(engine, three, 3 * HOUR)
    engine.disk("web1").cache(four, four.name)
    assert names(engine) == {one.name, three.name, four.name}


def test_fetch_for_which_no_room_can_be_made_is_refused_with_its_need_and_takes_nothing_away(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = engine_with(make_engine, max_size=5 * Mi)
    one, two, three = image(tmp_path, "one1"), image(tmp_path, "two2"), image(tmp_path, "tri3", 4 * Mi)
    engine.disk("web1").cache(one, one.name)
    cached(engine, two, 9 * DAY)
    with pytest.raises(errors.StorageFull, match="max_size") as caught:
        engine.disk("web2").cache(three, three.name)
    assert caught.value.need == 4 * Mi
    assert three.fetches == 0
    assert names(engine) == {one.name, two.name}
    assert not engine.disk("web2").exists()


@pytest.mark.parametrize("held", ["leased", "pinned", "used", "unseen", "kept"])
def test_what_is_held_goes_for_no_fetch(make_engine: MakeEngine, tmp_path: Path, held: str) -> None:
    engine = engine_with(make_engine, max_size=3 * Mi, remove_unused_base_images=held != "kept")
    one, two = image(tmp_path, "one1"), image(tmp_path, "two2")
    cached(engine, one, 600 if held == "leased" else 9 * DAY)
    if held == "pinned":
        engine.cache.pin(one.name)
    if held == "used":
        engine.disk("web1").cache(one, one.name)
        age(engine.host.bases / one.name, 9 * DAY)
    if held == "unseen":
        (engine.host.instances / "web9").mkdir()
        (engine.host.instances / "web9" / "disks.json").write_text("{")
    with pytest.raises(errors.StorageFull):
        engine.disk("web2").cache(two, two.name)
    assert names(engine) == {one.name}


def test_room_on_a_full_file_system_is_made_too(
    make_engine: MakeEngine, tmp_path: Path, small_tmpfs: MakeTmpfs
) -> None:
    place = small_tmpfs(6 * Mi)
    engine = make_engine({"images_type": "qcow2", "instances_path": str(place)})
    one, two = image(tmp_path, "one1", 3 * Mi), image(tmp_path, "two2", 4 * Mi)
    cached(engine, one, 2 * HOUR)
    engine.disk("web1").cache(two, two.name)
    assert names(engine) == {two.name}


def test_min_free_is_kept_by_a_fetch(make_engine: MakeEngine, tmp_path: Path, small_tmpfs: MakeTmpfs) -> None:
    place = small_tmpfs(8 * Mi)
    told = {"images_type": "qcow2", "instances_path": str(place), "image_cache.min_free": 4 * Mi}
    engine = make_engine(told)
    one, two, three = image(tmp_path, "one1"), image(tmp_path, "two2", 3 * Mi), image(tmp_path, "tri3", 5 * Mi)
    cached(engine, one, 2 * HOUR)
    engine.disk("web1").cache(two, two.name)
    assert names(engine) == {two.name}
    with pytest.raises(errors.StorageFull, match="min_free"):
        engine.disk("web2").cache(three, three.name)


def test_container_is_counted_by_what_it_unpacks_to_without_itself(make_engine: MakeEngine, tmp_path: Path) -> None:
    raw = sparse_raw(tmp_path / "raw", 4 * Mi, data={0: os.urandom(3 * Mi)})
    qemu_img("convert", "-f", "raw", "-O", "qcow2", str(raw), str(tmp_path / "container"))
    size = (tmp_path / "container").stat().st_size
    wanted = Template(content=tmp_path / "container", image_id="container", format="qcow2", size=size)
    engine_with(make_engine, max_size=4 * Mi).disk("web1").cache(wanted, wanted.name)
    small = wanted.but(image_id="another")
    engine = engine_with(make_engine, max_size=6 * Mi)
    with pytest.raises(errors.StorageFull, match="max_size"):
        engine.disk("web2").cache(small, small.name)
    assert names(engine) == {wanted.name}


def in_pieces(wanted: Template) -> Template:
    """The same image, as it comes from a source that does not say how large it is, a megabyte at a time."""

    def arrive(target: Path, progress: Progress) -> None:
        data = wanted.content.read_bytes()
        with target.open("wb") as file:
            for at in range(0, len(data), Mi):
                file.write(data[at : at + Mi])
                file.flush()
                progress("fetch", file.tell(), None)

    return wanted.but(size=None, before=arrive)


def test_image_of_unknown_size_makes_room_while_it_comes(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = engine_with(make_engine, max_size=6 * Mi + SLACK)
    one, two, three = image(tmp_path, "one1"), image(tmp_path, "two2"), image(tmp_path, "tri3", 4 * Mi)
    cached(engine, one, 5 * HOUR)
    cached(engine, two, 2 * HOUR)
    engine.disk("web1").cache(in_pieces(three), three.name)
    assert names(engine) == {two.name, three.name}
    assert bytes_of(engine.disk("web1")) == three.content.read_bytes()


def test_image_of_unknown_size_is_refused_as_soon_as_it_exceeds_what_is_allowed(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """And not when all of it is here; what was fetched so far goes."""
    engine = engine_with(make_engine, max_size=3 * Mi)
    wanted, came = image(tmp_path, "one1", 32 * Mi), list[int]()
    pieces = in_pieces(wanted)

    def progress(phase: str, done: int, _total: int | None) -> None:
        if phase == "fetch":
            came.append(done)

    with pytest.raises(errors.StorageFull, match="max_size"):
        engine.disk("web1").cache(pieces, wanted.name, progress=progress)
    assert max(came) <= 3 * Mi
    assert list(engine.host.bases.iterdir()) == []
    assert not list((engine.host.instances / "locks").glob("*.reserved"))


@pytest.mark.parametrize("length", [Mi // 2, 3 * Mi])
def test_image_of_unknown_size_that_just_fits_is_taken(make_engine: MakeEngine, tmp_path: Path, length: int) -> None:
    engine = engine_with(make_engine, max_size=length + SLACK)
    wanted = image(tmp_path, "one1", length)
    engine.disk("web1").cache(in_pieces(wanted), wanted.name)
    assert names(engine) == {wanted.name}


def test_fetches_of_unknown_size_side_by_side_do_not_count_on_the_same_room(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = engine_with(make_engine, max_size=6 * Mi)
    images = [in_pieces(image(tmp_path, name, 4 * Mi)) for name in ("one1", "two2")]
    found = in_threads(2, lambda number: engine.disk(f"web{number}").cache(images[number], images[number].name).size)
    refused = [each for each in found if isinstance(each, errors.StorageFull)]
    assert refused
    assert all(each == 4 * Mi or isinstance(each, errors.StorageFull) for each in found)
    assert extents.together(engine.host.bases.glob("[0-9a-f]*[0-9a-f]")) <= 6 * Mi


def test_fetches_side_by_side_do_not_count_on_the_same_room(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine, both = engine_with(make_engine, max_size=3 * Mi), threading.Barrier(2)

    def wait(_target: Path, _progress: object) -> None:
        both.wait(30)  # passed only if both were let in, or one was refused and broke it

    images = [image(tmp_path, name).but(before=wait) for name in ("one1", "two2")]

    def make(number: int) -> None:
        try:
            engine.disk(f"web{number}").cache(images[number], images[number].name)
        except errors.StorageFull:
            both.abort()
            raise

    found = in_threads(2, make)
    assert sum(isinstance(each, errors.StorageFull) for each in found) == 1
    assert engine.host.space is not None
    assert extents.together(engine.host.bases.glob("[0-9a-f]*[0-9a-f]")) <= 3 * Mi


def test_two_fetches_that_want_each_others_base_gone_do_not_wait_for_each_other(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = engine_with(make_engine, max_size=5 * Mi)
    one, two = image(tmp_path, "one1"), image(tmp_path, "two2")
    for wanted in (one, two):
        cached(engine, wanted, 2 * HOUR)
    images = [image(tmp_path, name, 3 * Mi) for name in ("tri3", "for4")]
    found = in_threads(2, lambda number: engine.disk(f"web{number}").cache(images[number], images[number].name).size)
    assert sorted(map(str, found), key=len)[0] == str(3 * Mi)
    assert len(names(engine) & {each.name for each in images}) >= 1


def test_base_that_shares_its_blocks_with_disks_makes_no_room_and_stays(
    make_engine: MakeEngine, tmp_path: Path, xfs: Path
) -> None:
    """No disk hangs on it, for they are reflinks; its removal would free nothing."""
    one, two = image(tmp_path, "one1", 4 * Mi), image(tmp_path, "two2")
    engine = make_engine({"images_type": "raw", "instances_path": str(xfs), "image_cache.min_free": 0})
    assert engine.disk("web1").cache(one, one.name).way == "reflink"
    age(engine.host.bases / one.name, 2 * HOUR)
    free = files.free_bytes(xfs)
    tight = make_engine(
        {"images_type": "raw", "instances_path": str(xfs), "image_cache.min_free": free - Mi, "host": "a"}
    )
    with pytest.raises(errors.StorageFull, match="min_free"):
        tight.disk("web2").cache(two, two.name)
    assert names(engine) == {one.name}
    engine.disk("web1").remove()
    os.sync()
    tight.disk("web2").cache(two, two.name)
    assert names(engine) == {two.name}


def test_base_that_has_another_name_elsewhere_makes_no_room_and_stays(make_engine: MakeEngine, tmp_path: Path) -> None:
    """A backup by hard links: its removal would free nothing."""
    engine = engine_with(make_engine, max_size=3 * Mi)
    one, two = image(tmp_path, "one1"), image(tmp_path, "two2")
    path = cached(engine, one, 9 * DAY)
    os.link(path, tmp_path / "backup")
    assert [each.freed for each in engine.cache.prune(dry_run=True).outcomes] == [0]
    with pytest.raises(errors.StorageFull, match="max_size"):
        engine.disk("web1").cache(two, two.name)
    assert names(engine) == {one.name}


def test_room_that_is_made_beside_creations_takes_no_base_from_under_a_disk(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    """With no lease at all, and room for three of six: who is refused is told so, and all other disks are whole."""
    engine = engine_with(make_engine, max_size=6 * Mi + SLACK, lease_seconds=0)
    images = [image(tmp_path, name) for name in ("one1", "two2", "tri3", "for4", "fiv5", "six6")]
    whole: dict[str, Template] = {}

    def work(number: int) -> None:
        chance = random.Random(number)
        for turn in range(12):
            wanted, name = chance.choice(images), f"web{number}-{turn}"
            try:
                engine.disk(name).cache(wanted, wanted.name)
            except errors.StorageFull:
                continue
            assert bytes_of(engine.disk(name)) == wanted.content.read_bytes()
            if chance.random() < 0.7:
                engine.disk(name).remove()
            elif len(whole) < 3:
                whole[name] = wanted

    found = in_threads(4, work)
    assert found == [None] * 4
    assert whole
    for name, wanted in whole.items():
        assert (engine.host.bases / wanted.name).exists()
        assert bytes_of(engine.disk(name)) == wanted.content.read_bytes()


def in_store(engine: Engine, wanted: Template, ago: float) -> Path:
    """Its base in the store, which no disk uses."""
    engine.disk("brief").cache(wanted, wanted.name)
    engine.disk("brief").remove()
    path = Path(engine.conf["able"].folder) / "bases" / wanted.name
    age(path, ago)
    return path


def test_pass_bounds_a_store_and_removes_what_was_used_least_recently(
    make_able: Callable[..., Engine], tmp_path: Path
) -> None:
    images = [image(tmp_path, name) for name in ("one1", "two2", "tri3")]
    for wanted, hours in zip(images, (3, 5, 2), strict=True):
        in_store(make_able(), wanted, hours * HOUR)
    engine = make_able({"image_cache.store_max_size": {"able": 4 * Mi}})
    done = engine.cache.prune()
    assert done.faults == []
    assert {each.base.name: each.reason for each in done.outcomes if each.action == "removed"} == {
        images[1].name: "least recently used, and the bases take more than store_max_size"
    }
    assert names(engine, "able") == {images[0].name, images[2].name}


def test_pass_keeps_room_in_a_store_and_tells_what_it_cannot_free(
    make_able: Callable[..., Engine], tmp_path: Path
) -> None:
    unused, used = image(tmp_path, "one1"), image(tmp_path, "two2")
    in_store(make_able(), unused, 2 * HOUR)
    make_able().disk("web1").cache(used, used.name)
    engine = make_able({"image_cache.store_min_free": {"able": 1 << 60}})
    done = engine.cache.prune()
    assert names(engine, "able") == {used.name}
    [fault] = done.faults
    assert "have to be free in able for store_min_free" in fault


def test_limit_for_a_store_that_keeps_no_bases_is_told(make_engine: MakeEngine) -> None:
    engine = make_engine({"image_cache.store_max_size": {"qcow2": Mi}})
    [fault] = engine.cache.prune().faults
    assert "qcow2, which was not opened, or keeps no bases" in fault
