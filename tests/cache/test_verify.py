"""Verification: what is sound, what is bad, what becomes of it, and what a reading costs."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from cache.conftest import HOUR, age
from cache.test_prune import holding
from imgbackend import Engine, errors
from imgbackend.cache.throttle import Throttle
from imgbackend.cache.verify.of_folder import Verified
from imgbackend.state import digests, manifests
from imgbackend.types import Cached, Mi, Progress
from labs.contents import bytes_of
from labs.engines import MakeEngine
from labs.images import sparse_raw
from labs.templates import Template

pytestmark = pytest.mark.slow


def only(done: list[Verified]) -> Verified:
    [found] = done
    return found


def flip(path: Path, at: int) -> None:
    """One bit, as a failing disk does: no clock of the file tells."""
    before = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    path.chmod(0o440)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def base(engine: Engine, raw_image: Template) -> Path:
    """A raw base, with a disk on it."""
    engine.disk("web1").cache(raw_image, raw_image.name, 9 * Mi)
    return engine.host.bases / raw_image.name


def aside(base: Path) -> list[Path]:
    return sorted(base.parent.glob(f"{base.name}.bad-*"))


def test_sound_base_is_told_and_noted_and_its_lease_stays_as_it_was(engine: Engine, base: Path) -> None:
    age(base, 5 * HOUR)
    before, began = manifests.last_used(base), time.time()
    found = only(engine.cache.verify())
    assert (found.found, found.aside) == ("sound", None)
    assert found.base.name == base.name
    assert manifests.last_used(base) == before
    [listed] = engine.cache.bases().bases
    assert listed.verified is not None
    assert began - 1 <= listed.verified <= time.time() + 1
    assert not aside(base)


def test_flipped_bit_is_found_and_the_base_put_aside_with_its_users_told(
    engine: Engine, base: Path, raw_image: Template
) -> None:
    content = base.read_bytes()
    flip(base, 5 * Mi + 77)
    damaged = base.read_bytes()
    found = only(engine.cache.verify())
    assert found.found == "bad"
    assert found.base.disks == ("web1/disk",)
    [moved] = aside(base)
    assert found.aside == moved
    assert moved.read_bytes() == damaged, "the bad base was not kept as it was"
    assert not base.exists()
    fetches = raw_image.fetches
    made = engine.disk("web2").cache(raw_image, raw_image.name)
    assert made.fetched
    assert raw_image.fetches == fetches + 1
    assert base.read_bytes() == content
    assert bytes_of(engine.disk("web1")) == content + bytes(Mi), "the disk on it does not read the fresh copy"
    assert only(engine.cache.verify()).found == "sound"


def test_bit_in_a_hole_is_found(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine({"images_type": "qcow2"})
    image = Template(content=sparse_raw(tmp_path / "holes.raw", 8 * Mi), image_id="holes", format="raw")
    engine.disk("web1").cache(image, image.name)
    flip(engine.host.bases / image.name, 3 * Mi + 5)
    assert only(engine.cache.verify()).found == "bad"


def test_fresh_copy_must_have_the_content_that_the_bad_base_had(
    engine: Engine, base: Path, raw_image: Template, tmp_path: Path
) -> None:
    """The source delivers something else today: disks hang on the name, so nothing else may come under it."""
    flip(base, 2 * Mi)
    engine.cache.verify()
    other = raw_image.but(content=sparse_raw(tmp_path / "other.raw", 8 * Mi, data={0: b"other"}))
    with pytest.raises(errors.TemplateCorrupt, match="other bytes"):
        engine.disk("web2").cache(other, other.name)
    assert not base.exists()


def test_truncated_base_is_bad(engine: Engine, base: Path) -> None:
    base.chmod(0o600)
    os.truncate(base, 7 * Mi)
    assert only(engine.cache.verify()).found == "bad"
    assert len(aside(base)) == 1


def test_restored_base_of_the_same_content_is_sound(engine: Engine, base: Path) -> None:
    content = base.read_bytes()
    base.unlink()
    base.write_bytes(content)
    assert only(engine.cache.verify()).found == "sound"


@pytest.fixture
def qcow2_base(make_engine: MakeEngine, qcow2_image: Template) -> tuple[Engine, Path]:
    """A base that is kept as a qcow2."""
    engine = make_engine({"images_type": "qcow2", "force_raw_images": False})
    engine.disk("web1").cache(qcow2_image, qcow2_image.name, 9 * Mi)
    return engine, engine.host.bases / qcow2_image.name


def test_qcow2_base_gets_its_digest_when_it_is_first_verified(
    qcow2_base: tuple[Engine, Path], raw_content: Path
) -> None:
    engine, path = qcow2_base
    manifest = manifests.read(path)
    assert manifest is not None
    assert (manifest.format, manifest.digest) == ("qcow2", None)
    assert only(engine.cache.verify()).found == "noted"
    manifest = manifests.read(path)
    assert manifest is not None
    with raw_content.open("rb") as file:
        assert manifest.digest == digests.content_digest(file.fileno()), "not what a guest reads"
    assert only(engine.cache.verify()).found == "sound"
    assert {entry.name for entry in path.parent.iterdir()} == {path.name, f"{path.name}.json"}


def test_flipped_bit_in_the_data_of_a_qcow2_base_is_found(qcow2_base: tuple[Engine, Path]) -> None:
    engine, path = qcow2_base
    engine.cache.verify()
    at = path.read_bytes().rindex(b"end!end!")
    flip(path, at)
    assert only(engine.cache.verify()).found == "bad"
    assert len(aside(path)) == 1


def test_broken_tables_of_a_qcow2_base_are_found(qcow2_base: tuple[Engine, Path]) -> None:
    engine, path = qcow2_base
    path.chmod(0o600)
    os.truncate(path, path.stat().st_size - Mi)
    assert only(engine.cache.verify()).found == "bad"


def test_qcow2_base_is_compared_with_what_was_delivered_before_it_has_a_digest(
    make_engine: MakeEngine, qcow2_image: Template
) -> None:
    """A source that counted digests on the way in: a bit that is flipped before the first verification is found too."""
    from labs.delivering import Delivering

    engine = make_engine({"images_type": "qcow2", "force_raw_images": False})
    image = Delivering(qcow2_image)
    engine.disk("web1").cache(image, qcow2_image.name, 9 * Mi)
    path = engine.host.bases / qcow2_image.name
    flip(path, path.read_bytes().rindex(b"end!end!"))
    found = only(engine.cache.verify())
    assert found.found == "bad"
    assert "delivered" in found.reason


def test_base_without_a_manifest_is_skipped_and_told_why(engine: Engine, base: Path) -> None:
    manifests.path_of(base).unlink()
    found = only(engine.cache.verify())
    assert found.found == "skipped"
    assert "manifest" in found.reason
    assert base.exists()


def test_lock_is_not_held_while_a_base_is_read(engine: Engine, base: Path, raw_image: Template) -> None:
    """A disk is made of it in the middle of the reading, in this very thread, which could not wait for itself."""
    made: list[Cached] = []

    def progress(_phase: str, _done: int, _total: int | None) -> None:
        if not made:
            made.append(engine.disk("web2").cache(raw_image, raw_image.name))

    assert only(engine.cache.verify(progress=progress)).found == "sound"
    assert [each.way for each in made] == ["overlay"]


def test_base_that_is_replaced_while_it_is_read_is_not_condemned(engine: Engine, base: Path) -> None:
    flip(base, 6 * Mi)

    def progress(_phase: str, _done: int, _total: int | None) -> None:
        content = base.read_bytes()
        base.unlink()
        base.write_bytes(content)

    found = only(engine.cache.verify(progress=progress))
    assert (found.found, aside(base)) == ("skipped", [])
    assert base.exists()


def test_base_whose_lock_is_held_is_skipped(engine: Engine, base: Path) -> None:
    with holding(engine.host.instances / "locks" / f"nova-{base.name}"):
        found = only(engine.cache.verify())
    assert found.found == "skipped"
    assert "lock" in found.reason


def test_reading_that_differs_from_the_next_condemns_nothing(
    engine: Engine, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad memory, not a bad disk: the second reading is sound."""
    real, calls = digests.content_digest, []

    def flaky(fd: int, progress: Progress, took: Callable[[int], None]) -> str:
        calls.append(fd)
        return "0" * 64 if len(calls) == 1 else real(fd, progress, took)

    monkeypatch.setattr(digests, "content_digest", flaky)
    found = only(engine.cache.verify())
    assert found.found == "unreadable"
    assert "memory" in found.reason
    assert (len(calls), aside(base)) == (2, [])
    assert base.exists()


