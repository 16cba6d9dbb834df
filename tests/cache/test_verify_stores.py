"""Verification of bases that a store keeps: by a driver that gives their bytes back, and by one that does not."""

import json
import os
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from cache.conftest import DAY, HOUR, actions, age
from cache.test_prune import holding
from cache.test_verify import _class_of, flip, only
from imgbackend import Engine, errors
from imgbackend.cache.policy import CachedBase
from imgbackend.cache.throttle import Throttle
from imgbackend.config import plugins
from imgbackend.driver.abilities import ChecksBases
from imgbackend.types import Cached, Mi
from labs.able import AbleBackend, HoldingBackend
from labs.contents import bytes_of
from labs.images import sparse_raw
from labs.templates import Template

pytestmark = pytest.mark.slow


def store_of(engine: Engine) -> AbleBackend:
    found = engine.backend()
    assert isinstance(found, AbleBackend)
    return found


@pytest.fixture
def base(able_engine: Engine, raw_image: Template) -> Path:
    """A base in the store, with a disk on it."""
    able_engine.disk("web1").cache(raw_image, raw_image.name, 9 * Mi)
    return store_of(able_engine).bases / raw_image.name


def listed(engine: Engine) -> dict[str, CachedBase]:
    found = engine.cache.bases()
    assert found.faults == []
    return {base.name: base for base in found.bases}


def test_sound_base_of_a_store_is_told_and_noted_and_its_last_use_stays(able_engine: Engine, base: Path) -> None:
    age(base, 5 * HOUR)
    before, began = base.stat().st_mtime, time.time()
    found = only(able_engine.cache.verify())
    assert (found.found, found.base.where, found.base.name, found.aside) == ("sound", "able", base.name, None)
    assert found.read > 0
    assert base.stat().st_mtime == before
    verified = listed(able_engine)[base.name].verified
    assert verified is not None
    assert began - 1 <= verified <= time.time() + 1


def test_flipped_bit_is_found_and_the_base_put_aside_with_its_users_told(
    able_engine: Engine, base: Path, raw_image: Template
) -> None:
    content = base.read_bytes()
    flip(base, 5 * Mi + 77)
    damaged = base.read_bytes()
    found = only(able_engine.cache.verify())
    assert (found.found, found.base.disks) == ("bad", ("web1/disk",))
    assert store_of(able_engine).find_base(base.name) is None
    assert isinstance(found.aside, str)
    assert (base.parent / found.aside).read_bytes() == damaged, "the bad base was not kept as it was"
    made = able_engine.disk("web2").cache(raw_image, raw_image.name)
    assert (made.fetched, raw_image.fetches) == (True, 2)
    assert bytes_of(able_engine.disk("web2")) == content
    assert bytes_of(able_engine.disk("web1")) == content + bytes(Mi)
    now = listed(able_engine)
    assert now[found.aside].bad == found.reason
    assert now[found.aside].disks == ("web1/disk",), "the disk of the fresh copy counts for the bad one"
    assert now[found.aside].image_id == raw_image.image_id
    again = {each.base.name: each.found for each in able_engine.cache.verify()}
    assert again == {base.name: "sound", found.aside: "skipped"}


def test_base_that_was_put_aside_goes_with_its_last_disk_and_not_before(able_engine: Engine, base: Path) -> None:
    flip(base, 5 * Mi)
    aside = only(able_engine.cache.verify()).aside
    assert isinstance(aside, str)
    age(base.parent / aside, 3 * DAY)
    assert actions(able_engine) == {("able", aside): "kept"}
    able_engine.disk("web1").remove()
    assert actions(able_engine) == {("able", aside): "kept"}, "it goes at once: its use was not noted"
    age(base.parent / aside, 3 * DAY)
    [gone] = able_engine.cache.prune().outcomes
    assert (gone.action, gone.base.name) == ("removed", aside)
    assert "bad" in gone.reason
    assert list(base.parent.iterdir()) == []


