"""``imgbackend cache pin``, ``unpin`` and ``prune``, for bases of the folder and of a store."""

import json
import os
import time
from pathlib import Path

import pytest

from cli.harness import Cli, Done, assert_one_line
from imgbackend.types import Mi
from labs.able_site import able_site

_DAYS = 9 * 86400


def age(path: Path, seconds: float = _DAYS) -> None:
    then = time.time() - seconds
    for each in (path, path.with_name(f"{path.name}.json")):
        if each.exists():
            os.utime(each, (then, then))


def unused_base(cli: Cli, image: Path) -> Path:
    made = cli("disk", "create", "brief", "--image", image, "-f", "json").json()
    assert cli("disk", "delete", "brief").status == 0
    path = cli.instances / "_base" / str(made["base"])
    age(path)
    return path


@pytest.fixture
def able(cli: Cli, tmp_path: Path) -> Cli:
    """The command where a backend ``shelf`` keeps bases in its store."""
    file = tmp_path / "imgbackend.conf"
    file.write_text(f"[shelf]\ndriver = able\nfolder = {tmp_path / 'shelf'}\n")
    (tmp_path / ".imgbackend").mkdir()
    file.rename(tmp_path / ".imgbackend" / "imgbackend.conf")
    cli.env["PYTHONPATH"] = able_site(tmp_path / "site")
    return cli


@pytest.fixture
def both(able: Cli, raw_image: Path, tmp_path: Path) -> tuple[Path, Path]:
    """One base, in the folder and in the store."""
    create = ("disk", "create", "--image", raw_image, "-f", "json")
    name = str(able(*create, "web1").json()["base"])
    assert able(*create, "web2", "--images-type", "shelf").json()["base"] == name
    return able.instances / "_base" / name, tmp_path / "shelf" / "bases" / name


def told(done: Done) -> dict[str, str]:
    """What was done, by store."""
    return {row["store"]: row["action"] for row in done.json()}


def test_prune_lists_what_goes_why_and_how_much(cli: Cli, raw_image: Path) -> None:
    path = unused_base(cli, raw_image)
    dry = cli("cache", "prune", "--dry-run", "-f", "json")
    [row] = dry.json()
    assert (row["store"], row["name"], row["action"]) == ("local", path.name, "would be removed")
    assert row["reason"] == "unused for 9 days"
    assert Mi <= row["allocated"] < 2 * Mi
    assert dry.err == "imgbackend: 1 of 1 bases would be removed, and free 1 MiB\n"
    assert path.exists()
    done = cli("cache", "prune", "-f", "json")
    assert told(done) == {"local": "removed"}
    assert done.err == "imgbackend: 1 of 1 bases removed, and freed 1 MiB\n"
    assert not path.exists()
    assert cli("--quiet", "cache", "prune", "-f", "json") == Done(0, "[]\n", "")


def test_prune_shows_what_stays_where_it_is_asked_to(cli: Cli, raw_image: Path) -> None:
    assert cli("disk", "create", "web1", "--image", raw_image).status == 0
    assert cli("cache", "prune", "-f", "json").json() == []
    [row] = cli("cache", "prune", "--all", "-f", "json").json()
    assert (row["action"], row["reason"]) == ("kept", "1 disk hangs on it")


def test_list_show_and_usage_tell_a_base_of_the_folder_from_one_of_a_store(able: Cli, both: tuple[Path, Path]) -> None:
    listed = {base["store"]: base for base in able("cache", "list", "-f", "json").json()}
    assert {store: base["name"] for store, base in listed.items()} == {"local": both[0].name, "shelf": both[0].name}
    assert {base["users"] for base in listed.values()} == {1}
    assert_one_line(able("cache", "show", both[0].name), 2, "local, shelf", "--store")
    shown = able("cache", "show", both[0].name, "--store", "shelf", "-f", "json").json()
    assert (shown["disks"], shown["path"], shown["children"]) == (["web2/disk"], None, None)
    assert able("cache", "show", both[0].name, "--store", "local", "-f", "json").json()["path"] == str(both[0])
    assert_one_line(able("cache", "show", both[0].name, "--store", "nothing"), 1, "nothing")
    usage = {row["store"]: row for row in able("cache", "usage", "-f", "json").json()}
    assert {store: (row["bases"], row["in_use"], row["size"]) for store, row in usage.items()} == {
        "local": (1, 1, 4 * Mi),
        "shelf": (1, 1, 4 * Mi),
    }
    assert usage["shelf"]["total"] >= usage["shelf"]["free"] > 0


