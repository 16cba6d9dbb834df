"""``imgbackend instance``, the real command on a real libvirtd."""

import hashlib
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path

import pytest

from cli.harness import Cli, assert_one_line
from imgbackend import Engine
from labs import bootsector, tinylinux
from labs.libvirt import Guests, Libvirt, MakeGuests
from labs.tinylinux import TinyLinux
from labs.webserver import File, Site, site


@pytest.fixture
def host(cli: Cli, libvirt_daemon: Libvirt, make_guests: MakeGuests) -> Guests:
    """The command's own folder of instances, and libvirt for it."""
    guests = make_guests(libvirt_daemon, path=cli.instances)
    shutil.copy(guests.image, cli.images / "tiny.qcow2")
    cli.env |= {"OS_LIBVIRT__CONNECTION_URI": libvirt_daemon.uri, "OS_LIBVIRT__VIRT_TYPE": "qemu"}
    return guests


def test_life_of_an_instance(cli: Cli, host: Guests) -> None:
    name = host.name()
    words = [
        "--image",
        "tiny.qcow2",
        "--root-size",
        "1G",
        "--memory",
        "64M",
        "--swap",
        "16M",
        "--ephemeral",
        "16M:ext2",
    ]
    plan = cli("instance", "spawn", name, *words, "--config-drive", "--explain", "-f", "json").json()
    assert [(disk["name"], disk["way"]) for disk in plan["disks"]] == [
        ("disk", "overlay"),
        ("disk.eph0", "overlay"),
        ("disk.swap", "overlay"),
        ("disk.config", "generate"),
    ]
    assert not cli.instances.exists()
    made = cli("instance", "spawn", name, *words, "--config-drive", "--nic", "user", "-f", "json").json()
    assert (made["state"], made["existed"]) == ("running", False)
    assert {disk["name"]: disk["fetched"] for disk in made["disks"]}["disk"] is True
    assert host.sectors() == (1 << 30) // 512
    assert [row["instance"] for row in cli("instance", "list", "-f", "json").json()].count(name) == 1
    shown = cli("instance", "show", name, "-f", "json").json()
    assert {disk["name"] for disk in shown["disks"]} == {"disk", "disk.eph0", "disk.swap", "disk.config"}
    assert f"<name>{name}</name>" in shown["xml"]
    assert "BOOT OK" in cli("instance", "console", name).out
    assert cli("instance", "stop", name, "--timeout", "0.2", "-f", "json").json()["forced"] is True
    assert cli("instance", "start", name, "-f", "value", "-c", "state").out == "running\n"
    assert cli("instance", "reboot", name, "--hard", "-f", "value", "-c", "state").out == "running\n"
    assert cli("instance", "destroy", name).status == 0
    assert_one_line(cli("instance", "destroy", name), 1, "there is no instance", name)
    assert host.left() == set()


def test_kernel_and_ramdisk_are_booted_and_kept_byte_for_byte(cli: Cli, host: Guests, tiny_linux: TinyLinux) -> None:
    """By the raw driver, whatever images_type is; under the digest of their ids; named with the suffix."""
    spec = cli.root / "web.yaml"
    spec.write_text(f"image: tiny.qcow2\nmemory: 128M\nsuffix: .rescue\ncmdline: {tinylinux.CMDLINE}\n")
    words: list[str | Path] = ["--spec", spec, "--kernel", tiny_linux.kernel, "--ramdisk", tiny_linux.ramdisk]
    made = cli("instance", "spawn", host.name(), *words, "--images-type", "qcow2", "-f", "json").json()
    assert [disk["name"] for disk in made["disks"]] == ["kernel.rescue", "ramdisk.rescue", "disk.rescue"]
    assert tinylinux.told(host.until(tinylinux.DONE)).cmdline == tinylinux.CMDLINE
    shown = cli("instance", "show", host.name(), "-f", "json").json()["disks"]
    assert {disk["name"]: disk["images_type"] for disk in shown}["kernel.rescue"] == "raw"
    for disk, file in zip(made["disks"], (tiny_linux.kernel, tiny_linux.ramdisk), strict=False):
        assert (cli.instances / host.name() / disk["name"]).read_bytes() == file.read_bytes()
        manifest = json.loads((cli.instances / "_base" / f"{disk['base']}.json").read_text())
        assert hashlib.sha1(manifest["image_id"].encode(), usedforsecurity=False).hexdigest() == disk["base"]
        assert (cli.instances / "_base" / disk["base"]).read_bytes() == file.read_bytes()
    assert cli("instance", "destroy", host.name()).status == 0


