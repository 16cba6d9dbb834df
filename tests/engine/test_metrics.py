"""Counts: right over threads, processes and kills, and never in the way of what is counted."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imgbackend import errors
from imgbackend.system.counters import Metrics
from labs.engines import MakeEngine
from labs.templates import Template, in_threads

pytestmark = pytest.mark.slow

_COUNTING = """
import sys
from pathlib import Path
from imgbackend.system.counters import Metrics
metrics = Metrics(Path(sys.argv[1]), "a", counted=True)
for _ in range(int(sys.argv[2])):
    metrics.record_disk(hit=True, seconds=1.0)
    metrics.record_eviction("unused", 3)
"""

_TOLD = """
import sys
from pathlib import Path
from imgbackend.system.counters import Metrics
metrics = Metrics(Path(sys.argv[1]), "a", counted=True)
for number in range(1, 1 << 30):
    metrics.record_fetch(1)
    print(number, flush=True)
"""


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    return Metrics(tmp_path / "locks", "a", counted=True)


def test_counts_of_threads_and_processes_add_up(metrics: Metrics, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _COUNTING, str(tmp_path / "locks"), "200"]
    running = [subprocess.Popen(argv) for _ in range(3)]

    def count(_number: int) -> None:
        for _ in range(50):
            metrics.record_disk(hit=False, seconds=0.5)

    assert in_threads(4, count) == [None] * 4
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert metrics.counts() == {
        "hits": 600,
        "misses": 200,
        "evictions unused": 600,
        "evicted_bytes unused": 1800,
        "spans create": 800,
        "seconds create": 700.0,
    }


def test_killed_process_takes_no_count_of_another_along(metrics: Metrics, tmp_path: Path) -> None:
    chance, told = random.Random(5), 0
    for _ in range(8):
        argv = [sys.executable, "-c", _TOLD, str(tmp_path / "locks")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 200)):
                told += bool(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            told += len(process.stdout.readlines())
    assert told <= metrics.counts()["fetches"] <= told + 8  # killed between the count and the line


def test_nothing_is_kept_where_nobody_reads(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "locks", "a", counted=False)
    metrics.record_verification_failure()
    with metrics.timed("scan"):
        pass
    assert metrics.counts() == {}
    assert list(tmp_path.iterdir()) == []


def test_hosts_of_one_folder_count_apart(tmp_path: Path) -> None:
    one, other = (Metrics(tmp_path, name, counted=True) for name in ("a/../b", "b"))
    one.record_verification_failure()
    assert one.counts() == {"verification_failures": 1}
    assert other.counts() == {}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\0", b'{"hits": "many"}'])
def test_broken_counts_begin_anew(metrics: Metrics, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "imgbackend-metrics.a").write_bytes(text)
    assert metrics.counts() == {}
    metrics.record_fetch(7)
    assert metrics.counts() == {"fetches": 1, "fetched_bytes": 7}


def test_seconds_are_counted_however_it_ends(metrics: Metrics) -> None:
    with pytest.raises(errors.DiskError), metrics.timed("fetch"):
        raise errors.DiskError("broke")
    assert metrics.counts()["spans fetch"] == 1


def test_count_that_cannot_be_kept_is_lost_and_hurts_nobody(metrics: Metrics, tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    (folder / "imgbackend-metrics.a").mkdir(parents=True)
    metrics.record_fetch(1)
    (folder / "imgbackend-metrics.a").rmdir()
    os.symlink(tmp_path / "elsewhere", folder / "imgbackend-metrics.a")
    metrics.record_fetch(1)
    assert not (tmp_path / "elsewhere").exists()


def test_holder_that_stands_still_delays_a_count_and_no_more(metrics: Metrics, tmp_path: Path) -> None:
    metrics.record_fetch(1)
    program = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    )
    argv = [sys.executable, "-c", program, str(tmp_path / "locks" / "imgbackend-metrics.a")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        counting = threading.Thread(target=metrics.record_fetch, args=(1,))
        counting.start()
        counting.join(30)
        assert not counting.is_alive()
        assert process.stdin is not None
        process.stdin.close()
    assert metrics.counts()["fetches"] == 1


def test_creations_count_hits_misses_and_bytes(
    make_engine: MakeEngine, raw_image: Template, images_type: str, tmp_path: Path
) -> None:
    engine = make_engine({"images_type": images_type, "image_cache.metrics_file": str(tmp_path / "cache.prom")})
    for instance in ("web1", "web2", "web3"):
        engine.disk(instance).cache(raw_image, raw_image.name)
    engine.disk("web3").cache(raw_image, raw_image.name)  # exists: nothing was made
    counts = engine.host.metrics.counts()
    assert (counts["hits"], counts["misses"], counts["fetches"]) == (2, 1, 1)
    assert counts["fetched_bytes"] == raw_image.content.stat().st_size
    assert {"spans fetch", "spans settle", "seconds create"} <= counts.keys()


def test_creation_that_is_counted_imports_neither_the_library_of_prometheus_nor_the_cache(
    raw_content: Path, instances: Path
) -> None:
    program = """
import sys
from imgbackend import Engine
told = {"instances_path": sys.argv[1], "images_type": "qcow2", "image_cache.metrics_file": "none.prom"}
with Engine.from_config([], told) as engine:
    image = engine.image(sys.argv[2])
    engine.disk("web1").cache(image, image.filename)
    print(engine.host.metrics.counts()["misses"])
print(*sorted({"prometheus_client", "imgbackend.cache"} & sys.modules.keys()))
"""
    argv = [sys.executable, "-c", program, str(instances), str(raw_content)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1\n\n", done.stderr