def test_base_that_cannot_be_read_stays_and_is_told(
    engine: Engine, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_fd: int, _progress: Progress, _took: Callable[[int], None]) -> NoReturn:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(digests, "content_digest", broken)
    found = only(engine.cache.verify())
    assert found.found == "unreadable"
    assert base.exists()


def test_sample_takes_those_first_that_were_not_verified_for_the_longest_time(
    make_engine: MakeEngine, raw_image: Template
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    images = [raw_image.but(image_id=f"image {number}") for number in range(4)]
    for image in images:
        engine.disk(f"vm-{image.image_id[-1]}").cache(image, image.name)
    seen = [each.base.name for _ in range(2) for each in engine.cache.verify(sample=2)]
    assert sorted(seen) == sorted(image.name for image in images)
    assert [each.base.name for each in engine.cache.verify(sample=2)] == seen[:2]


def test_cancelled_verification_leaves_everything_as_it_was(engine: Engine, base: Path) -> None:
    class _Enough(Exception):
        pass

    def progress(_phase: str, _done: int, _total: int | None) -> NoReturn:
        raise _Enough

    flip(base, 6 * Mi)
    with pytest.raises(_Enough):
        engine.cache.verify(progress=progress)
    assert base.exists()
    assert not aside(base)


def test_unknown_name_is_an_error(engine: Engine, base: Path) -> None:
    with pytest.raises(errors.ConfigError, match="there is no base"):
        engine.cache.verify(["0" * 40])


def test_rate_is_kept_over_all_that_is_read() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    throttle = Throttle(10 * Mi, clock=lambda: now[0], sleep=sleep)
    asked: list[int] = []
    for number in range(50):
        throttle.took(Mi, lambda number=number: asked.append(number))  # type: ignore[misc]  # bound on purpose
    assert sum(slept) == pytest.approx(5.0, abs=0.2)
    assert max(slept) <= 0.1 + 1e-9
    assert asked, "a cancelled reading would sleep on"
    now[0] += 60
    before = sum(slept)
    for _ in range(20):
        throttle.took(Mi, lambda: None)
    assert sum(slept) - before == pytest.approx(2.0, abs=0.2), "what was not read in a minute was read at once"


def test_rate_slows_a_verification_down(engine: Engine, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def made(rate: int | None) -> Throttle:
        return Throttle(rate, clock=lambda: sum(slept), sleep=slept.append)

    monkeypatch.setattr("imgbackend.cache.verify.of_folder.Throttle", made)
    found = only(engine.cache.verify(rate=Mi))
    assert found.read == 8 * Mi, "the image of these tests has data in each MiB"
    assert sum(slept) == pytest.approx(8, abs=0.2)


def _class_of(pid: int) -> str:
    return subprocess.run(["ionice", "-p", str(pid)], check=True, capture_output=True, text=True).stdout.strip()


def test_reading_is_idle_and_what_it_was_is_restored(engine: Engine, base: Path) -> None:
    import threading

    me, seen = threading.get_native_id(), set()
    before = _class_of(me)
    engine.cache.verify(progress=lambda *_: seen.add(_class_of(me)))
    assert seen == {"idle"}
    assert _class_of(me).split(":")[0] == before.split(":")[0]


def test_verification_goes_on_where_there_is_no_ionice(
    engine: Engine, base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = engine.host.run

    def run(argv: list[str], **options: object) -> str:
        if argv[0] == "ionice":
            raise errors.ConfigError("ionice is not installed; install util-linux")
        return real(argv, **options)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(engine.host, "run", run)
    assert only(engine.cache.verify()).found == "sound"
    assert "ionice" in caplog.text


def test_holes_are_not_read(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine({"images_type": "qcow2"})
    content = sparse_raw(tmp_path / "big.raw", 1 << 30, data={0: b"begin", 3 << 28: b"there", (1 << 30) - 512: b"end"})
    image = Template(content=content, image_id="big", format="raw")
    engine.disk("web1").cache(image, image.name)
    found = only(engine.cache.verify())
    assert found.found == "sound"
    assert found.read <= 3 * Mi


def test_what_was_verified_is_counted(make_engine: MakeEngine, raw_image: Template, tmp_path: Path) -> None:
    told = {"images_type": "qcow2", "image_cache.metrics_file": str(tmp_path / "cache.prom")}
    engine = make_engine(told)
    engine.disk("web1").cache(raw_image, raw_image.name)
    engine.cache.verify()
    flip(engine.host.bases / raw_image.name, 2 * Mi)
    engine.cache.verify()
    counts = engine.host.metrics.counts()
    assert (counts["verifications"], counts["verification_failures"]) == (2, 1)
    assert counts["verified_bytes"] == 3 * 8 * Mi, "the bad one is read twice"
