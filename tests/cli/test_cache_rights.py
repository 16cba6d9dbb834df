"""``imgbackend cache`` by a user who may look, and not change anything."""

import os
import time
from pathlib import Path

import pytest

from cli.harness import Cli, Done, qemu_img
from cli.test_cache_keeping import age, unused_base

_OTHER = 65534


@pytest.fixture
def reader(cli: Cli, tmp_path: Path) -> Cli:
    """Everything may be read by whom it does not belong to."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user")
    return cli


def as_other(cli: Cli, *words: str) -> Done:
    """The same user, without what lets root read and write what is another's; the folder is another's."""
    for path in [cli.instances, *cli.instances.rglob("*")]:
        os.chown(path, _OTHER, _OTHER)
        path.chmod(0o755 if path.is_dir() else 0o644)
    bound = "-dac_override,-dac_read_search,-fowner,-chown"
    return cli.run(["setpriv", f"--bounding-set={bound}", *cli.argv(*words)])


def test_pass_of_who_may_only_look_removes_nothing_and_says_what_is_denied(reader: Cli, raw_image: Path) -> None:
    path = unused_base(reader, raw_image)
    done = as_other(reader, "cache", "prune", "-f", "value", "-c", "action")
    assert (done.status, done.out) == (1, "failed\n")
    assert f"the base {path.name} (local) stays: {reader.instances}/locks/nova-{path.name}: Permission" in done.err
    assert "0 of 1 bases removed" in done.err
    assert path.exists()


def test_use_that_could_not_be_noted_is_told(reader: Cli, raw_image: Path) -> None:
    """A base that nothing touches is one that a Nova on the same folder removes."""
    made = reader("disk", "create", "web1", "--image", raw_image, "-f", "json").json()
    path = reader.instances / "_base" / str(made["base"])
    age(path, 7200)
    done = as_other(reader, "cache", "prune")
    assert done.status == 1
    assert f"the use of the base {path.name} (local) could not be noted: {path}: " in done.err
    assert path.stat().st_mtime < time.time() - 7000


@pytest.mark.parametrize("words", [("cache", "list"), ("cache", "prune", "--dry-run"), ("cache", "leftovers")])
def test_who_may_look_sees_everything(reader: Cli, raw_image: Path, words: tuple[str, ...]) -> None:
    unused_base(reader, raw_image)
    seen = as_other(reader, *words, "-f", "json")
    assert seen.status == 0, seen.err
    assert seen.out == reader(*words, "-f", "json").out


def test_pin_that_may_not_be_written_is_refused(reader: Cli, raw_image: Path) -> None:
    path = unused_base(reader, raw_image)
    done = as_other(reader, "cache", "pin", path.name)
    assert done.status == 1
    assert done.err.count("\n") == 1
    assert "Permission denied; give this user the permission" in done.err


def test_header_that_leads_out_of_the_folder_is_told_and_is_no_fault(cli: Cli, raw_image: Path) -> None:
    path = unused_base(cli, raw_image)
    stray = cli.instances / "web1" / "disk"
    stray.parent.mkdir()
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", stray, "1M")
    done = cli("cache", "prune", "-f", "value", "-c", "name")
    assert (done.status, done.out) == (0, f"{path.name}\n")
    assert f"{stray} refers to /etc/passwd, which is outside {cli.instances}" in done.err
