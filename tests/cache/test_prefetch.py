"""Fetched beforehand: by the way on which a disk has it fetched, once, whoever wants it too."""

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.conftest import DAY, age, names
from imgbackend import Engine, errors
from imgbackend.cache.prefetch import Prefetched
from imgbackend.types import Mi, base_name
from labs.contents import bytes_of, entries
from labs.engines import MakeEngine
from labs.glance import Glance
from labs.templates import in_threads

pytestmark = pytest.mark.slow


def image(folder: Path, name: str = "tiny.raw", size: int = 2 * Mi) -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def statuses(done: list[Prefetched]) -> list[str]:
    return [each.status for each in done]


def test_image_is_fetched_and_then_is_there(engine: Engine, tmp_path: Path) -> None:
    path = image(tmp_path)
    [done] = engine.cache.prefetch([str(path)])
    assert (done.status, done.store, done.reason) == ("cached", None, "")
    assert done.base in names(engine)
    assert engine.image(str(path)).id == done.image_id
    assert statuses(engine.cache.prefetch([str(path)])) == ["existing"]
    wanted = engine.image(str(path))
    made = engine.disk("web1").cache(wanted, wanted.filename)
    assert not made.fetched
    assert bytes_of(engine.disk("web1")) == path.read_bytes()


def test_use_is_noted_so_that_no_pass_removes_it(engine: Engine, tmp_path: Path) -> None:
    ref = str(image(tmp_path))
    [done] = engine.cache.prefetch([ref])
    assert done.base is not None
    path = engine.host.bases / done.base
    age(path, 9 * DAY)
    engine.cache.prefetch([ref])
    assert [each.action for each in engine.cache.prune().outcomes] == ["kept"]


def test_failure_of_one_is_told_and_the_others_are_fetched(engine: Engine, tmp_path: Path) -> None:
    good, bad = image(tmp_path), tmp_path / "bad.qcow2"
    bad.write_bytes(b"QFI\xfb" + bytes(100))
    done = engine.cache.prefetch([str(tmp_path / "none"), str(good), str(bad), str(good), "\0"], at_once=3)
    assert statuses(done) == ["failed", "cached", "failed", "failed"]
    assert "none" in done[0].reason
    assert done[0].image_id is None
    assert done[2].image_id is not None
    assert all("\n" not in each.reason for each in done)
    assert len(names(engine)) == 1
    assert not {name for name in entries(engine.host.instances) if ".part" in name}


def test_unknown_backend_is_refused(engine: Engine) -> None:
    with pytest.raises(errors.ConfigError):
        engine.cache.prefetch(["x"], "nothing")


def test_base_goes_into_the_store_that_holds_bases(able_engine: Engine, tmp_path: Path) -> None:
    ref = str(image(tmp_path))
    [done] = able_engine.cache.prefetch([ref])
    assert (done.status, done.store) == ("cached", "able")
    assert names(able_engine, "able") == {done.base}
    assert names(able_engine) == set()
    assert statuses(able_engine.cache.prefetch([ref])) == ["existing"]
    [local] = able_engine.cache.prefetch([ref], "qcow2")
    assert (local.status, local.store) == ("cached", None)


