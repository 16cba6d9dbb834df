"""A monitor or an OSD that is frozen or dead is an error in time, and never taken for an empty pool.

What would hang ends with the time limit of the command's process, or of the test's run.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from cli.harness import Cli, assert_one_line
from imgbackend import Engine
from imgbackend.errors import StorageUnavailable
from imgbackend.types import Mi
from labs.ceph import Cluster

_SECONDS = 2
_T = TypeVar("_T")


@pytest.fixture
def cluster(rbd_own_cluster: Callable[..., Cluster]) -> Cluster:
    return rbd_own_cluster(pools="vms", size=256 * Mi)


@pytest.fixture
def conf(cluster: Cluster, tmp_path: Path) -> Path:
    path = tmp_path / "imgbackend.conf"
    path.write_text(f"""
[DEFAULT]
images_type = rbd
instances_path = {tmp_path}/instances
[rbd]
pool = vms
user = {cluster.user}
ceph_conf = {cluster.conf}
connect_timeout = {_SECONDS}
operation_timeout = {_SECONDS}
""")
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.raw"
    path.write_bytes(os.urandom(Mi))
    return path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    tmp_path.chmod(0o755)
    return Cli(tmp_path, tmp_path / "cache")


@pytest.fixture
def engine(conf: Path) -> Iterator[Engine]:
    """With its connection made."""
    with Engine.from_config([conf]) as made:
        assert made.backend("rbd").name == "rbd"
        yield made


@pytest.mark.parametrize("harm", [Cluster.freeze_mon, lambda cluster: cluster.kill("mon")], ids=["frozen", "dead"])
def test_command_without_a_monitor_ends_with_a_line(
    cluster: Cluster, conf: Path, cli: Cli, image: Path, harm: Callable[[Cluster], None]
) -> None:
    harm(cluster)
    for words in (["disk", "create", "vm", "--image", str(image)], ["disk", "show", "vm"]):
        done = cli("--config-file", conf, "--quiet", *words)
        assert_one_line(done, 1, f"did not answer within {_SECONDS} s")


def test_thawed_monitor_serves_the_next_command(cluster: Cluster, conf: Path, cli: Cli, image: Path) -> None:
    words = ["--config-file", str(conf), "--quiet", "disk", "create", "vm", "--image", str(image), "-f", "json"]
    cluster.freeze_mon()
    assert cli(*words).status == 1
    cluster.thaw()
    assert cli(*words).json()["way"] == "clone"


def test_frozen_osd_is_an_error_at_every_verb_and_never_an_absent_disk(
    cluster: Cluster, engine: Engine, image: Path
) -> None:
    disk, other = engine.disk("vm"), engine.disk("other")
    made = engine.image(str(image))
    disk.cache(made, made.filename)
    cluster.freeze_osd()
    verbs: list[Callable[[], object]] = [
        disk.exists,
        disk.info,
        disk.remove,
        lambda: disk.resize(64 * Mi),
        lambda: disk.cache(made, made.filename),
        lambda: other.cache(made, made.filename),
        lambda: list(engine.backend("rbd").list_disks()),
    ]
    for verb in verbs:
        with pytest.raises(StorageUnavailable, match=f"did not answer within {_SECONDS} s"):
            verb()
    cluster.thaw()
    _eventually(disk.info)
    assert _eventually(lambda: other.cache(made, made.filename)).way == "clone"


def test_import_that_the_osd_stopped_is_made_by_the_next_call(
    cluster: Cluster, engine: Engine, image: Path, tmp_path: Path
) -> None:
    os.truncate(image, 64 * Mi)
    made = engine.image(str(image))

    def progress(phase: str, done: int, total: int | None) -> None:
        if phase == "import":
            with contextlib.suppress(AssertionError):
                cluster.freeze_osd()

    with pytest.raises(StorageUnavailable):
        engine.disk("vm").cache(made, made.filename, progress=progress)
    cluster.thaw()
    assert _eventually(lambda: engine.disk("vm").cache(made, made.filename)).way == "clone"
    engine.disk("vm").extract(tmp_path / "out", "raw")
    assert (tmp_path / "out").read_bytes() == image.read_bytes()


def test_capacity_without_a_manager_is_not_nothing(cluster: Cluster, engine: Engine) -> None:
    with pytest.raises(StorageUnavailable, match="manager"):
        engine.backend("rbd").capacity()


def _eventually(call: Callable[[], _T]) -> _T:
    """An OSD that was frozen may time out once more."""
    end = time.monotonic() + 60
    while True:
        try:
            return call()
        except StorageUnavailable:
            if time.monotonic() > end:
                raise
