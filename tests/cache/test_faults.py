"""The peer's faults E to I, by name (A to D and J are in test_prune.py), and a host that is not as one would wish."""

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.conftest import DAY, actions, age
from cache.test_prune import base_of
from cache.test_verify import flip, only
from imgbackend import Engine, errors
from imgbackend.bases.store import generated_name
from imgbackend.state import manifests
from imgbackend.types import Mi
from labs.contents import bytes_of, guest_view, partial
from labs.engines import MakeEngine
from labs.images import qcow2, qemu_img, scattered, sparse_raw
from labs.templates import Template

pytestmark = pytest.mark.slow


def test_fault_e_image_that_is_too_large_is_refused_before_it_is_converted_and_leaves_nothing(
    engine: Engine, qcow2_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, run = engine.host.run, list[str]()

    def watched(argv: list[str], **options: Any) -> str:
        run.extend(argv[:2])
        return real(argv, **options)

    monkeypatch.setattr(engine.host, "run", watched)
    with pytest.raises(errors.TemplateTooLarge):
        engine.disk("web1").cache(qcow2_image, qcow2_image.name, 4 * Mi)
    assert qcow2_image.fetches == 1
    assert "convert" not in run
    assert list(engine.bases()) == []
    assert not partial(engine.host.instances)


def test_fault_f_copies_of_one_image_do_not_wait_for_each_other(make_engine: MakeEngine, raw_image: Template) -> None:
    """While one disk is being copied, another of the same base is made from beginning to end."""
    engine, done = make_engine({"images_type": "raw"}), list[str]()
    engine.disk("first").cache(raw_image, raw_image.name)
    backend: Any = engine.backend()
    if backend.reflinks:
        pytest.skip("nothing is copied here: the file system shares blocks")

    def other() -> None:
        engine.disk("web2").cache(raw_image, raw_image.name)
        done.append("web2")

    def progress(phase: str, _done: int, _total: int | None) -> None:
        if phase == "copy" and not done:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(60)
            assert done, "it waits for the first copy"

    engine.disk("web1").cache(raw_image, raw_image.name, progress=progress)
    assert done == ["web2"]
    assert bytes_of(engine.disk("web1")) == bytes_of(engine.disk("web2"))


def test_fault_g_flat_container_is_grown_as_one_and_not_padded(make_engine: MakeEngine, qcow2_image: Template) -> None:
    engine = make_engine({"images_type": "raw", "force_raw_images": False})
    disk = engine.disk("web1")
    disk.cache(qcow2_image, qcow2_image.name, 64 * Mi)
    disk.resize(128 * Mi)
    path = engine.host.instances / "web1" / "disk"
    assert disk.info().format == "qcow2"
    assert disk.info().size == 128 * Mi
    assert path.stat().st_size < 64 * Mi, "zeroes were written after the container"
    assert json.loads(qemu_img("info", "--output=json", "-f", "qcow2", str(path)))["virtual-size"] == 128 * Mi
    qemu_img("check", "-q", "-f", "qcow2", str(path))
    whole = guest_view(qcow2_image.content, "qcow2")
    assert guest_view(path, "qcow2") == whole + bytes(128 * Mi - len(whole))


def test_fault_h_file_systems_that_differ_in_kind_or_label_have_bases_of_their_own(
    engine: Engine, raw_image: Template, tmp_path: Path
) -> None:
    bases = set()
    for number, (kind, label) in enumerate([("ext4", "ephemeral0"), ("ext4", "ephemeral1"), ("vfat", "ephemeral0")]):
        content = sparse_raw(tmp_path / f"{number}.raw", Mi, data={0: f"{kind} {label}".encode()})
        name = generated_name("ephemeral", Mi, kind, label, f"mkfs.{kind}")
        engine.disk("web1", f"disk.eph{number}").cache(
            raw_image.but(content=content, role="generated", image_id=""), name
        )
        assert bytes_of(engine.disk("web1", f"disk.eph{number}")) == content.read_bytes()
        bases.add(name)
    assert {base.name for base in engine.bases()} == bases
    assert len(bases) == 3


@pytest.mark.parametrize("how", ["truncated", "replaced", "first block changed"])
def test_fault_i_damage_is_caught_before_a_new_disk_is_made(engine: Engine, raw_image: Template, how: str) -> None:
    content = raw_image.content.read_bytes()
    base = base_of(engine, raw_image)
    base.chmod(0o600)
    if how == "truncated":
        os.truncate(base, 5 * Mi)
    elif how == "replaced":
        base.unlink()
        base.write_bytes(bytes(8 * Mi))
    else:
        flip(base, 40_000)
    assert engine.disk("web1").cache(raw_image, raw_image.name).fetched
    assert bytes_of(engine.disk("web1")) == content


def test_fault_i_flipped_bit_is_found_by_the_next_verification(engine: Engine, raw_image: Template) -> None:
    """And a reading that costs nothing cannot see it: that is what verifications are for."""
    base = base_of(engine, raw_image)
    flip(base, 6 * Mi + 3)
    assert not engine.disk("web1").cache(raw_image, raw_image.name).fetched
    assert only(engine.cache.verify()).found == "bad"


# A host that is not as one would wish


def test_clock_that_jumps_forwards_takes_no_base_from_a_disk(engine: Engine, raw_image: Template) -> None:
    """All looks as if it had not been used for years: what is used stays, and what is not goes, as it may."""
    engine.disk("web1").cache(raw_image, raw_image.name)
    unused = base_of(engine, raw_image.but(image_id="unused"))
    for path in (engine.host.bases / raw_image.name, unused):
        age(path, 4000 * DAY)
    assert actions(engine) == {("local", raw_image.name): "kept", ("local", unused.name): "removed"}
    assert bytes_of(engine.disk("web1")) == raw_image.content.read_bytes()


def test_clock_that_jumps_backwards_lets_all_stay_and_begins_anew(engine: Engine, raw_image: Template) -> None:
    unused = base_of(engine, raw_image)
    age(unused, -4000 * DAY)
    assert actions(engine) == {("local", unused.name): "kept"}
    age(unused, 25 * 3600)
    assert actions(engine) == {("local", unused.name): "removed"}


def test_failure_that_was_told_before_the_clock_was_set_back_is_not_told_again(
    engine: Engine, raw_image: Template
) -> None:
    folder = engine.host.instances / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    told = {"kind": "SourceUnavailable", "message": "down", "time": 4e9, "needed": None, "allowed": None, "limit": None}
    (folder / f"{raw_image.name}.failed").write_text(json.dumps(told))
    assert engine.disk("web1").cache(raw_image, raw_image.name).fetched


def test_pass_over_a_full_file_system_frees_what_it_may(
    make_engine: MakeEngine, raw_image: Template, small_tmpfs: Callable[[int], Path]
) -> None:
    place = small_tmpfs(24 * Mi)
    engine = make_engine({"instances_path": str(place), "images_type": "qcow2"})
    engine.disk("web1").cache(raw_image, raw_image.name)
    unused = base_of(engine, raw_image.but(image_id="unused"))
    age(unused, 9 * DAY)
    (place / "_base" / f"{'a' * 40}.part").write_bytes(b"left")
    os.utime(place / "_base" / f"{'a' * 40}.part", (0, 0))
    with Filled(place):
        assert os.statvfs(place).f_bavail == 0
        done = engine.cache.prune()
        assert [each.action for each in done.outcomes if each.base.name == unused.name] == ["removed"]
        assert [each.removed for each in done.leftovers] == [True]
    assert not unused.exists()
    assert bytes_of(engine.disk("web1")) == raw_image.content.read_bytes()


class Filled:
    """A file system without a free block."""

    def __init__(self, place: Path) -> None:
        self._path = place / "ballast"

    def __enter__(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            for step in (Mi, 4096):
                try:
                    while True:
                        file.write(bytes(step))
                except OSError:
                    continue

    def __exit__(self, *exc: object) -> None:
        self._path.unlink()


def test_entries_that_cannot_be_read_stop_the_pass_and_nothing_is_lost(
    engine: Engine, raw_image: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of an instance that gives EIO: what is in it may hang on any base."""
    unused = base_of(engine, raw_image)
    age(unused, 9 * DAY)
    engine.disk("web1").cache(raw_image.but(image_id="used"), raw_image.but(image_id="used").name)
    real, broken = os.scandir, str(engine.host.instances / "web1")

    def scandir(path: Any = ".") -> Any:
        if str(path) == broken:
            raise OSError(5, "Input/output error", broken)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    done = engine.cache.prune()
    assert {each.action for each in done.outcomes} == {"kept"}
    assert any("Input/output error" in fault for fault in done.faults)
    monkeypatch.undo()
    assert [each.action for each in engine.cache.prune().outcomes if each.base.name == unused.name] == ["removed"]


def test_verification_of_a_full_file_system_is_told_and_condemns_nothing(
    make_engine: MakeEngine, tmp_path: Path, small_tmpfs: Callable[[int], Path]
) -> None:
    """A qcow2 is read into a file without a name, for which there is no room: that says nothing of the base."""
    place = small_tmpfs(8 * Mi)
    engine = make_engine({"instances_path": str(place), "images_type": "qcow2", "force_raw_images": False})
    raw = sparse_raw(tmp_path / "content.raw", 6 * Mi, data=scattered(6 * Mi, 0.9, extent=64 << 10))
    image = Template(content=qcow2(tmp_path / "content.qcow2", 6 * Mi, content=raw), image_id="q", format="qcow2")
    engine.disk("web1").cache(image, image.name)
    found = only(engine.cache.verify())
    assert found.found == "unreadable"
    assert "no space" in found.reason
    manifest = manifests.read(engine.host.bases / image.name)
    assert manifest is not None
    assert manifest.digest is None
    subprocess.run(["qemu-img", "check", "-q", str(engine.host.bases / image.name)], check=True, timeout=60)
