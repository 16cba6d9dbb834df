"""``imgbackend cache verify`` and ``imgbackend cache leftovers``."""

import os
import time
from pathlib import Path

import pytest

from cli.harness import Cli, assert_one_line
from imgbackend.types import Mi


def flip(path: Path, at: int) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def base(cli: Cli, raw_image: Path) -> Path:
    """With a disk on it."""
    made = cli("disk", "create", "web1", "--image", raw_image, "-f", "json").json()
    return cli.instances / "_base" / str(made["base"])


def test_verify_tells_what_is_sound_and_list_when_that_was(cli: Cli, base: Path) -> None:
    done = cli("cache", "verify", "--all", "-f", "json")
    [row] = done.json()
    assert (row["name"], row["found"], row["disks"], row["aside"]) == (base.name, "sound", [], None)
    assert "1 of 1 bases are sound, 0 are not" in done.err
    [listed] = cli("cache", "list", "-f", "json").json()
    assert abs(listed["verified"] - time.time()) < 600
    assert cli("cache", "show", base.name, "-f", "json").json()["verified"] == listed["verified"]


def test_verify_puts_a_bad_base_aside_tells_who_uses_it_and_ends_with_1(cli: Cli, base: Path, raw_image: Path) -> None:
    flip(base, Mi // 2)
    done = cli("cache", "verify", base.name[:8], "-f", "json")
    assert done.status == 1
    assert '"bad"' in done.out
    assert '"web1/disk"' in done.out
    [aside] = base.parent.glob("*.bad-*")
    assert str(aside) in done.out
    assert cli("disk", "create", "web2", "--image", raw_image, "-f", "json").json()["fetched"]
    assert cli("cache", "verify", "--all", "-f", "json").json()[0]["found"] == "sound"


def test_usage_counts_what_was_put_aside_and_what_is_being_fetched(cli: Cli, base: Path) -> None:
    """It takes room, though it is no base."""
    before = cli("cache", "usage", "-f", "json").json()[0]["taken"]
    flip(base, Mi // 2)
    assert cli("cache", "verify", base.name, "-f", "json").status == 1
    base.with_name(f"{'a' * 40}.part").write_bytes(os.urandom(Mi))
    [usage] = cli("cache", "usage", "-f", "json").json()
    assert (usage["bases"], usage["allocated"]) == (0, 0)
    assert usage["taken"] >= before + Mi


def test_verify_takes_a_sample_at_a_rate(cli: Cli, base: Path, qcow2_image: Path) -> None:
    cli("disk", "create", "web2", "--image", qcow2_image)
    first = cli("cache", "verify", "--sample", "1", "--rate", "100M", "-f", "json").json()
    second = cli("cache", "verify", "--sample", "1", "--quiet", "-f", "json").json()
    assert len(first) == len(second) == 1
    assert first[0]["name"] != second[0]["name"]


def test_verify_of_nothing_and_of_everything_is_wrong_usage(cli: Cli, base: Path) -> None:
    assert_one_line(cli("cache", "verify"), 2, "--all")
    assert_one_line(cli("cache", "verify", base.name, "--all"), 2)
    assert cli("cache", "verify", "--sample", "0").status == 2
    assert_one_line(cli("cache", "verify", "f" * 40), 1, "there is no base")
    assert_one_line(cli("cache", "verify", "--all", "--store", "attic"), 1, "no store attic", "local")


def test_verify_and_show_take_the_image_as_it_was_asked_for(cli: Cli, base: Path, raw_image: Path) -> None:
    assert [row["name"] for row in cli("cache", "verify", raw_image, "-f", "json").json()] == [base.name]
    assert cli("cache", "show", raw_image, "-f", "json").json()["name"] == base.name
    assert_one_line(cli("cache", "verify", f"{raw_image}.none"), 1, "there is no base", f"{raw_image}.none")


def test_verify_of_all_ends_with_1_where_a_store_does_not_answer(cli: Cli, base: Path, tmp_path: Path) -> None:
    """Its bases were not verified; those that are named were."""
    (tmp_path / "x.conf").write_text("[shelf]\ndriver = rbd\nceph_conf = /none/ceph.conf\n")
    words = ("--config-file", tmp_path / "x.conf", "cache", "verify", "-f", "value", "-c", "found")
    done = cli(*words, "--all")
    assert (done.status, done.out) == (1, "sound\n")
    assert "the backend shelf cannot be opened" in done.err
    assert cli(*words, base.name).status == 0


def left(cli: Cli, name: str, seconds: float) -> Path:
    path, then = cli.instances / name, time.time() - seconds
    path.write_bytes(bytes(8192))
    os.utime(path, (then, then))
    return path


def test_leftovers_are_listed_and_the_dead_removed(cli: Cli, base: Path) -> None:
    dead, alive = left(cli, f"_base/{'a' * 40}.part", 7200), left(cli, "web1/.disk.eph0.part", 5)
    done = cli("cache", "leftovers", "-f", "json")
    assert {(row["name"], row["kind"], row["state"]) for row in done.json()} == {
        (f"_base/{dead.name}", "fetch", "dead"),
        ("web1/.disk.eph0.part", "disk", "kept"),
    }
    assert all(row["size"] == 8192 and row["changed"] and row["reason"] for row in done.json())
    assert "1 of 2 leftovers are dead: 8 KiB" in done.err
    assert dead.exists()
    done = cli("cache", "leftovers", "--remove", "-f", "json")
    assert {row["state"] for row in done.json()} == {"removed", "kept"}
    assert not dead.exists()
    assert alive.exists()
    assert base.exists()


def test_prune_lists_and_removes_leftovers_too(cli: Cli, base: Path) -> None:
    dead = left(cli, f"_base/{'a' * 40}.converted", 7200)
    dry = cli("cache", "prune", "--dry-run", "-f", "json")
    [row] = dry.json()
    assert (row["name"], row["action"]) == (f"_base/{dead.name}", "would be removed")
    assert "left behind" in row["reason"]
    assert dead.exists()
    done = cli("cache", "prune", "-f", "json")
    assert [row["action"] for row in done.json()] == ["removed"]
    assert "1 leftovers" in done.err
    assert not dead.exists()


def test_leftovers_of_a_host_without_a_disk_are_none(cli: Cli) -> None:
    assert cli("cache", "leftovers", "-f", "json").json() == []
    assert cli("cache", "verify", "--all", "-f", "json").json() == []
