"""``cache prefetch``, ``list --tree``, ``usage``, ``prune`` and ``hosts`` as people and as machines read them."""

import json
import os
import subprocess
from pathlib import Path

from cli.harness import SECONDS, Cli, assert_one_line
from imgbackend.types import Gi, Mi
from labs.older import older_pass


def create(cli: Cli, instance: str, image: Path, name: str = "disk", kind: str = "qcow2") -> str:
    options = ("--name", name, "--images-type", kind, "-f", "json")
    return str(cli("disk", "create", instance, "--image", image, *options).json()["base"])


def test_prefetch_tells_of_each_image_and_a_failure_is_a_status(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    done = cli("cache", "prefetch", raw_image, qcow2_image.name, "-f", "json").json()
    assert [(each["status"], each["store"]) for each in done] == [("cached", "local")] * 2
    assert {base["name"] for base in cli("cache", "list", "-f", "json").json()} == {each["base"] for each in done}
    mixed = cli("cache", "prefetch", raw_image, "nothing", "-f", "json", "--at-once", "2")
    assert mixed.status == 1
    first, second = json.loads(mixed.out)
    assert (first["status"], second["status"]) == ("existing", "failed")
    assert "nothing" in second["reason"]
    assert create(cli, "web1", raw_image) == first["base"]


def test_prefetch_reads_lists_of_references(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    listed = cli.root / "list"
    listed.write_text(f"# those that everybody wants\n\n  {raw_image}   # small\n{raw_image}\n")
    argv = [*cli.argv("cache", "prefetch", "--from", listed, "--from", "-", "-f", "value", "-c", "status", "-c", "ref")]
    done = subprocess.run(
        argv,
        input=f"{qcow2_image}\n",
        env=cli.environment(),
        cwd=cli.root,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout.splitlines() == [f"cached {raw_image}", f"cached {qcow2_image}"] or done.stdout.splitlines() == [
        f"{raw_image} cached",
        f"{qcow2_image} cached",
    ]
    assert done.returncode == 0


def test_prefetch_of_nothing_and_of_a_list_that_is_not_there_is_refused(cli: Cli) -> None:
    assert_one_line(cli("cache", "prefetch"), 2, "--from")
    assert_one_line(cli("cache", "prefetch", "--from", cli.root / "none"), 1, "none")
    (cli.root / "binary").write_bytes(b"\xff\xfe\n")
    assert_one_line(cli("cache", "prefetch", "--from", cli.root / "binary"), 1, "no text")
    assert cli("cache", "prefetch", "x", "--at-once", "0").status == 2
    for seconds in ("-1", "nan", "inf", "soon", "86401"):
        refused = cli("cache", "prefetch", "x", f"--jitter={seconds}")
        assert (refused.status, f"'{seconds}' is no number of seconds" in refused.err) == (2, True), refused


def test_tree_shows_instances_below_the_base_that_they_hang_on(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    first = create(cli, "web1", raw_image)
    create(cli, "web1", raw_image, "disk.rescue")
    create(cli, "web2", raw_image)
    second = create(cli, "web3", qcow2_image)
    third = create(cli, "web4", raw_image, kind="raw")
    assert third == first
    rows = cli("cache", "list", "--tree", "-f", "json").json()
    below = {
        base: [(row["name"], row["disks"]) for row in rows[at + 1 :][: rows[at]["disks"]] if row["kind"] == "instance"]
        for at, base in ((at, row["name"]) for at, row in enumerate(rows) if row["kind"] == "base")
    }
    assert below[second] == [("web3", ["disk"])]
    assert below[first][:2] == [("web1", ["disk", "disk.rescue"]), ("web2", ["disk"])]
    table = cli("cache", "list", "--tree").out
    assert "├─ web1" in table
    assert "└─ web2" in table


def test_sources_are_asked_where_that_is_wanted(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    cli("cache", "prefetch", raw_image, qcow2_image)
    raw_image.unlink()
    assert "upstream" not in cli("cache", "list", "-f", "json").json()[0]
    found = cli("cache", "list", "--check-sources", "-f", "json", "-c", "source", "-c", "upstream").json()
    assert {each["source"]: each["upstream"] for each in found} == {str(raw_image): "gone", str(qcow2_image): "there"}


def test_usage_says_what_to_reserve(cli: Cli, raw_image: Path) -> None:
    create(cli, "web1", raw_image)
    [usage] = cli("cache", "usage", "-f", "json").json()
    assert Mi <= usage["taken"] <= usage["allocated"]
    assert usage["reserve"] == Gi


def test_usage_counts_what_bases_share_once(cli: Cli, raw_image: Path, xfs: Path) -> None:
    there = ("--set", f"instances_path={xfs}")
    name = cli(*there, "cache", "prefetch", raw_image, "-f", "json").json()[0]["base"]
    base = xfs / "_base" / str(name)
    subprocess.run(["cp", "--reflink=always", base, base.with_name("b" * 40)], check=True)
    os.sync()
    [usage] = cli(*there, "cache", "usage", "-f", "json").json()
    assert usage["bases"] == 2
    assert usage["allocated"] >= 2 * Mi
    assert usage["taken"] <= usage["allocated"] // 2 + (64 << 10), "shared extents count twice"
    assert usage["reserve"] == Gi


def test_dry_run_says_what_would_be_freed_in_sum(cli: Cli, raw_image: Path, qcow2_image: Path) -> None:
    for image in (raw_image, qcow2_image):
        base = cli.instances / "_base" / cli("cache", "prefetch", image, "-f", "json").json()[0]["base"]
        for path in (base, base.with_name(f"{base.name}.json")):
            os.utime(path, (0, 0))
    done = cli("cache", "prune", "--dry-run", "-f", "json")
    freed = sum(each["freed"] for each in done.json())
    assert freed >= 2 * Mi
    assert "2 of 2 bases would be removed, and free 2" in done.err
    assert sum(each["freed"] for each in cli("cache", "prune", "-f", "json").json()) == freed


def test_hosts_are_listed_and_forgotten(cli: Cli) -> None:
    (cli.instances / "_base").mkdir(parents=True)  # of a pass over an empty folder nobody is told
    assert cli("cache", "hosts", "-f", "json").json() == []
    assert cli("--set", "host=a", "cache", "prune").status == 0
    assert cli("--set", "host=b", "cache", "prune").status == 0
    found = cli("--set", "host=b", "cache", "hosts", "-f", "json").json()
    assert [(each["host"], each["alive"], each["here"]) for each in found] == [("a", True, False), ("b", True, True)]
    assert {each["version"] for each in found} == {"format 2"}
    older_pass(cli.instances, "c")
    found = cli("--set", "host=b", "cache", "hosts", "-f", "json").json()
    assert {each["host"]: each["version"] for each in found} == {"a": "format 2", "b": "format 2", "c": "older version"}
    assert len(cli("cache", "hosts", "--forget", "a", "--forget", "c", "-f", "json").json()) == 1