def test_all_disks_of_an_instance_are_made(cli: Cli, host: Guests) -> None:
    spec = cli.root / "web.json"
    spec.write_text(json.dumps({"image": "tiny.qcow2", "memory": "64M", "local": {"size": "16M"}}))
    words: list[str | Path] = ["--spec", spec, "--ephemeral", "16M", "--ephemeral", "24M:ext2", "--swap", "16M"]
    assert cli("instance", "spawn", host.name(), *words).status == 0
    shown = cli("instance", "show", host.name(), "-f", "json").json()["disks"]
    assert {disk["name"]: disk["size"] >> 20 for disk in shown} == {
        "disk": 16,
        "disk.local": 16,
        "disk.eph0": 16,
        "disk.eph1": 24,
        "disk.swap": 16,
    }
    cli("instance", "destroy", host.name())


def test_progress_is_told_of_each_disk(cli: Cli, host: Guests) -> None:
    """Of what takes a while: here a server that keeps the command waiting until it is told of nothing else."""

    def wait(_file: File) -> None:
        time.sleep(0.5)

    with site() as web:
        web.files["/tiny.qcow2"] = File((cli.images / "tiny.qcow2").read_bytes(), on_get=wait)
        done = cli("instance", "spawn", host.name(), "--image", web.url("/tiny.qcow2"), "--memory", "64M")
    assert done.status == 0
    assert any(line.startswith("disk fetch: ") for line in done.err.splitlines()), done.err
    cli("instance", "destroy", host.name())


@pytest.mark.parametrize("verb", ["show", "start", "stop", "reboot", "console", "destroy"])
def test_instance_that_is_not_there_is_one_line(cli: Cli, host: Guests, verb: str) -> None:
    assert_one_line(cli("instance", verb, host.name()), 1, f"there is no instance {host.name()}")
    assert_one_line(cli("instance", verb, "a/../b"), 1, "not a name for an instance")
    assert host.left() == set()


def test_console_is_followed_until_the_guest_is_off(cli: Cli, host: Guests) -> None:
    bootsector.write_disk(cli.images / "ends.qcow2", 16 << 20, format="qcow2", marker="LAST WORDS", end="button")
    assert cli("instance", "spawn", host.name(), "--image", "ends.qcow2", "--memory", "64M").status == 0
    following = cli.start("instance", "console", host.name(), "--follow")
    host.until("LAST WORDS disk sectors=0x00008000")
    assert following.poll() is None, following.communicate()
    assert cli("instance", "stop", host.name(), "-f", "json").json()["forced"] is False
    out, err = following.communicate(timeout=60)
    assert (following.returncode, err) == (0, "")
    assert out.count("LAST WORDS") == 1
    cli("instance", "destroy", host.name())


def test_image_that_is_gone_is_had_from_another_host(cli: Cli, host: Guests, tmp_path: Path) -> None:
    content = (cli.images / "tiny.qcow2").read_bytes()
    with site() as web:
        web.files["/tiny.qcow2"] = File(content)
        ref = f"{web.url('/tiny.qcow2')}#sha256:{hashlib.sha256(content).hexdigest()}"
        with Engine.from_config([], {"instances_path": str(tmp_path / "elsewhere")}) as other:
            image = other.image(ref)
            other.disk("vm0").cache(image, image.filename)
            web.files |= {f"/bases/{path.name}": File(path.read_bytes()) for path in other.host.bases.iterdir()}
        web.files["/tiny.qcow2"] = File(status=404, head=404)
        cli.env["OS_SOURCES__FALLBACK_URL"] = web.url("/bases").replace("127.0.0.1", "{host}")
        words = ["instance", "spawn", host.name(), "--image", ref, "--memory", "64M", "-f", "json"]
        assert_one_line(cli(*words), 1, "the server has no such image (404)")
        done = cli(*words, "--fallback-from-host", "127.0.0.1")
    assert done.json()["disks"][0]["fetched"] is True
    assert "127.0.0.1 is asked for its base" in done.err
    assert host.sectors() == (16 << 20) // 512
    assert cli("instance", "destroy", host.name()).status == 0


