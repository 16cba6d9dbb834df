"""``imgbackend doctor``: what it finds on hosts that are well and on hosts that are not."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.harness import Cli
from imgbackend import Engine, errors
from imgbackend.cli.doctor_folders import folders
from imgbackend.cli.doctor_stores import stores
from imgbackend.config import plugins
from imgbackend.system.shared_storage import file_system
from imgbackend.types import Capacity, Finding
from labs.able import AbleBackend
from labs.older import older_pass, older_record


def report(cli: Cli, *words: str | Path, status: int = 0) -> dict[str, dict[str, Any]]:
    done = cli(*words, "-f", "json")
    assert done.status == status, done
    return {line["check"]: line for line in json.loads(done.out)}


def snapshot(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in folder.rglob("*")}


def test_a_fit_host_has_no_errors_and_nothing_is_changed(cli: Cli, raw_image: Path) -> None:
    before = snapshot(cli.root)
    found = report(cli, "doctor")
    assert {line["verdict"] for line in found.values()} <= {"ok", "warning"}
    assert found["qemu-img"]["found"].split(": ")[1].startswith("qemu-img version ")
    assert "will be made" in found["instances_path"]["found"]
    assert snapshot(cli.root) == before


def test_a_host_with_disks_is_looked_at_and_left_as_it_is(cli: Cli, raw_image: Path) -> None:
    assert cli("disk", "create", "web1", "--image", raw_image).status == 0
    before = {path: mtime for path, mtime in snapshot(cli.root).items() if path != cli.instances}
    found = report(cli, "doctor", "--online")
    assert found["reflink"]["verdict"] == "ok"
    assert found["leftovers"]["found"] == "none"
    assert found["source folder"]["found"] == "answers"
    assert found["images_type = default"]["found"].startswith("driver qcow2")
    assert {path: mtime for path, mtime in snapshot(cli.root).items() if path != cli.instances} == before


def test_a_host_with_an_older_version_is_a_warning(cli: Cli, raw_image: Path) -> None:
    assert cli("--set", "host=a", "disk", "create", "web1", "--image", raw_image).status == 0
    assert cli("--set", "host=a", "cache", "prune").status == 0
    found = report(cli, "--set", "host=a", "doctor")
    assert (found["versions"]["verdict"], found["records"]["verdict"]) == ("ok", "ok")
    older_pass(cli.instances, "b")
    os.utime(cli.instances / ".imgbackend.json", (time.time() - 60,) * 2)
    older_record(cli.instances, "web2", "disk")
    found = report(cli, "--set", "host=a", "doctor")
    assert (found["versions"]["verdict"], found["records"]["verdict"]) == ("warning", "warning")
    assert "of b was an older version's" in found["versions"]["found"]
    assert "web2" in found["records"]["found"]


def test_without_qemu_img_it_names_the_package_and_fails(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    cli.env["PATH"] = str(tmp_path / "bin")
    found = report(cli, "doctor", status=1)
    assert (found["qemu-img"]["verdict"], found["qemu-img"]["advice"]) == ("error", "install the package qemu-utils")
    assert found["setpriv"]["verdict"] == "error"


def test_a_group_that_is_not_there_is_an_error(cli: Cli) -> None:
    found = report(cli, "--set", "hypervisor_group=no-such-group", "doctor", status=1)
    assert "no-such-group" in found["hypervisor_group"]["found"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
@pytest.mark.parametrize("user", ["no-such-user", "root"])
def test_a_user_that_cannot_serve_is_an_error(cli: Cli, user: str) -> None:
    assert (
        report(cli, "--set", f"unprivileged_user={user}", "doctor", status=1)["unprivileged_user"]["verdict"] == "error"
    )


def test_a_folder_that_anybody_may_write_to_is_an_error(cli: Cli) -> None:
    cli.instances.mkdir()
    cli.instances.chmod(0o777)
    assert report(cli, "doctor", status=1)["mode of instances"]["advice"] == f"chmod o-w {cli.instances}"


def test_a_folder_that_the_hypervisor_cannot_pass_is_a_warning(cli: Cli) -> None:
    cli.instances.mkdir(mode=0o700)
    found = report(cli, "doctor")["way to the disks"]
    assert found["verdict"] == "warning"
    assert found["advice"]


def test_old_unfinished_files_are_leftovers_and_new_ones_are_work(cli: Cli) -> None:
    bases = cli.instances / "_base"
    bases.mkdir(parents=True)
    new, old = cli.instances / "web1" / ".disk.part", bases / f"{'a' * 40}.part"
    new.parent.mkdir()
    new.touch()
    assert report(cli, "doctor")["leftovers"]["found"] == "1 files that are being written"
    old.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    found = report(cli, "doctor")["leftovers"]
    assert (found["verdict"], found["found"]) == ("warning", str(old))


def test_a_backend_that_cannot_be_opened_is_an_error(cli: Cli) -> None:
    found = report(cli, "--set", "images_type=bogus", "doctor", status=1)
    assert "bogus" in found["images_type = bogus"]["found"]


def test_an_option_that_no_driver_reads_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "imgbackend.conf"
    file.write_text("[fast]\ndriver = raw\nspeeed = high\n[DEFAULT]\nof_novas = 1\n")
    found = report(cli, "--config-file", file, "doctor")
    assert found[str(file)]["verdict"] == "warning"
    assert "speeed" in found[str(file)]["found"]


def test_a_configuration_that_cannot_be_read_is_an_error_and_tools_are_looked_at_still(cli: Cli) -> None:
    found = report(cli, "--config-file", "nowhere.conf", "doctor", status=1)
    assert "nowhere.conf" in found["configuration"]["found"]
    assert found["qemu-img"]["verdict"] == "ok"


def test_a_path_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    found = {finding.check: finding for finding in folders(file, file / "_base", group=None)}
    assert found["instances_path"].verdict == "error"


def test_the_file_system_is_named_as_the_kernel_does() -> None:
    assert file_system(Path("/proc")) == "proc"


def test_a_driver_that_nobody_configured_is_no_business_of_the_doctors(cli: Cli) -> None:
    found = report(cli, "--set", "images_type=raw", "doctor")
    assert [check for check in found if check.startswith("backend ")] == ["backend raw"]


class Unwell(AbleBackend):
    """A store that is open, and nothing more."""

    def capacity(self) -> Capacity:
        raise errors.StorageUnavailable("nobody counts here")

    def findings(self) -> Iterator[Finding]:
        yield Finding("pool", "warning", "half full", "make it larger")
        raise errors.StorageUnavailable("the store went away")


def test_a_store_that_tells_of_itself_is_told_of_once_and_its_failure_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"able": AbleBackend, "other": Unwell}
    drivers = [plugins.DriverInfo(name=name, distribution="d", version="1", target="t") for name in kinds]
    monkeypatch.setattr(plugins, "drivers", lambda _group=plugins.BACKENDS: drivers)
    monkeypatch.setattr(plugins, "load_driver", kinds.__getitem__)
    told = {
        "instances_path": str(tmp_path / "instances"),
        "images_type": "able",
        "able.folder": str(tmp_path / "able"),
        "other.folder": str(tmp_path / "other"),
    }
    with Engine.from_config([], told) as engine:
        monkeypatch.setattr(engine, "source_names", list)
        found = list(stores(engine, online=False))
    assert [(finding.check, finding.verdict) for finding in found] == [
        ("images_type = able", "ok"),
        ("backend able", "ok"),
        ("backend other", "error"),
        ("able: bases", "ok"),
        ("other: pool", "warning"),
        ("other", "error"),
    ]
    assert found[-1].found == "the store went away"
