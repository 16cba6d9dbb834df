"""The verified faults A to J of the peer, Nova 34, as far as raw and qcow2 have to do with them.

A (the base of a rescue disk is aged out), C (that of a second ephemeral disk), D (a lock
file goes while its base stays) and J (no bound on the cache but age) are the cache
manager's, and are tested with it; here is what disks and bases do for them.
"""

import os
import threading
from pathlib import Path

import pytest

from imgbackend import Engine, errors
from imgbackend.bases.store import generated_name
from imgbackend.state import manifests
from imgbackend.types import Cached, Gi, Mi
from labs.contents import bytes_of, entries, partial
from labs.engines import MakeEngine
from labs.images import qcow2, qemu_img
from labs.templates import Template, in_threads


def test_fault_a_and_c_every_disk_of_an_instance_counts_as_a_user_of_its_base(
    make_engine: MakeEngine, raw_image: Template, qcow2_image: Template
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    engine.disk("web1", "disk.rescue").cache(qcow2_image, qcow2_image.name)
    engine.disk("web1", "disk.eph1").cache(qcow2_image, qcow2_image.name)
    assert engine.users() == {
        raw_image.name: ["web1/disk"],
        qcow2_image.name: ["web1/disk.eph1", "web1/disk.rescue"],
    }


def test_fault_b_what_a_killed_fetch_left_is_cleared_by_the_next(
    engine: Engine, instances: Path, raw_image: Template
) -> None:
    """Also when an orphan still writes to it: it is unlinked, not truncated."""
    (instances / "_base").mkdir()
    left = [instances / "_base" / f"{raw_image.name}.{end}" for end in ("part", "converted")]
    for path in left:
        path.write_bytes(b"half of an old fetch" * 1_000_000)
    with left[0].open("r+b") as orphan:
        engine.disk("web1").cache(raw_image, raw_image.name)
        orphan.write(b"late" * 100_000)
    assert partial(instances) == set()
    assert bytes_of(engine.disk("web1")) == raw_image.content.read_bytes()


@pytest.mark.parametrize("declared", [True, False])
def test_fault_e_too_large_image_is_refused_before_conversion_and_does_not_stay(
    engine: Engine, instances: Path, tmp_path: Path, declared: bool
) -> None:
    bomb = Template(
        content=qcow2(tmp_path / "bomb", 1 << 40),
        image_id="bomb",
        format="qcow2",
        virtual_size=1 << 40 if declared else None,
    )
    told: list[str] = []
    with pytest.raises(errors.TemplateTooLarge) as caught:
        engine.disk("web1").cache(bomb, bomb.name, Gi, progress=lambda phase, *_: told.append(phase))
    assert (caught.value.needed, caught.value.allowed) == (1 << 40, Gi)
    assert set(told) == (set() if declared else {"fetch"})
    assert entries(instances) == set()


def test_fault_f_copies_of_one_image_do_not_wait_for_each_other(make_engine: MakeEngine, raw_image: Template) -> None:
    """Four copies are under way at once: each waits for the others in its midst."""
    engine = make_engine({"images_type": "raw"})
    engine.disk("web0").cache(raw_image, raw_image.name)
    all_of_them = threading.Barrier(4, timeout=60)

    def work(number: int) -> object:
        met: list[int] = []

        def progress(phase: str, done: int, total: int | None) -> None:
            if phase == "copy" and not met:
                met.append(all_of_them.wait())

        return engine.disk(f"web{number + 1}").cache(raw_image, raw_image.name, progress=progress)

    assert [type(each) for each in in_threads(4, work)] == [Cached] * 4


def test_fault_g_flat_qcow2_is_grown_as_what_it_is(
    make_engine: MakeEngine, instances: Path, qcow2_image: Template
) -> None:
    engine = make_engine({"images_type": "raw", "force_raw_images": False})
    engine.disk("web1").cache(qcow2_image, qcow2_image.name, Gi)
    path = instances / "web1" / "disk"
    assert path.stat().st_size < 16 * Mi
    qemu_img("check", "-q", "-f", "qcow2", str(path))
    assert engine.disk("web1").info().size == Gi


def test_fault_h_file_systems_that_differ_in_anything_have_bases_of_their_own(
    make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = make_engine({"images_type": "qcow2"})
    kinds = [
        ("ext4", "ephemeral0", "mkfs.ext4"),
        ("vfat", "ephemeral0", "mkfs.vfat"),
        ("ext4", "ephemeral1", "mkfs.ext4"),
        ("ext4", "ephemeral0", "mkfs.ext4 -O ^metadata_csum"),
    ]
    for number, kind in enumerate(kinds):
        path = tmp_path / f"fs{number}"
        path.write_bytes(os.urandom(Mi))
        template = Template(content=path, image_id="", role="generated")
        disk = engine.disk("web1", f"disk.eph{number}")
        disk.cache(template, generated_name("fs", Mi, *kind), Mi)
        assert bytes_of(disk) == path.read_bytes()
    assert len(list(engine.bases())) == len(kinds)


def test_fault_i_a_base_that_changed_is_seen_at_its_next_use(
    engine: Engine, instances: Path, raw_image: Template, raw_content: Path
) -> None:
    """What it was is on record: source, formats, digests, size and content."""
    engine.disk("web1").cache(raw_image, raw_image.name)
    base = instances / "_base" / raw_image.name
    made = manifests.read(base)
    assert made is not None
    assert (made.image_id, made.source) == (raw_image.image_id, "test:raw-image")
    assert (made.delivered_format, made.delivered_size) == ("raw", 8 * Mi)
    assert made.digest is not None
    base.chmod(0o640)
    with base.open("r+b") as file:
        file.write(b"rot")
    disk = engine.disk("web2")
    assert disk.cache(raw_image, raw_image.name).fetched is True
    assert bytes_of(disk) == raw_content.read_bytes()


@pytest.mark.parametrize("algorithm", ["sha512", "sha256", "md5"])
def test_fault_i_bytes_that_are_not_those_of_the_source_are_refused(
    engine: Engine, instances: Path, raw_image: Template, algorithm: str
) -> None:
    import hashlib

    good = hashlib.new(algorithm, raw_image.content.read_bytes(), usedforsecurity=False).hexdigest()
    wrong = raw_image.but(digests=((algorithm, "0" * len(good)),))
    with pytest.raises(errors.TemplateCorrupt, match=algorithm):
        engine.disk("web1").cache(wrong, wrong.name)
    assert entries(instances) == set()
    right = raw_image.but(digests=((algorithm, good.upper()),))
    assert engine.disk("web2").cache(right, right.name).fetched is True


@pytest.mark.parametrize("size", [8 * Mi - 1, 8 * Mi + 1])
def test_fault_i_more_or_fewer_bytes_than_declared_are_refused(
    engine: Engine, instances: Path, raw_image: Template, size: int
) -> None:
    with pytest.raises(errors.TemplateCorrupt, match=f"its source says {size}"):
        engine.disk("web1").cache(raw_image.but(size=size), raw_image.name)
    assert entries(instances) == set()