def test_spec_of_a_file_is_spawned_and_overridden(cli: Cli, host: Guests) -> None:
    (cli.root / "motd").write_text("hello\n")
    spec = cli.root / "web.yaml"
    spec.write_text(
        "id: other\nimage: tiny.qcow2\nmemory: 64M\nswap: 16M\nconfig_drive: {}\n"
        "files: [{path: /etc/motd, content: {file: motd}}]\n"
    )
    made = cli("instance", "spawn", host.name(), "--spec", spec, "--swap", "32M", "-f", "json").json()
    sizes = {disk["name"]: disk["size"] for disk in made["disks"]}
    assert sizes["disk.swap"] == 32 << 20
    assert b"hello\n" in (cli.instances / host.name() / "disk.config").read_bytes()
    cli("instance", "destroy", host.name())


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["--image", "tiny.qcow2", "--nic", "bridge:nosuchbr"], 1, "there is no bridge nosuchbr"),
        (["--image", "tiny.qcow2", "--file", "/etc/motd"], 2, "is not DEST=SRC"),
        (["--image", "tiny.qcow2", "--file", "/etc/motd=/etc/hostname"], 1, "only a config drive"),
        (
            ["--image", "tiny.qcow2", "--root-size", "1M"],
            1,
            "the image needs a disk of 16777216 bytes, and the disk allows 1048576 bytes",
        ),
        (["--image", "nosuchimage"], 1, "nosuchimage"),
        ([], 1, "give one, or a volume to boot from"),
        (["--image", "tiny.qcow2", "--memory", "512"], 1, "memory: 512 bytes are too few"),
        (["--image", "tiny.qcow2", "--password-file", "gone"], 1, "--password-file: cannot read gone"),
        (["--image", "tiny.qcow2", "--password-file", "/dev/null"], 1, "there is no password in the first line"),
        (["--image", "tiny.qcow2", "--password-file", "images/tiny.qcow2"], 1, "is no text"),
        (["--image", "tiny.qcow2", "--spec", "gone.yaml"], 1, "cannot read gone.yaml"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    cli: Cli, host: Guests, words: list[str], status: int, told: str
) -> None:
    assert_one_line(cli("instance", "spawn", host.name(), *words), status, told)
    assert not (cli.instances / host.name()).exists()


def test_option_for_the_config_drive_leaves_what_the_file_says_of_it(cli: Cli, host: Guests) -> None:
    (cli.root / "cloud.cfg").write_text("#cloud-config\n# mine\n")
    spec = cli.root / "web.yaml"
    spec.write_text("image: tiny.qcow2\nmemory: 64M\nconfig_drive: {hostname: frontend}\n")
    words: list[str | Path] = ["--spec", spec, "--config-drive", "--user-data", cli.root / "cloud.cfg"]
    assert cli("instance", "spawn", host.name(), *words).status == 0
    drive = (cli.instances / host.name() / "disk.config").read_bytes()
    assert b'"hostname": "frontend"' in drive
    assert b"# mine\n" in drive
    cli("instance", "destroy", host.name())


def test_libvirt_that_is_not_there_is_told(cli: Cli, host: Guests) -> None:
    cli.env["OS_LIBVIRT__CONNECTION_URI"] = "qemu+unix:///system?socket=/nowhere"
    assert_one_line(
        cli("instance", "spawn", host.name(), "--image", "tiny.qcow2"), 1, "cannot reach libvirt", "libvirtd"
    )
    assert_one_line(cli("instance", "list"), 1, "cannot reach libvirt")


def test_password_is_read_from_a_file_and_shown_nowhere(cli: Cli, host: Guests) -> None:
    word = "hunter2"
    (cli.root / "password").write_text(f"{word}\n")
    words = [
        "--image",
        "tiny.qcow2",
        "--memory",
        "64M",
        "--config-drive",
        "--password-file",
        str(cli.root / "password"),
    ]
    done = cli("-vv", "instance", "spawn", host.name(), *words)
    assert done.status == 0, done.err
    assert word not in done.out + done.err
    holders = [path for path in cli.instances.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]
    assert holders == [cli.instances / host.name() / "disk.config"]
    cli("instance", "destroy", host.name())


def test_ctrl_c_in_a_spawn_leaves_nothing(cli: Cli, host: Guests, tmp_path: Path) -> None:
    """While an image is fetched that never ends."""
    site = Site()
    try:
        site.files["/slow.raw"] = File(bytes(1 << 20), stalls=[1 << 19] * 8)
        running = cli.start("instance", "spawn", host.name(), "--image", site.url("/slow.raw"))
        while not site.asked("GET", "/slow.raw"):
            assert running.poll() is None, running.communicate()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    finally:
        site.close()
    assert running.returncode == 130
    assert err.splitlines()[-1] == "imgbackend: cancelled; nothing was left behind"
    assert host.domains() == set()
    assert not (cli.instances / host.name()).exists()
    assert json.loads(cli("disk", "list", "-f", "json").out) == []


