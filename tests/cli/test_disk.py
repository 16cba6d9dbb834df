"""``imgbackend disk`` on real images: what it makes, shows, and refuses."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cli.harness import Cli, assert_one_line, qemu_img
from imgbackend.types import Gi, Mi
from labs.able_site import able_site

CREATED = ["instance", "name", "images_type", "format", "size", "allocated", "location", "base", "way", "reason",
           "fetched", "grown", "seconds"]  # fmt: skip


def created(cli: Cli, image: Path, *words: str) -> dict[str, Any]:
    found = cli("disk", "create", "web1", "--image", image, *words, "-f", "json").json()
    assert isinstance(found, dict)
    return found


def test_create_tells_all_that_it_did(cli: Cli, qcow2_image: Path) -> None:
    made = created(cli, qcow2_image, "--size", "1G")
    assert list(made) == CREATED
    assert made["location"] == str(cli.instances / "web1" / "disk")
    assert (made["instance"], made["name"], made["images_type"], made["format"]) == ("web1", "disk", "qcow2", "qcow2")
    assert (made["size"], made["way"], made["fetched"]) == (Gi, "overlay", True)
    assert made["allocated"] > 0
    assert made["seconds"] > 0
    told = json.loads(qemu_img("info", "--output=json", "--backing-chain", "-f", "qcow2", made["location"]))
    assert told[0]["virtual-size"] == Gi
    assert Path(told[1]["filename"]).name == made["base"]


def test_the_disk_holds_the_image(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    made = created(cli, qcow2_image)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw_image, made["location"])


def test_a_second_create_finds_the_disk_and_grows_it(cli: Cli, qcow2_image: Path) -> None:
    created(cli, qcow2_image)
    again = created(cli, qcow2_image)
    assert (again["way"], again["fetched"], again["grown"]) == ("exists", False, False)
    grown = created(cli, qcow2_image, "--size", "1.5G")
    assert (grown["way"], grown["grown"], grown["size"]) == ("exists", True, 3 * Gi // 2)


def test_a_second_disk_of_an_image_is_made_from_the_cache(cli: Cli, qcow2_image: Path) -> None:
    first = created(cli, qcow2_image)
    second = cli("disk", "create", "web2", "--image", qcow2_image, "-f", "json").json()
    assert (second["fetched"], second["base"]) == (False, first["base"])


@pytest.mark.parametrize("chosen", ["option", "environment", "file", "override"])
def test_images_type_is_taken_from_wherever_it_is_given(
    cli: Cli, qcow2_image: Path, tmp_path: Path, chosen: str
) -> None:
    words: list[str] = []
    if chosen == "option":
        words = ["--images-type", "raw"]
    elif chosen == "environment":
        cli.env["OS_DEFAULT__IMAGES_TYPE"] = "raw"
    elif chosen == "override":
        words = ["--set", "images_type=raw"]
    else:
        file = tmp_path / "imgbackend.conf"
        file.write_text("[DEFAULT]\nimages_type = raw\n")
        words = ["--config-file", str(file)]
    made = created(cli, qcow2_image, *words)
    assert (made["images_type"], made["format"], made["fetched"]) == ("raw", "raw", True)
    assert made["way"] in {"copy", "reflink"}


def test_a_table_shows_binary_units_and_value_shows_plain_numbers(cli: Cli, qcow2_image: Path) -> None:
    created(cli, qcow2_image, "--size", "20G")
    table = cli("disk", "show", "web1")
    assert table.status == 0
    assert "20 GiB" in table.out
    assert "way: overlay" in table.out
    assert cli("disk", "show", "web1", "-f", "value", "-c", "size").out == f"{20 * Gi}\n"
    assert cli("disk", "list", "-f", "csv", "-c", "size", "-c", "state").out == f'"size","state"\n{20 * Gi},"ok"\n'


def test_explain_tells_the_plan_and_does_nothing(cli: Cli, qcow2_image: Path) -> None:
    plan = cli("disk", "create", "web1", "--image", qcow2_image, "--size", "1G", "--explain", "-f", "json").json()
    assert list(plan) == ["instance", "name", "images_type", "way", "reason", "writes", "needs", "base", "cached"]
    assert (plan["way"], plan["cached"]) == ("overlay", False)
    assert not cli.instances.exists() or cli.files() == set()
    created(cli, qcow2_image)
    before = cli.files()
    again = cli("disk", "create", "web2", "--image", qcow2_image, "--explain", "-f", "json").json()
    assert (again["way"], again["cached"]) == ("overlay", True)
    there = cli("disk", "create", "web1", "--image", qcow2_image, "--explain", "-f", "json").json()
    assert there["way"] == "exists"
    assert cli.files() == before


def test_show_tells_the_record(cli: Cli, qcow2_image: Path) -> None:
    made = created(cli, qcow2_image)
    shown = cli("disk", "show", "web1", "-f", "json").json()
    assert shown["driver"] == "qcow2"
    assert shown["backing"] == str(cli.instances / "_base" / made["base"])
    assert "Snapshottable" in shown["abilities"]
    record = shown["record"]
    assert (record["backend"], record["format"], record["way"], record["base"]) == (
        "qcow2",
        "qcow2",
        "overlay",
        made["base"],
    )
    assert len(record["digest"]) == 64
    assert record["time"] > 0


def test_list_shows_the_disks_of_all_or_of_one(cli: Cli, qcow2_image: Path) -> None:
    assert cli("disk", "list", "-f", "json").json() == []
    for instance in ("web1", "web2"):
        assert cli("disk", "create", instance, "--image", qcow2_image).status == 0
    assert cli("disk", "create", "web1", "--name", "disk.local", "--image", qcow2_image).status == 0
    listed = cli("disk", "list", "-f", "json").json()
    assert [(disk["instance"], disk["name"], disk["state"]) for disk in listed] == [
        ("web1", "disk", "ok"),
        ("web1", "disk.local", "ok"),
        ("web2", "disk", "ok"),
    ]
    assert [disk["instance"] for disk in cli("disk", "list", "web2", "-f", "json").json()] == ["web2"]


def test_resize_grows_and_never_shrinks(cli: Cli, qcow2_image: Path) -> None:
    created(cli, qcow2_image)
    grown = cli("disk", "resize", "web1", "64M", "-f", "json").json()
    assert (grown["size"], grown["grown"]) == (64 * Mi, True)
    same = cli("disk", "resize", "web1", "64M", "-f", "json").json()
    assert (same["size"], same["grown"]) == (64 * Mi, False)
    assert_one_line(cli("disk", "resize", "web1", "32M"), 1, "not shrunk")
    assert cli("disk", "show", "web1", "-f", "value", "-c", "size").out == f"{64 * Mi}\n"


def test_delete_of_an_absent_disk_is_no_error_but_show_is(cli: Cli, qcow2_image: Path) -> None:
    created(cli, qcow2_image)
    assert cli("disk", "delete", "web1", "-f", "json").json()["deleted"] is True
    assert cli("disk", "delete", "web1", "-f", "json").json()["deleted"] is False
    assert_one_line(cli("disk", "show", "web1"), 1, "web1")
    assert_one_line(cli("disk", "resize", "web1", "1G"), 1, "web1")
    assert cli("disk", "list", "-f", "json").json() == []


@pytest.mark.parametrize("images_type", ["qcow2", "raw"])
@pytest.mark.parametrize("words", [["raw"], ["qcow2"], ["qcow2", "--compress"]])
def test_export_writes_a_whole_file_that_needs_no_base(
    cli: Cli, raw_image: Path, qcow2_image: Path, images_type: str, words: list[str]
) -> None:
    created(cli, qcow2_image, "--images-type", images_type)
    target = cli.root / "out" / "there.img"
    target.parent.mkdir()
    done = cli("disk", "export", "web1", target, "--disk-format", *words, "-f", "json").json()
    assert (done["target"], done["format"], done["size"]) == (str(target), words[0], target.stat().st_size)
    told = json.loads(qemu_img("info", "--output=json", "-f", words[0], target))
    assert "backing-filename" not in told
    qemu_img("compare", "-f", "raw", "-F", words[0], raw_image, target)
    assert list(target.parent.iterdir()) == [target]


def test_export_never_overwrites(cli: Cli, qcow2_image: Path) -> None:
    created(cli, qcow2_image)
    target = cli.root / "there.img"
    target.write_text("precious")
    assert_one_line(cli("disk", "export", "web1", target, "--disk-format", "raw"), 1, str(target), "there already")
    dangling = cli.root / "link.img"
    dangling.symlink_to("nowhere")
    assert_one_line(cli("disk", "export", "web1", dangling, "--disk-format", "raw"), 1, "there already")
    assert target.read_text() == "precious"
    assert not (cli.root / "nowhere").exists()


def test_flatten_makes_a_disk_that_needs_no_base(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    made = created(cli, qcow2_image)
    done = cli("disk", "flatten", "web1", "-f", "json").json()
    assert (done["base"], done["format"], done["size"]) == (None, "qcow2", 4 * Mi)
    assert "backing-filename" not in json.loads(qemu_img("info", "--output=json", "-f", "qcow2", made["location"]))
    qemu_img("compare", "-f", "raw", "-F", "qcow2", raw_image, made["location"])


def test_snapshots_are_taken_listed_returned_to_and_deleted(cli: Cli, qcow2_image: Path) -> None:
    created(cli, qcow2_image)
    assert cli("disk", "snapshot", "list", "web1", "-f", "json").json() == []
    taken = cli("disk", "snapshot", "create", "web1", "before", "-f", "json").json()
    assert taken == {"instance": "web1", "name": "disk", "snapshot": "before"}
    listed = cli("disk", "snapshot", "list", "web1", "-f", "json").json()
    assert [(snap["snapshot"], snap["size"]) for snap in listed] == [("before", 4 * Mi)]
    assert cli("disk", "snapshot", "rollback", "web1", "before").status == 0
    assert cli("disk", "snapshot", "delete", "web1", "before").status == 0
    assert cli("disk", "snapshot", "list", "web1", "-f", "json").json() == []
    assert_one_line(cli("disk", "snapshot", "rollback", "web1", "before"), 1, "before")


def test_a_kernel_is_kept_byte_for_byte(cli: Cli) -> None:
    image = cli.images / "vmlinuz"
    image.write_bytes(b"MZ" + os.urandom(1000))
    made = created(cli, image, "--name", "kernel", "--images-type", "raw")
    assert Path(made["location"]).read_bytes() == image.read_bytes()
    again = cli("disk", "create", "web2", "--name", "kernel", "--image", image, "--size", "1M", "--images-type", "raw")
    assert_one_line(again, 1, "size")


def test_a_driver_without_snapshots_says_so(cli: Cli, qcow2_image: Path) -> None:
    created(cli, qcow2_image, "--images-type", "raw")
    assert_one_line(cli("disk", "snapshot", "create", "web1", "before"), 1, "raw", "no snapshots")
    assert_one_line(cli("disk", "flatten", "web1"), 1, "raw", "no flattening")


@pytest.fixture
def shelf(cli: Cli, tmp_path: Path) -> Path:
    """Where the file lies that configures a backend ``shelf``, whose store is the folder ``shelf``."""
    file = tmp_path / ".imgbackend" / "imgbackend.conf"
    file.parent.mkdir()
    file.write_text(f"[DEFAULT]\nimages_type = shelf\n[shelf]\ndriver = able\nfolder = {tmp_path / 'shelf'}\n")
    cli.env["PYTHONPATH"] = able_site(tmp_path / "site")
    return file


def test_disk_of_another_store_is_listed_and_kept_until_it_is_forgotten_by_force(
    cli: Cli, shelf: Path, raw_image: Path
) -> None:
    """The option leads to another folder by now."""
    created(cli, raw_image)
    store = cli("disk", "show", "web1", "-f", "json").json()["record"]["store"]
    shelf.write_text(shelf.read_text().replace("/shelf\n", "/another\n"))
    [listed] = cli("disk", "list", "-f", "json").json()
    assert (listed["instance"], listed["images_type"], listed["size"]) == ("web1", "shelf", None)
    told = ("was made in another store", store, "folder in [shelf]", "disk delete --force web1 --name disk")
    assert all(word in listed["state"] for word in told)
    for words in (["delete", "web1"], ["create", "web1", "--image", raw_image], ["resize", "web1", "1G"]):
        assert_one_line(cli("disk", *words), 1, *told)
    assert cli("disk", "delete", "--force", "web1", "-f", "json").json()["deleted"] is False
    assert cli("disk", "list", "-f", "json").json() == []
    assert created(cli, raw_image)["way"] != "exists"
    assert (shelf.parents[1] / "shelf" / "web1_disk").exists()
