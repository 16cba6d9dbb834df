"""What a bad call gets: one line that says what to do, and the right exit status."""

import os
import shutil
from pathlib import Path

import pytest

from cli.harness import Cli, assert_one_line
from imgbackend.types import Mi


def test_an_unknown_images_type_names_those_there_are(cli: Cli, raw_image: Path) -> None:
    done = cli("disk", "create", "web1", "--image", raw_image, "--images-type", "bogus")
    assert_one_line(done, 1, "bogus", "qcow2", "raw")


def test_an_image_that_is_not_there_names_the_source(cli: Cli) -> None:
    assert_one_line(cli("disk", "create", "web1", "--image", "nothing"), 1, "nothing", str(cli.images))
    assert cli.files() == set()


def test_a_too_large_image_names_both_sizes(cli: Cli, raw_image: Path) -> None:
    done = cli("disk", "create", "web1", "--image", raw_image, "--size", "1M")
    assert_one_line(done, 1, str(4 * Mi), str(Mi))
    assert cli.files() == set()


@pytest.mark.parametrize("instance", ["../web1", "web_1", "locks", "-o", "a/b", "", "web1\n"])
def test_a_name_that_is_not_safe_is_refused(cli: Cli, raw_image: Path, instance: str) -> None:
    done = cli("disk", "create", f"--image={raw_image}", "--", instance)
    assert_one_line(done, 1, "not a name for an instance")
    assert not list(cli.root.rglob("disk"))


@pytest.mark.parametrize("words", [["list"], ["show"], ["delete"], ["flatten"], ["snapshot", "list"]])
def test_every_command_refuses_a_name_that_is_not_safe(cli: Cli, words: list[str]) -> None:
    assert_one_line(cli("disk", *words, "../web1"), 1, "not a name for an instance")


def test_a_name_that_is_no_disks_is_refused(cli: Cli, raw_image: Path) -> None:
    done = cli("disk", "create", "web1", "--name", "../disk", "--image", raw_image)
    assert_one_line(done, 1, "not a name for a disk")


def test_an_export_to_a_folder_that_is_not_there_says_so(cli: Cli, raw_image: Path) -> None:
    assert cli("disk", "create", "web1", "--image", raw_image).status == 0
    target = cli.root / "nowhere" / "there.img"
    assert_one_line(cli("disk", "export", "web1", target, "--disk-format", "raw"), 1, str(target.parent))
    assert_one_line(cli("disk", "export", "web1", cli.root / "x", "--disk-format", "vmdk"), 1, "vmdk", "raw", "qcow2")


