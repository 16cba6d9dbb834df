"""The way in: what a source delivers, and what is kept of a download that broke."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.types import Delivered, Progress
from labs.contents import bytes_of, entries, partial
from labs.engines import MakeEngine
from labs.templates import Template


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    return make_engine({"images_type": "qcow2"})


@dataclass(frozen=True, kw_only=True)
class Resumable(Template):
    """Goes on where it broke; ``breaks`` says after how many bytes the first fetch breaks, and how."""

    breaks: BaseException | None = None
    resumable: bool = True

    def __call__(self, target: Path, progress: Progress, /) -> Delivered | None:
        with self._log.open("ab") as log:
            log.write(b".")
        have = target.stat().st_size if target.exists() else 0
        data = self.content.read_bytes()
        with target.open("ab") as file:
            file.write(data[have : have + len(data) // 2] if self.breaks else data[have:])
        if self.breaks:
            raise self.breaks
        return Delivered(size=len(data), digests=(("sha256", hashlib.sha256(target.read_bytes()).hexdigest()),))


@pytest.fixture
def resumable(raw_content: Path) -> Resumable:
    digest = hashlib.sha256(raw_content.read_bytes()).hexdigest()
    return Resumable(
        content=raw_content,
        image_id="resumable",
        format="raw",
        digests=(("sha256", digest),),
        breaks=errors.SourceUnavailable("it broke off"),
    )


def test_download_that_broke_is_kept_and_gone_on_with(
    engine: Engine, instances: Path, resumable: Resumable, raw_content: Path
) -> None:
    with pytest.raises(errors.SourceUnavailable):
        engine.disk("web1").cache(resumable, resumable.name)
    part = instances / "_base" / f"{resumable.name}.part"
    assert part.stat().st_size == raw_content.stat().st_size // 2
    disk = engine.disk("web1")
    disk.cache(resumable.but(breaks=None), resumable.name)
    assert bytes_of(disk) == raw_content.read_bytes()
    assert partial(instances) == set()


def test_beginning_of_other_bytes_is_found_out_by_the_digest_and_not_kept(
    engine: Engine, instances: Path, resumable: Resumable, raw_content: Path
) -> None:
    part = instances / "_base" / f"{resumable.name}.part"
    part.parent.mkdir()
    part.write_bytes(b"wrong" * 100)
    with pytest.raises(errors.TemplateCorrupt, match="sha256"):
        engine.disk("web1").cache(resumable.but(breaks=None), resumable.name)
    assert not part.exists()
    disk = engine.disk("web2")
    disk.cache(resumable.but(breaks=None), resumable.name)
    assert bytes_of(disk) == raw_content.read_bytes()


@pytest.mark.parametrize("breaks", [errors.SourceDenied("no"), KeyboardInterrupt(), RuntimeError("theirs")])
def test_download_that_was_refused_or_cancelled_is_not_kept(
    engine: Engine, instances: Path, resumable: Resumable, breaks: BaseException
) -> None:
    with pytest.raises(type(breaks)):
        engine.disk("web1").cache(resumable.but(breaks=breaks), resumable.name)
    assert entries(instances) == set()


def test_download_that_cannot_be_resumed_begins_anew(engine: Engine, instances: Path, raw_image: Template) -> None:
    part = instances / "_base" / f"{raw_image.name}.part"
    part.parent.mkdir()
    part.write_bytes(b"left by a killed run")
    seen: list[bool] = []
    image = raw_image.but(before=lambda target, _: seen.append(target.exists()))
    engine.disk("web1").cache(image, image.name)
    assert seen == [False]


def test_source_that_delivers_nothing_is_unavailable(engine: Engine, instances: Path, raw_image: Template) -> None:
    def nothing(target: Path, progress: Progress) -> None:
        return

    with pytest.raises(errors.SourceUnavailable, match="delivered nothing"):
        engine.disk("web1").cache(nothing, raw_image.name)
    assert entries(instances) == set()


def test_empty_image_is_corrupt(engine: Engine, instances: Path, raw_image: Template) -> None:
    with pytest.raises(errors.TemplateCorrupt, match="empty"):
        engine.disk("web1").cache(lambda target, _: target.touch(), raw_image.name)
    assert entries(instances) == set()


def test_any_callable_will_do(engine: Engine, raw_image: Template, raw_content: Path) -> None:
    """With nothing declared it is an image, and inspected as one."""

    def fetch(target: Path, progress: Progress) -> None:
        target.write_bytes(raw_content.read_bytes())

    disk = engine.disk("web1")
    assert disk.cache(fetch, raw_image.name).fetched is True
    assert bytes_of(disk) == raw_content.read_bytes()
    [base] = engine.bases()
    assert base.manifest is not None
    assert base.manifest.image_id is None


def test_link_that_a_source_puts_down_is_not_followed(
    engine: Engine, instances: Path, raw_image: Template, tmp_path: Path
) -> None:
    """The base would be somebody else's file, given other modes."""
    mine = tmp_path / "mine"
    mine.write_bytes(os.urandom(4096))
    mine.chmod(0o600)
    with pytest.raises(errors.Error):
        engine.disk("web1").cache(lambda target, _: target.symlink_to(mine), raw_image.name)
    assert mine.stat().st_mode & 0o777 == 0o600
    assert entries(instances) == set()


@pytest.mark.parametrize("declared", ["ami", "aki", "ari", "raw", "iso", None])
def test_formats_that_mean_raw_are_raw(engine: Engine, raw_image: Template, raw_content: Path, declared: str) -> None:
    if declared == "iso":
        with pytest.raises(errors.TemplateUnsafe, match="declared as iso"):
            engine.disk("web1").cache(raw_image.but(format=declared), raw_image.name)
        return
    disk = engine.disk("web1")
    disk.cache(raw_image.but(format=declared), raw_image.name)
    assert bytes_of(disk) == raw_content.read_bytes()


def test_base_that_is_kept_is_touched_by_nobody_but_time(
    make_engine: MakeEngine, images_type: str, raw_image: Template, instances: Path
) -> None:
    engine = make_engine({"images_type": images_type})
    engine.disk("web1").cache(raw_image, raw_image.name)
    base = instances / "_base" / raw_image.name
    before = (base.stat().st_ino, base.stat().st_ctime_ns, base.read_bytes())
    engine.disk("web1").info()
    engine.disk("web1").resize(64 << 20)
    list(engine.bases())
    engine.disk("web1").remove()
    assert (base.stat().st_ino, base.stat().st_ctime_ns, base.read_bytes()) == before