@pytest.mark.parametrize("verb", ["spawn", "start", "stop", "reboot", "destroy"])
def test_ctrl_c_ends_the_wait_for_another_command(cli: Cli, host: Guests, verb: str) -> None:
    """Which may fetch for hours; here the test itself is that one."""
    words = ["--image", "tiny.qcow2", "--memory", "64M"]
    assert cli("instance", "spawn", host.name(), *words).status == 0
    with host.engine().host.locks.instance(host.name()):
        waiting = cli.start("instance", verb, host.name(), *(words if verb == "spawn" else []))
        assert waiting.stderr is not None
        assert select.select([waiting.stderr], [], [], 60)[0], "it tells that it waits"
        assert waiting.stderr.readline().endswith("wait\n")
        waiting.send_signal(signal.SIGINT)
        _, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, err) == (130, f"imgbackend: cancelled; the instance {host.name()} is running\n")
    assert cli("instance", "destroy", host.name()).status == 0


def test_instance_of_another_host_is_refused_listed_with_all_hosts_and_taken_over(cli: Cli, host: Guests) -> None:
    name = host.name()
    cli.env["OS_DEFAULT__HOST"] = "node1"
    assert cli("instance", "spawn", name, "--image", "tiny.qcow2", "--memory", "64M").status == 0
    assert cli("instance", "stop", name, "--timeout", "0").status == 0
    cli.env["OS_DEFAULT__HOST"] = "node2"
    assert_one_line(cli("instance", "start", name), 1, name, "is the host node1", "--take-over")
    assert cli("instance", "list", "-f", "json").json() == []
    assert cli("disk", "list", "-f", "json").json() == []
    [listed] = [row for row in cli("instance", "list", "--all-hosts", "-f", "json").json() if row["instance"] == name]
    assert listed["owner"].startswith("the host node1 (folder ")
    [disk] = cli("disk", "list", "--all-hosts", "-f", "json").json()
    assert (disk["instance"], disk["owner"]) == (name, listed["owner"])
    assert cli("instance", "start", name, "--take-over", "-f", "value", "-c", "state").out == "running\n"
    assert [row["instance"] for row in cli("instance", "list", "-f", "json").json()] == [name]
    assert cli("instance", "destroy", name).status == 0


def test_instance_whose_folder_may_not_be_looked_into_hides_no_other(cli: Cli, host: Guests) -> None:
    """Without the privileges by which root looks into it all the same; a server that squashes root takes them too."""
    names = [host.name(label) for label in "ab"]
    for name in names:
        assert cli("instance", "spawn", name, "--image", "tiny.qcow2", "--memory", "64M").status == 0
    folder = host.instances_path / names[0]
    folder.chmod(0)
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    try:
        done = cli.run([*bound, *cli.argv("instance", "list", "-f", "json")])
    finally:
        folder.chmod(0o711)
    assert {row["instance"] for row in done.json()} >= set(names)
    assert f"Cannot tell whose the instance {names[0]} is" in done.err
    for name in names:
        assert cli("instance", "destroy", name).status == 0


def test_instance_is_released_on_one_host_and_taken_on_another(cli: Cli, host: Guests) -> None:
    name = host.name()
    cli.env["OS_DEFAULT__HOST"] = "node1"
    made = cli("instance", "spawn", name, "--image", "tiny.qcow2", "--memory", "64M", "-f", "json").json()
    assert_one_line(cli("instance", "release", name), 1, name, "imgbackend instance stop")
    assert cli("instance", "stop", name, "--timeout", "0").status == 0
    assert cli("instance", "release", made["uuid"], "-f", "json").json() == {"instance": made["uuid"], "released": True}
    assert_one_line(cli("instance", "start", name), 1, f"{name} is nobody's", "imgbackend instance take")
    cli.env["OS_DEFAULT__HOST"] = "node2"
    taken = cli("instance", "take", name, "-f", "json").json()
    assert taken == {"instance": name, "taken": True, "disks": ["disk"]}
    assert cli("instance", "start", name, "-f", "value", "-c", "state").out == "running\n"
    assert cli("instance", "destroy", name).status == 0
    assert_one_line(cli("instance", "take", name), 1, f"there is no instance {name}")
    assert host.left() == set()


def test_disks_of_an_instance_are_grown_under_its_guest_and_not_deleted_under_it(cli: Cli, host: Guests) -> None:
    name = host.name()
    made = cli("instance", "spawn", name, "--image", "tiny.qcow2", "--memory", "64M", "-f", "json").json()
    grown = cli("disk", "resize", made["uuid"], "64M", "-f", "json").json()
    assert (grown["instance"], grown["size"], grown["grown"]) == (name, 64 << 20, True)
    assert cli("instance", "stop", made["uuid"], "--timeout", "0").status == 0
    assert_one_line(cli("disk", "delete", made["uuid"]), 1, f"imgbackend instance destroy {name}", "--force")
    assert cli("disk", "delete", name, "--force", "-f", "json").json()["deleted"] is True
    assert cli("instance", "destroy", made["uuid"]).status == 0
    assert host.left() == set()