def test_a_missing_qemu_img_names_the_package(cli: Cli, qcow2_image: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("prlimit", "setpriv"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    cli.env["PATH"] = str(tools)
    assert_one_line(cli("disk", "create", "web1", "--image", qcow2_image), 1, "qemu-img", "qemu-utils")


def test_a_missing_configuration_file_is_named(cli: Cli) -> None:
    assert_one_line(cli("--config-file", "nowhere.conf", "disk", "list"), 1, "nowhere.conf")


def test_a_bad_value_in_the_configuration_names_the_option(cli: Cli, raw_image: Path) -> None:
    done = cli("--set", "preallocate_images=maybe", "disk", "create", "web1", "--image", raw_image)
    assert_one_line(done, 1, "preallocate_images", "maybe")


def test_an_unknown_option_to_set_is_named(cli: Cli) -> None:
    assert_one_line(cli("--set", "no_such_option=1", "disk", "list"), 1, "no_such_option")


def test_an_unwritable_folder_is_one_line(cli: Cli, raw_image: Path) -> None:
    cli.instances.mkdir()
    cli.instances.chmod(0o555)
    words = cli.argv("disk", "create", "web1", "--image", raw_image)
    if os.geteuid() == 0:  # root may write anywhere, unless this is taken from it
        words = ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search", "--", *words]
    assert_one_line(cli.run(words), 1, str(cli.instances), "ermission")
    assert list(cli.instances.iterdir()) == []


def test_debug_shows_where_an_error_came_from(cli: Cli) -> None:
    done = cli("--debug", "disk", "show", "web1")
    assert done.status == 1
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("imgbackend: ")


def test_an_absent_disk_has_no_snapshots_to_list(cli: Cli) -> None:
    assert_one_line(cli("disk", "snapshot", "list", "web1"), 1, "web1/disk")


@pytest.mark.parametrize("setting", ["host=", "host=(released)", "host=a\nb", "host=\x1b[31m", "instances_path="])
def test_a_name_of_a_host_or_folder_that_is_none_is_refused(cli: Cli, setting: str) -> None:
    assert_one_line(cli("--set", setting, "disk", "list"), 1, setting.partition("=")[0])
    assert cli.files() == set()


def test_a_host_that_nobody_knows_has_nothing_to_be_taken_over(cli: Cli) -> None:
    assert_one_line(cli("cache", "hosts", "take-over", "nobody"), 1, "nothing is noted as 'nobody'", "cache hosts")


def test_a_disk_whose_records_are_broken_hides_no_other(cli: Cli, raw_image: Path) -> None:
    for name in ("web1", "web2"):
        assert cli("disk", "create", name, "--image", raw_image).status == 0
    (cli.instances / "web1" / "disks.json").write_text("{")
    first, second = cli("disk", "list", "-f", "json").json()
    assert (first["instance"], second["instance"], second["state"]) == ("web1", "web2", "ok")
    assert "web1/disks.json is broken" in first["state"]


def test_a_disk_whose_records_are_broken_is_deleted_by_force(cli: Cli, raw_image: Path) -> None:
    assert cli("disk", "create", "web1", "--image", raw_image).status == 0
    records = cli.instances / "web1" / "disks.json"
    records.write_text("{")
    assert_one_line(cli("disk", "delete", "web1"), 1, f"{records} is broken", "--force")
    assert (cli.instances / "web1" / "disk").exists()
    done = cli("disk", "delete", "web1", "--force", "-f", "json")
    assert done.json()["deleted"] is True
    assert f"{records}.broken" in done.err
    assert not (cli.instances / "web1" / "disk").exists()
    assert records.with_name("disks.json.broken").read_text() == "{"
    assert cli("disk", "create", "web1", "--image", raw_image).status == 0


@pytest.mark.parametrize("content", ["", "[]"])
def test_a_broken_disk_info_hides_no_disk_and_stands_in_no_deletions_way(
    cli: Cli, raw_image: Path, content: str
) -> None:
    assert cli("disk", "create", "web1", "--image", raw_image).status == 0
    path = cli.instances / "web1" / "disk.info"
    path.write_text(content)
    told, disk = cli("disk", "list", "-f", "json").json()
    assert (disk["name"], disk["state"]) == ("disk", "ok")
    assert f"{path} is broken" in told["state"]
    done = cli("disk", "delete", "web1", "-f", "json")
    assert done.json()["deleted"] is True
    assert not (cli.instances / "web1" / "disk").exists()
    assert path.read_text() == content


@pytest.mark.parametrize("name", ["../web1", "/web1", ""])
def test_force_takes_no_name_that_is_not_safe(cli: Cli, name: str) -> None:
    assert_one_line(cli("disk", "delete", "--force", name), 1, "not a name for an instance")


def test_a_disk_behind_a_link_to_nothing_is_listed_as_what_it_is(cli: Cli, raw_image: Path) -> None:
    for name in ("web1", "web2"):
        assert cli("disk", "create", name, "--image", raw_image).status == 0
    disk = cli.instances / "web1" / "disk"
    disk.unlink()
    disk.symlink_to(cli.root / "not mounted")
    done = cli("disk", "list", "-f", "json")
    assert [(row["instance"], "not mounted" in row["state"]) for row in done.json()] == [
        ("web1", True),
        ("web2", False),
    ]
    assert_one_line(cli("disk", "delete", "web1"), 1, "mount its file system")
    assert disk.is_symlink()