def test_bad_base_that_nobody_uses_is_kept_as_long_as_any(able_engine: Engine, base: Path) -> None:
    able_engine.disk("web1").remove()
    flip(base, 5 * Mi)
    age(base, 3 * DAY)
    aside = only(able_engine.cache.verify()).aside
    assert actions(able_engine) == {("able", aside): "kept"}


def test_base_without_a_digest_gets_one_when_it_is_first_verified(able_engine: Engine, base: Path) -> None:
    store = store_of(able_engine)
    known = listed(able_engine)[base.name].digest
    assert known
    store.tag_base(base.name, {"digest": ""})
    assert only(able_engine.cache.verify()).found == "noted"
    assert listed(able_engine)[base.name].digest == known, "not the digest that an import notes"
    assert only(able_engine.cache.verify()).found == "sound"


@pytest.mark.parametrize("size", [Mi * 2 + 513, 700, Mi, 3 * Mi])
def test_digest_is_that_of_the_import_whatever_the_size(able_engine: Engine, tmp_path: Path, size: int) -> None:
    image = Template(
        content=sparse_raw(tmp_path / "odd.raw", size, data={size - 100: b"end"}), image_id="odd", format="raw"
    )
    able_engine.disk("web1").cache(image, image.name)
    assert only(able_engine.cache.verify()).found == "sound"


def test_holes_are_not_read(able_engine: Engine, tmp_path: Path) -> None:
    image = Template(
        content=sparse_raw(tmp_path / "wide.raw", 512 * Mi, data={300 * Mi: b"x"}), image_id="wide", format="raw"
    )
    able_engine.disk("web1").cache(image, image.name)
    found = only(able_engine.cache.verify())
    assert found.found == "sound"
    assert 0 < found.read <= Mi