def test_verify_tells_bases_of_stores_and_list_which_was_put_aside(able: Cli, both: tuple[Path, Path]) -> None:
    done = able("cache", "verify", "--all", "-f", "json").json()
    assert {(row["store"], row["found"]) for row in done} == {("local", "sound"), ("shelf", "sound")}
    assert all(row["verified"] for row in able("cache", "list", "-f", "json").json())
    with both[1].open("r+b") as file:
        file.seek(Mi // 2)
        file.write(b"flipped")
    bad = able("cache", "verify", both[1].name[:9], "--store", "shelf", "-f", "json")
    assert bad.status == 1
    [row] = json.loads(bad.out)
    assert (row["found"], row["disks"]) == ("bad", ["web2/disk"])
    listed = {each["name"]: each for each in able("cache", "list", "-f", "json").json()}
    assert (listed[row["aside"]]["store"], listed[row["aside"]]["bad"]) == ("shelf", row["reason"])
    assert able("cache", "show", row["aside"], "-f", "json").json()["disks"] == ["web2/disk"]
    assert listed[both[0].name]["bad"] is None, "the one in the folder is bad too"
    again = able("cache", "verify", "--all", "-f", "json")
    assert again.status == 0
    assert {each["name"]: each["found"] for each in again.json()} == {
        both[0].name: "sound",
        row["aside"]: "skipped",
    }


def test_pin_keeps_a_base_wherever_it_is_until_it_is_unpinned(able: Cli, both: tuple[Path, Path]) -> None:
    for instance in ("web1", "web2"):
        assert able("disk", "delete", instance).status == 0
    name = both[0].name
    pinned = able("cache", "pin", name[:8], "-f", "json").json()
    assert [(row["store"], row["name"], row["pinned"], row["cached"]) for row in pinned] == [
        ("local", name, True, True),
        ("shelf", name, True, True),
    ]
    assert {row["store"]: row["pinned"] for row in able("cache", "list", "-f", "json").json()} == {
        "local": True,
        "shelf": True,
    }
    for path in both:
        age(path)
    kept = able("cache", "prune", "--all", "-f", "json")
    assert {row["reason"] for row in kept.json()} == {"pinned"}
    assert [row["store"] for row in able("cache", "unpin", name, "--store", "shelf", "-f", "json").json()] == ["shelf"]
    for path in both:
        age(path)
    assert told(able("cache", "prune", "-f", "json")) == {"shelf": "removed"}
    assert [path.exists() for path in both] == [True, False]


def test_image_is_pinned_before_it_is_cached(able: Cli, raw_image: Path, qcow2_image: Path) -> None:
    [row] = able("cache", "pin", raw_image, "-f", "json").json()
    assert (row["store"], row["cached"], row["pinned"]) == ("local", False, True)
    made = able("disk", "create", "web1", "--image", raw_image, "-f", "json").json()
    assert made["base"] == row["name"]
    [base] = able("cache", "list", "-f", "json").json()
    assert base["pinned"] is True
    [row] = able("--set", "images_type=shelf", "cache", "pin", qcow2_image, "-f", "json").json()
    assert (row["store"], row["cached"], row["pinned"]) == ("shelf", False, True)
    assert [row["store"] for row in able("cache", "unpin", qcow2_image, "-f", "json").json()] == ["shelf"]
    assert able("cache", "unpin", qcow2_image, "-f", "json").json() == []


def test_pin_of_what_is_nowhere_is_an_error(able: Cli, raw_image: Path) -> None:
    assert_one_line(able("cache", "pin", "no-such-image"), 1, "no-such-image")
    assert_one_line(able("cache", "pin", raw_image, "--store", "attic"), 1, "attic", "local, shelf")


@pytest.mark.parametrize("what", ["folder", "disk", "folder that is going"])
def test_prune_removes_nothing_and_ends_with_1_where_a_disk_cannot_be_looked_at(
    cli: Cli, raw_image: Path, qcow2_image: Path, what: str
) -> None:
    """Without the privileges by which root reads what it may not."""
    assert cli("disk", "create", "web1", "--image", qcow2_image).status == 0
    path = unused_base(cli, raw_image)
    disk = cli.instances / "web1" / "disk"
    blocked = disk if what == "disk" else disk.parent
    if what == "folder that is going":
        blocked = blocked.rename(blocked.with_name("web1_del"))
    blocked.chmod(0)
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    try:
        done = cli.run([*bound, *cli.argv("cache", "prune", "-f", "json")])
    finally:
        blocked.chmod(0o711)
    assert done.status == 1
    assert done.out == "[]\n"
    assert str(blocked) in done.err
    assert "Permission denied" in done.err
    assert "0 of 2 bases removed" in done.err
    assert path.exists()


def test_prune_tells_of_a_store_that_does_not_answer_and_does_the_rest(
    able: Cli, raw_image: Path, tmp_path: Path
) -> None:
    unused_base(able, raw_image)
    (tmp_path / "shelf").write_text("no folder")
    done = able("cache", "prune", "-f", "value", "-c", "action")
    assert (done.status, done.out) == (1, "removed\n")
    assert "the backend shelf cannot be opened" in done.err
    listed = able("cache", "list", "-f", "json")
    assert listed.json() == []
    assert "the backend shelf cannot be opened" in listed.err
