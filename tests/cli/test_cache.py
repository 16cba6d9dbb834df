"""``imgbackend cache``, ``image`` and ``backend``: what is there, as people and as machines read it."""

import hashlib
from pathlib import Path

from oslo_config import cfg

from cli.harness import Cli, assert_one_line
from imgbackend.cli.backend import shown_options
from imgbackend.types import Mi


def base_of(cli: Cli, image: Path, instance: str = "web1") -> str:
    made = cli("disk", "create", instance, "--image", image, "-f", "json").json()
    return str(made["base"])


def test_list_shows_each_base_and_how_many_disks_hang_on_it(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    assert cli("cache", "list", "-f", "json").json() == []
    first = base_of(cli, raw_image)
    assert base_of(cli, raw_image, "web2") == first
    second = base_of(cli, qcow2_image, "web3")
    listed = {base["name"]: base for base in cli("cache", "list", "-f", "json").json()}
    assert {name: base["users"] for name, base in listed.items()} == {first: 2, second: 1}
    base = listed[first]
    assert (base["format"], base["virtual_size"], base["size"]) == ("raw", 4 * Mi, 4 * Mi)
    assert Mi <= base["allocated"] < 4 * Mi
    assert base["last_used"] > 0
    assert hashlib.sha1(base["image_id"].encode(), usedforsecurity=False).hexdigest() == first


def test_show_takes_a_name_its_beginning_or_the_image(cli: Cli, raw_image: Path) -> None:
    name = base_of(cli, raw_image)
    shown = cli("cache", "show", name, "-f", "json").json()
    assert shown["disks"] == ["web1/disk"]
    assert shown["path"] == str(cli.instances / "_base" / name)
    assert len(shown["digest"]) == 64
    assert cli("cache", "show", name[:8], "-f", "json").json() == shown
    assert cli("cache", "show", shown["image_id"], "-f", "json").json() == shown
    assert_one_line(cli("cache", "show", "f00f00"), 1, "f00f00")
    assert_one_line(cli("cache", "show", name[:3]), 1, name[:3])


def test_usage_adds_up(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    base_of(cli, raw_image)
    base_of(cli, qcow2_image, "web2")
    assert cli("disk", "delete", "web2").status == 0
    [usage] = cli("cache", "usage", "-f", "json").json()
    assert usage["store"] == "local"
    assert usage["folder"] == str(cli.instances / "_base")
    assert (usage["bases"], usage["in_use"], usage["unused"], usage["size"]) == (2, 1, 1, 8 * Mi)
    assert 0 < usage["allocated_unused"] < usage["allocated"]
    assert 0 < usage["free"] <= usage["total"]
    assert "MiB" in cli("cache", "usage").out


def test_usage_of_a_host_without_a_disk_is_nothing(cli: Cli) -> None:
    [usage] = cli("cache", "usage", "-f", "json").json()
    assert (usage["bases"], usage["size"]) == (0, 0)


def test_image_list_shows_the_folder(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    done = cli("image", "list", "-f", "json")
    listed = {image["name"]: image for image in done.json()}
    assert set(listed) == {"tiny.raw", "small.qcow2"}
    assert {image["source"] for image in listed.values()} == {"folder"}
    assert (listed["small.qcow2"]["format"], listed["tiny.raw"]["size"]) == ("qcow2", 4 * Mi)
    assert cli("image", "list", "--source", "folder", "-f", "json").json() == done.json()


def test_image_list_of_a_source_that_cannot_tell_is_an_error_only_if_it_is_asked_for(cli: Cli) -> None:
    assert_one_line(cli("image", "list", "--source", "http"), 1, "web server", "URL")
    assert_one_line(cli("image", "list", "--source", "bogus"), 1, "bogus", "folder")


def test_image_show_tells_what_is_declared_and_whether_it_is_cached(cli: Cli, raw_image: Path) -> None:
    before = cli("image", "show", raw_image, "-f", "json").json()
    assert (before["name"], before["format"], before["size"], before["cached"]) == ("tiny.raw", "raw", 4 * Mi, False)
    assert base_of(cli, raw_image) == before["base"]
    assert cli("image", "show", "tiny.raw", "-f", "json").json() == before | {"cached": True}
    assert_one_line(cli("image", "show", "nothing"), 1, "nothing")


def test_backend_list_shows_the_installed_drivers(cli: Cli) -> None:
    listed = {backend["name"]: backend for backend in cli("backend", "list", "-f", "json").json()}
    assert {"raw", "qcow2"} <= set(listed)
    assert listed["qcow2"]["driver"] == "qcow2"
    assert listed["qcow2"]["package"].startswith("imgbackend ")
    assert {"Backed", "Snapshottable", "Flattenable"} <= set(listed["qcow2"]["abilities"])
    assert listed["raw"]["state"] == "works"


def test_backend_list_shows_what_is_configured_and_why_a_backend_does_not_work(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "imgbackend.conf"
    file.write_text("[fast]\ndriver = raw\n[oslo_messaging_notifications]\ndriver = noop\n")
    words = ["--config-file", str(file), "--set", "images_type=not-installed"]
    listed = {backend["name"]: backend for backend in cli(*words, "backend", "list", "-f", "json").json()}
    assert (listed["fast"]["driver"], listed["fast"]["state"]) == ("raw", "works")
    assert (listed["not-installed"]["driver"], listed["not-installed"]["package"]) == ("not-installed", None)
    assert "not-installed" in listed["not-installed"]["state"]
    assert "oslo_messaging_notifications" not in listed


def test_backend_show_tells_capacity_and_traits(cli: Cli) -> None:
    shown = cli("backend", "show", "raw", "-f", "json").json()
    assert (shown["name"], shown["driver"], shown["state"]) == ("raw", "raw", "works")
    assert 0 < shown["free"] <= shown["total"]
    assert shown["traits"]["files"] is True
    assert isinstance(shown["options"], dict)
    assert_one_line(cli("backend", "show", "bogus"), 1, "bogus")


def test_the_value_of_a_secret_option_is_not_shown() -> None:
    opts = [cfg.StrOpt("pool", default="rbd"), cfg.StrOpt("key", secret=True), cfg.StrOpt("token", secret=True)]
    conf = cfg.ConfigOpts()
    conf.register_opts(opts, group="fast")
    conf([], default_config_files=[], default_config_dirs=[])
    conf.set_override("key", "hidden", group="fast")
    assert shown_options(conf["fast"], opts) == {"pool": "rbd", "key": "****", "token": None}