def test_rate_slows_a_verification_down_and_its_bytes_are_counted(
    make_able: Callable[..., Engine], raw_image: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def made(rate: int | None) -> Throttle:
        return Throttle(rate, clock=lambda: sum(slept), sleep=slept.append)

    engine = make_able({"image_cache.metrics_file": str(tmp_path / "m.prom")})
    engine.disk("web1").cache(raw_image, raw_image.name)
    monkeypatch.setattr("imgbackend.cache.verify.of_folder.Throttle", made)
    found = only(engine.cache.verify(rate=Mi))
    assert sum(slept) == pytest.approx(found.read / Mi, abs=0.2)
    flip(store_of(engine).bases / raw_image.name, 5 * Mi)
    assert only(engine.cache.verify()).found == "bad"
    counts = engine.host.metrics.counts()
    assert (counts["verifications"], counts["verification_failures"]) == (2, 1)
    assert counts["verified_bytes"] >= found.read * 3, "a bad base is read twice"


def test_reading_is_idle(able_engine: Engine, base: Path) -> None:
    me, seen = threading.get_native_id(), set()
    able_engine.cache.verify(progress=lambda *_: seen.add(_class_of(me)))
    assert seen == {"idle"}


def test_lock_is_not_held_while_a_base_is_read(able_engine: Engine, base: Path, raw_image: Template) -> None:
    """A disk is made of it in the middle of the reading, in this very thread, which could not wait for itself."""
    made: list[Cached] = []

    def progress(_phase: str, done: int, _total: int | None) -> None:
        if done and not made:
            made.append(able_engine.disk("web2").cache(raw_image, raw_image.name))

    assert only(able_engine.cache.verify(progress=progress)).found == "sound"
    assert [each.way for each in made] == ["clone"]


def test_base_that_is_imported_anew_while_it_is_read_is_not_condemned(
    able_engine: Engine, base: Path, raw_image: Template
) -> None:
    """The bad one went, and a sound one has its name when the verdict is found."""
    flip(base, 6 * Mi)
    before: list[int] = []

    def progress(_phase: str, done: int, _total: int | None) -> None:
        if done == 8 * Mi and len(before) < 3:
            before.append(done)
            if len(before) == 3:  # the second reading is through
                store_of(able_engine).remove_base(raw_image.name)
                able_engine.disk(f"again{len(before)}").cache(raw_image, raw_image.name)

    found = only(able_engine.cache.verify(progress=progress))
    assert len(before) == 3, "it was not replaced: the test tells nothing"
    assert (found.found, "replaced" in found.reason) == ("skipped", True)
    assert set(listed(able_engine)) == {base.name}


def test_base_whose_lock_is_held_is_skipped(able_engine: Engine, base: Path) -> None:
    with holding(able_engine.host.instances / "locks" / f"nova-{base.name}"):
        found = only(able_engine.cache.verify())
    assert found.found == "skipped"
    assert "lock" in found.reason


def test_reading_that_differs_from_the_next_condemns_nothing(
    able_engine: Engine, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = AbleBackend.read_base, list[str]()

    def flaky(self: AbleBackend, name: str) -> Generator[tuple[int, bytes | memoryview], None, None]:
        calls.append(name)
        for at, data in real(self, name):
            yield at, bytes(len(data)) if len(calls) == 1 else data

    monkeypatch.setattr(AbleBackend, "read_base", flaky)
    found = only(able_engine.cache.verify())
    assert (found.found, "memory" in found.reason, len(calls)) == ("unreadable", True, 2)
    assert base.exists()


def test_base_that_cannot_be_read_or_moved_stays_and_is_told(
    able_engine: Engine, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Any:
        raise errors.StorageUnavailable("the pool does not answer")

    flip(base, 6 * Mi)
    with monkeypatch.context() as patched:
        patched.setattr(AbleBackend, "rename_base", refuse)
        found = only(able_engine.cache.verify())
    assert (found.found, found.aside) == ("bad", None)
    assert "the pool does not answer" in found.reason
    monkeypatch.setattr(AbleBackend, "read_base", refuse)
    found = only(able_engine.cache.verify())
    assert (found.found, found.reason) == ("unreadable", "the pool does not answer")
    assert base.exists()


def test_cancelled_verification_leaves_everything_as_it_was(able_engine: Engine, base: Path) -> None:
    class EnoughError(Exception):
        pass

    def progress(_phase: str, done: int, _total: int | None) -> None:
        if done:
            raise EnoughError

    flip(base, 6 * Mi)
    before, opened = json.loads(base.with_suffix(".tags").read_text()), len(os.listdir("/proc/self/fd"))
    with pytest.raises(EnoughError):
        able_engine.cache.verify(progress=progress)
    assert json.loads(base.with_suffix(".tags").read_text()) == before
    assert len(os.listdir("/proc/self/fd")) == opened
    assert set(listed(able_engine)) == {base.name}


def test_sample_takes_bases_of_stores_and_of_the_folder_alike(
    make_able: Callable[..., Engine], raw_image: Template, tmp_path: Path
) -> None:
    engine = make_able()
    engine.disk("web1").cache(raw_image, raw_image.name)
    other = Template(content=sparse_raw(tmp_path / "o.raw", Mi, data={0: b"o"}), image_id="other", format="raw")
    engine.disk("web2", images_type="qcow2").cache(other, other.name)
    first, second = (only(engine.cache.verify(sample=1)).base.name for _ in range(2))
    assert {first, second} == {raw_image.name, other.name}


def test_driver_that_tells_bytes_twice_is_refused(
    able_engine: Engine, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(_self: AbleBackend, _name: str) -> Generator[tuple[int, bytes | memoryview], None, None]:
        yield 0, b"a" * 512
        yield 0, b"a" * 512

    monkeypatch.setattr(AbleBackend, "read_base", twice)
    found = only(able_engine.cache.verify())
    assert (found.found, "told before" in found.reason) == ("unreadable", True)
    assert base.exists()


def test_base_of_a_store_that_gives_no_bytes_is_skipped_and_told_why(
    make_able: Callable[..., Engine], raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = plugins.load_driver
    monkeypatch.setattr(plugins, "load_driver", lambda name: HoldingBackend if name == "able" else real(name))
    assert not issubclass(HoldingBackend, ChecksBases)
    engine = make_able()
    engine.disk("web1").cache(raw_image, raw_image.name)
    found = only(engine.cache.verify())
    assert found.found == "skipped"
    assert "no bytes" in found.reason
