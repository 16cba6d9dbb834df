"""What every driver promises of a disk that it makes of an image."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.types import DiskInfo, Gi, Ki, Mi, base_name
from labs.contents import bytes_of, entries, write_as_guest
from labs.engines import MakeEngine
from labs.images import qcow2, sparse_raw
from labs.templates import Template


@pytest.fixture(params=["raw", "qcow2"])
def image(request: pytest.FixtureRequest) -> Template:
    """8 MiB, delivered as raw or as qcow2."""
    found: Template = request.getfixturevalue(f"{request.param}_image")
    return found


def test_disk_is_the_image_then_zeroes(engine: Engine, image: Template, raw_content: Path) -> None:
    disk = engine.disk("web1")
    cached = disk.cache(image, image.name, 12 * Mi)
    assert bytes_of(disk) == raw_content.read_bytes() + bytes(4 * Mi)
    assert (cached.size, cached.base, cached.fetched) == (12 * Mi, image.name, True)
    assert disk.info().size == 12 * Mi


def test_disk_without_a_size_is_as_large_as_the_image(engine: Engine, image: Template, raw_content: Path) -> None:
    disk = engine.disk("web1")
    assert disk.cache(image, image.name).size == 8 * Mi
    assert bytes_of(disk) == raw_content.read_bytes()


@pytest.mark.parametrize(
    ("asked", "made"),
    [(8 * Mi, 0), (8 * Mi + 1, 512), (8 * Mi + 511, 512), (8 * Mi + 512, 512), (8 * Mi + 513, 1024)],
)
def test_size_is_rounded_up_to_whole_sectors_and_told_so(
    engine: Engine, raw_image: Template, raw_content: Path, asked: int, made: int
) -> None:
    disk = engine.disk("web1")
    cached = disk.cache(raw_image, raw_image.name, asked)
    assert cached.size == disk.info().size == 8 * Mi + made
    assert bytes_of(disk) == raw_content.read_bytes() + bytes(made)
    again = disk.cache(raw_image, raw_image.name, asked)
    assert (again.way, again.grown, again.size) == ("exists", False, cached.size)


@pytest.mark.parametrize("length", [1, 511, 512, 513, 64 * Ki - 1, 64 * Ki + 1])
def test_image_of_odd_length_becomes_whole_sectors(engine: Engine, tmp_path: Path, length: int) -> None:
    content = b"\x01" + os.urandom(length - 1)
    path = tmp_path / "odd"
    path.write_bytes(content)
    odd = Template(content=path, image_id=f"odd-{length}", format="raw")
    disk = engine.disk("web1")
    whole = -(-length // 512) * 512
    assert disk.cache(odd, odd.name).size == whole
    assert bytes_of(disk) == content.ljust(whole, b"\0")


@pytest.mark.parametrize("size", [0, -1, -(8 * Mi)])
def test_what_is_no_size_is_refused(engine: Engine, raw_image: Template, size: int) -> None:
    with pytest.raises(errors.DiskError, match="no size"):
        engine.disk("web1").cache(raw_image, raw_image.name, size)
    assert raw_image.fetches == 0


@pytest.mark.parametrize("name", ["", "disk", "../x", "a" * 39, "A" * 40, "/etc/passwd", "a" * 40 + "\n"])
def test_what_is_no_name_of_a_base_is_refused(engine: Engine, instances: Path, raw_image: Template, name: str) -> None:
    with pytest.raises(errors.DiskError, match="name for a base"):
        engine.disk("web1").cache(raw_image, name)
    assert entries(instances) == set()


def test_image_under_the_name_of_another_is_refused(engine: Engine, instances: Path, raw_image: Template) -> None:
    with pytest.raises(errors.DiskError, match=raw_image.image_id):
        engine.disk("web1").cache(raw_image, base_name("another"))
    assert entries(instances) == set()


def test_second_disk_does_not_fetch(engine: Engine, image: Template) -> None:
    first = engine.disk("web1").cache(image, image.name)
    second = engine.disk("web2").cache(image, image.name)
    assert (first.fetched, second.fetched, image.fetches) == (True, False, 1)
    assert first.way == second.way


def test_two_disks_share_no_writes_and_the_base_is_never_written(
    engine: Engine, instances: Path, images_type: str, raw_image: Template, raw_content: Path
) -> None:
    disks = [engine.disk("web1"), engine.disk("web2"), engine.disk("web1", "disk.eph0")]
    for disk in disks[:2]:
        disk.cache(raw_image, raw_image.name)
    base = instances / "_base" / raw_image.name
    before = (base.read_bytes(), base.stat().st_ino)
    write_as_guest(instances / "web1" / "disk", images_type, 0, b"w" * 512)
    disks[2].cache(raw_image, raw_image.name)
    assert bytes_of(disks[0])[:512] == b"w" * 512
    assert bytes_of(disks[1]) == bytes_of(disks[2]) == raw_content.read_bytes()
    for disk in disks:
        disk.resize(9 * Mi)
    assert (base.read_bytes(), base.stat().st_ino) == before


def test_disk_that_exists_is_kept_as_it_is(engine: Engine, instances: Path, images_type: str, image: Template) -> None:
    disk = engine.disk("web1")
    disk.cache(image, image.name, 9 * Mi)
    write_as_guest(instances / "web1" / "disk", images_type, 4096, b"w" * 512)
    before = bytes_of(disk)
    for size in (None, 8 * Mi, 9 * Mi, Mi):
        cached = disk.cache(image, image.name, size)
        assert (cached.way, cached.fetched, cached.grown, cached.size) == ("exists", False, False, 9 * Mi)
    assert bytes_of(disk) == before
    assert image.fetches == 1


def test_disk_that_is_smaller_is_grown_and_its_new_part_is_zeroes(engine: Engine, image: Template) -> None:
    disk = engine.disk("web1")
    disk.cache(image, image.name, 9 * Mi)
    before = bytes_of(disk)
    cached = disk.cache(image, image.name, 11 * Mi)
    assert (cached.way, cached.grown, cached.size) == ("exists", True, 11 * Mi)
    assert bytes_of(disk) == before + bytes(2 * Mi)


def test_existing_disk_needs_neither_source_nor_base_facts(
    make_engine: MakeEngine, images_type: str, raw_image: Template
) -> None:
    make_engine({"images_type": images_type}).disk("web1").cache(raw_image, raw_image.name)

    def down(target: Path, progress: object) -> None:
        raise errors.SourceUnavailable("down")

    cached = make_engine({"images_type": images_type}).disk("web1").cache(raw_image.but(before=down), raw_image.name)
    assert cached.way == "exists"


@pytest.mark.parametrize("declared", ["virtual_size", "size", "min_disk"])
def test_too_large_by_declaration_is_refused_before_a_byte_is_fetched(
    engine: Engine, instances: Path, raw_image: Template, declared: str
) -> None:
    large = raw_image.but(**{declared: 8 * Mi})
    with pytest.raises(errors.TemplateTooLarge) as caught:
        engine.disk("web1").cache(large, large.name, 4 * Mi)
    assert (caught.value.needed, caught.value.allowed) == (8 * Mi, 4 * Mi)
    assert large.fetches == 0
    assert entries(instances) == set()


def test_min_disk_counts_also_for_a_base_that_is_cached(engine: Engine, raw_image: Template) -> None:
    wants = raw_image.but(min_disk=16 * Mi)
    engine.disk("web1").cache(wants, wants.name)
    with pytest.raises(errors.TemplateTooLarge) as caught:
        engine.disk("web2").cache(wants, wants.name, 8 * Mi)
    assert caught.value.needed == 16 * Mi


@pytest.mark.parametrize("stage", ["of the disk", "of this host"])
def test_too_large_container_is_refused_before_it_is_converted(
    make_engine: MakeEngine, images_type: str, instances: Path, tmp_path: Path, stage: str
) -> None:
    """Not even 4 KiB of the 8 TiB that it says it has are written."""
    bomb = Template(content=qcow2(tmp_path / "bomb", 8 << 40), image_id="bomb", format="qcow2")
    engine = make_engine(
        {"images_type": images_type, "max_image_virtual_size": (4 if stage == "of this host" else 16) << 40}
    )
    told: list[str] = []
    with pytest.raises(errors.TemplateTooLarge) as caught:
        engine.disk("web1").cache(
            bomb,
            bomb.name,
            None if stage == "of this host" else Gi,
            progress=lambda phase, *_: told.append(phase),
        )
    assert caught.value.needed == 8 << 40
    assert "convert" not in told
    assert bomb.fetches == 1
    assert entries(instances) == set()


def test_failed_fetch_leaves_nothing(engine: Engine, instances: Path, raw_image: Template) -> None:
    def broken(target: Path, progress: object) -> None:
        target.write_bytes(b"half of")
        raise errors.SourceUnavailable("it broke off")

    with pytest.raises(errors.SourceUnavailable, match="broke off"):
        engine.disk("web1").cache(raw_image.but(before=broken), raw_image.name)
    assert entries(instances) == set()
    assert engine.disk("web1").exists() is False


@pytest.mark.parametrize("raised", [RuntimeError("theirs"), KeyboardInterrupt(), errors.SourceDenied("no")])
def test_what_a_fetch_raises_passes_through_and_leaves_nothing(
    engine: Engine, instances: Path, raw_image: Template, raised: BaseException
) -> None:
    def fails(target: Path, progress: object) -> None:
        target.write_bytes(b"half of")
        raise raised

    with pytest.raises(type(raised)) as caught:
        engine.disk("web1").cache(raw_image.but(before=fails), raw_image.name)
    assert caught.value is raised
    assert entries(instances) == set()


@pytest.mark.parametrize("phase", ["fetch", "convert", "digest", "copy"])
def test_progress_that_raises_cancels_and_leaves_nothing(
    engine: Engine, instances: Path, images_type: str, qcow2_image: Template, phase: str
) -> None:
    raised = OSError(28, "a caller's own")

    def cancel(now: str, done: int, total: int | None) -> None:
        if now == phase:
            raise raised

    disk = engine.disk("web1")
    if phase == "copy" and images_type == "qcow2":
        disk.cache(qcow2_image, qcow2_image.name, progress=cancel)  # an overlay copies nothing
        return
    with pytest.raises(OSError, match="a caller's own") as caught:
        disk.cache(qcow2_image, qcow2_image.name, progress=cancel)
    assert caught.value is raised
    shared = {f"_base/{qcow2_image.name}", f"_base/{qcow2_image.name}.json"} if phase == "copy" else set()
    assert entries(instances) == shared
    assert disk.cache(qcow2_image, qcow2_image.name).way != "exists"


def test_cache_from_inside_its_own_progress_is_refused(
    engine: Engine, raw_image: Template, qcow2_image: Template
) -> None:
    asked: list[str] = []

    def inside(other: str, image: Template) -> Callable[[str, int, int | None], None]:
        def progress(phase: str, done: int, total: int | None) -> None:
            asked.append(phase)
            engine.disk(other).cache(image, image.name)

        return progress

    for other, image in (("web1", raw_image), ("web2", raw_image), ("web2", qcow2_image)):
        with pytest.raises(errors.DiskBusy, match="inside another"):
            engine.disk("web1").cache(raw_image, raw_image.name, progress=inside(other, image))
    assert asked == ["fetch"] * 3
    engine.disk("web1").cache(raw_image, raw_image.name)
    engine.disk("web2").cache(raw_image, raw_image.name)


def test_looking_from_inside_progress_is_allowed(engine: Engine, raw_image: Template) -> None:
    seen: list[bool] = []
    engine.disk("web1").cache(raw_image, raw_image.name, progress=lambda *_: seen.append(engine.disk("web1").exists()))
    assert seen
    assert set(seen) == {False}


def test_explain_says_what_create_will_do_and_does_nothing(
    engine: Engine, instances: Path, images_type: str, raw_image: Template
) -> None:
    disk = engine.disk("web1")
    plan = disk.explain(raw_image, raw_image.name, Gi)
    assert plan is not None
    assert raw_image.fetches == 0
    assert entries(instances) == set()
    made = disk.cache(raw_image, raw_image.name, Gi)
    assert (plan.way, plan.reason) == (made.way, made.reason)
    assert disk.explain(raw_image, raw_image.name, Gi) is None


def test_explain_refuses_what_create_refuses(engine: Engine, raw_image: Template) -> None:
    with pytest.raises(errors.TemplateTooLarge):
        engine.disk("web1").explain(raw_image.but(virtual_size=Gi), raw_image.name, Mi)
    engine.disk("web1").cache(raw_image, raw_image.name)
    with pytest.raises(errors.TemplateTooLarge):
        engine.disk("web2").explain(raw_image, raw_image.name, Mi)


def test_absent_disk_is_absent_for_all_who_look(engine: Engine) -> None:
    disk = engine.disk("web1")
    assert disk.exists() is False
    assert list(engine.disks()) == []
    with pytest.raises(errors.DiskNotFound, match="web1/disk"):
        disk.info()
    with pytest.raises(errors.DiskNotFound):
        disk.resize(Mi)


def test_remove_takes_the_disk_its_record_and_its_lock_and_twice_is_no_error(
    engine: Engine, instances: Path, raw_image: Template
) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    assert [str(found.id) for found in engine.disks()] == ["web1/disk"]
    disk.remove()
    disk.remove()
    assert disk.exists() is False
    assert entries(instances) == {f"_base/{raw_image.name}", f"_base/{raw_image.name}.json"}
    assert not (instances / "web1").exists()
    assert disk.cache(raw_image, raw_image.name).way != "exists"


def test_remove_takes_what_a_killed_creation_left(engine: Engine, instances: Path, raw_image: Template) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    (instances / "web1" / ".disk.part").write_bytes(b"left")
    disk.remove()
    assert not (instances / "web1").exists()


def test_resize_grows_and_never_shrinks(engine: Engine, raw_image: Template, raw_content: Path) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name)
    disk.resize(8 * Mi + 1)
    assert disk.info().size == 8 * Mi + 512
    disk.resize(8 * Mi + 512)
    with pytest.raises(errors.DiskError, match="not shrunk"):
        disk.resize(8 * Mi)
    with pytest.raises(errors.DiskError, match="no size"):
        disk.resize(0)
    disk.resize(10 * Mi)
    assert bytes_of(disk) == raw_content.read_bytes() + bytes(2 * Mi)


def test_info_counts_what_the_disk_itself_takes(
    engine: Engine, images_type: str, raw_image: Template, tmp_path: Path
) -> None:
    disk = engine.disk("web1")
    disk.cache(raw_image, raw_image.name, Gi)
    info = disk.info()
    assert isinstance(info, DiskInfo)
    assert (info.format, info.size) == (images_type, Gi)
    if images_type == "raw":
        assert info.allocated >= 2 * Mi
    else:
        assert info.allocated < Mi


def test_record_tells_what_the_disk_was_made_of(engine: Engine, images_type: str, raw_image: Template) -> None:
    cached = engine.disk("web1").cache(raw_image, raw_image.name)
    record = engine.disk("web1").recorded
    [base] = engine.bases()
    assert record is not None
    assert base.manifest is not None
    assert (record.backend, record.driver, record.format) == (images_type,) * 3
    assert (record.image_id, record.base, record.way) == ("raw-image", raw_image.name, cached.way)
    assert record.digest == base.manifest.digest is not None


def test_instances_path_may_have_any_character(
    make_engine: MakeEngine, images_type: str, tmp_path: Path, raw_image: Template, raw_content: Path
) -> None:
    place = tmp_path / "a, b:c 'd' \"e\" %s {f} json:\\"
    engine = make_engine({"images_type": images_type, "instances_path": str(place)})
    for instance in ("web1", "web2"):
        disk = engine.disk(instance)
        disk.cache(raw_image, raw_image.name, 9 * Mi)
        disk.resize(10 * Mi)
    disk.extract(tmp_path / "out, put:raw", "raw")
    assert (tmp_path / "out, put:raw").read_bytes() == raw_content.read_bytes() + bytes(2 * Mi)


def test_sparse_image_stays_sparse(engine: Engine, tmp_path: Path) -> None:
    """A terabyte of holes costs neither room nor time."""
    huge = Template(content=sparse_raw(tmp_path / "huge", 1 << 40, data={0: b"boot"}), image_id="huge", format="raw")
    disk = engine.disk("web1")
    cached = disk.cache(_Sparse(huge), huge.name)
    assert cached.size == 1 << 40
    assert disk.info().allocated < Mi


class _Sparse:
    """Puts down the same file without reading its holes."""

    role = "image"

    def __init__(self, template: Template) -> None:
        self.declared, self._content = template.declared, template.content

    def __call__(self, target: Path, progress: object, /) -> None:
        sparse_raw(target, self._content.stat().st_size, data={0: b"boot"})