def test_what_the_storage_clones_from_its_source_needs_no_base(
    able_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imgbackend.disks import clone_parent
    from imgbackend.types import ImageInfo

    monkeypatch.setattr(
        clone_parent, "find", lambda *_: (("able://image", ImageInfo(format="raw", virtual_size=Mi)), "")
    )
    [done] = able_engine.cache.prefetch([str(image(tmp_path))])
    assert (done.status, done.reason) == ("not needed", "disks are clones of able://image")
    assert names(able_engine, "able") == names(able_engine) == set()


def test_prefetch_and_creations_of_one_image_fetch_it_once(make_engine: MakeEngine, tmp_path: Path) -> None:
    """In threads of this process, and in another one."""
    path = image(tmp_path, size=16 * Mi)
    engine = make_engine({"images_type": "qcow2", "image_cache.metrics_file": str(tmp_path / "m.prom")})
    program = (
        "import sys; from imgbackend import Engine\n"
        "options = {'instances_path': sys.argv[1], 'image_cache.metrics_file': 'm.prom'}\n"
        "with Engine.from_config([], options) as engine:\n"
        "    print(engine.cache.prefetch([sys.argv[2]])[0].status)\n"
    )
    argv = [sys.executable, "-c", program, str(engine.host.instances), str(path)]

    def create(number: int) -> None:
        wanted = engine.image(str(path))
        engine.disk(f"web{number}").cache(wanted, wanted.filename)

    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        found = in_threads(
            6, lambda number: create(number) if number % 2 else engine.cache.prefetch([str(path)])[0].status
        )
        told, _ = process.communicate(timeout=60)
    assert not [each for each in found if isinstance(each, Exception)]
    assert {each for each in [*found, told.strip()] if each is not None} <= {"cached", "existing"}
    assert engine.host.metrics.counts()["fetches"] == 1
    for number in (1, 3, 5):
        assert bytes_of(engine.disk(f"web{number}")) == path.read_bytes()


def test_so_many_at_once_and_no_more(engine: Engine, tmp_path: Path) -> None:
    """The first two wait for each other: one at a time, they would wait for ever."""
    paths = [str(image(tmp_path, f"{number}.raw", 4096)) for number in range(6)]
    running, most, guard, met = set[str](), 0, threading.Lock(), threading.Barrier(2, timeout=60)
    to_meet = set(paths[:2])

    def progress(ref: str) -> Callable[[str, int, int | None], None]:
        def told(_phase: str, done: int, total: int | None) -> None:
            nonlocal most
            with guard:
                running.add(ref)
                most = max(most, len(running))
                meets = ref in to_meet
                to_meet.discard(ref)
            if meets:
                met.wait()
            if total is not None and done >= total:
                with guard:
                    running.discard(ref)

        return told

    assert statuses(engine.cache.prefetch(paths, at_once=2, progress=progress)) == ["cached"] * 6
    assert most == 2


def test_cancelled_prefetch_raises_what_cancelled_it_and_leaves_nothing_unfinished(
    engine: Engine, tmp_path: Path
) -> None:
    class Enough(BaseException):
        pass

    def progress(_ref: str) -> Callable[[str, int, int | None], None]:
        def told(_phase: str, _done: int, _total: int | None) -> None:
            raise Enough

        return told

    paths = [str(image(tmp_path, f"{number}.raw")) for number in range(4)]
    with pytest.raises(Enough):
        engine.cache.prefetch(paths, at_once=2, progress=progress)
    assert names(engine) == set()
    assert not {name for name in entries(engine.host.instances) if name.startswith("_base")}
    assert statuses(engine.cache.prefetch(paths)) == ["cached"] * 4


def test_jitter_is_waited_for_and_can_be_cancelled(engine: Engine, tmp_path: Path) -> None:
    class Enough(BaseException):
        pass

    waited: list[float] = []

    def progress(_ref: str) -> Callable[[str, int, int | None], None]:
        def told(phase: str, _done: int, _total: int | None) -> None:
            if phase == "wait":
                waited.append(time.monotonic())
                if len(waited) > 2:
                    raise Enough

        return told

    with pytest.raises(Enough):
        engine.cache.prefetch([str(image(tmp_path))], jitter=1e9, progress=progress)


def booting(glance: Glance, kernel: str | None = None, **more: str) -> tuple[str, list[str]]:
    """An image in Glance that names a kernel and a ramdisk; and their ids."""
    ids = [
        kernel or glance.add("kernel", b"a kernel" * 99, disk_format="aki", container_format="aki"),
        glance.add("ramdisk", b"a ramdisk" * 99, disk_format="ari", container_format="ari"),
    ]
    facts: dict[str, Any] = {"kernel_id": ids[0], "ramdisk_id": ids[1], **more}
    return f"glance:{glance.add('root', os.urandom(Mi), disk_format='raw', **facts)}", ids


def told(glance: Glance) -> dict[str, str]:
    return {"glance.auth_type": "none", "glance.endpoint_override": glance.url, "glance.num_retries": "0"}


def test_kernel_and_ramdisk_come_with_their_image(make_engine: MakeEngine, glance: Glance) -> None:
    """As for a spawn: byte for byte, in the base folder."""
    engine = make_engine({"images_type": "qcow2", **told(glance)})
    ref, ids = booting(glance)
    [done] = engine.cache.prefetch([ref])
    assert (done.status, done.reason) == ("cached", "")
    assert done.boot_files == tuple(base_name(each) for each in ids)
    assert (engine.host.bases / done.boot_files[0]).read_bytes() == b"a kernel" * 99
    for image_id, name in zip(ids, ("kernel", "ramdisk"), strict=True):
        wanted = engine.image(f"glance:{image_id}").as_boot_file()
        made = engine.disk("web1", name, "raw").cache(wanted, wanted.filename)
        assert not made.fetched, "a spawn fetches it again"
    [again] = engine.cache.prefetch([ref])
    assert (again.status, again.boot_files) == ("existing", done.boot_files)
    (engine.host.bases / done.boot_files[1]).unlink()
    assert statuses(engine.cache.prefetch([ref])) == ["cached"]
    assert set(done.boot_files) < names(engine)


def test_kernel_that_is_gone_fails_its_image_and_says_so(make_engine: MakeEngine, glance: Glance) -> None:
    engine = make_engine({"images_type": "qcow2", **told(glance)})
    gone = str(uuid.uuid4())
    ref, _ = booting(glance, gone)
    [done] = engine.cache.prefetch([ref])
    assert (done.status, done.boot_files) == ("failed", ())
    assert gone in done.reason
    assert "\n" not in done.reason
    assert done.base in names(engine), "the image itself was there"


def test_kernel_is_a_file_also_where_a_store_keeps_the_base(make_able: Callable[..., Engine], glance: Glance) -> None:
    engine = make_able(told(glance))
    ref, _ = booting(glance)
    [done] = engine.cache.prefetch([ref])
    assert (done.status, done.store) == ("cached", "able")
    assert names(engine, "able") == {done.base}
    assert names(engine) == set(done.boot_files)


def test_source_that_is_down_leaves_it_open_whether_there_is_a_kernel(make_engine: MakeEngine, glance: Glance) -> None:
    """The base is there, and its use is noted; but a spawn may want more."""
    ref, _ = booting(glance)
    [first] = make_engine({"images_type": "qcow2", **told(glance)}).cache.prefetch([ref])
    away = {**told(glance), "glance.endpoint_override": "http://127.0.0.1:1"}
    [done] = make_engine({"images_type": "qcow2", **away}).cache.prefetch([ref])
    assert (done.status, done.base, done.boot_files) == ("existing", first.base, ())
    assert done.reason.startswith("it may name a kernel: ")
    assert "\n" not in done.reason
