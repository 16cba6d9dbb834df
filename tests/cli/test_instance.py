"""``imgbackend instance``, the real command on a real libvirtd."""

import hashlib
import json
import shutil
import signal
from pathlib import Path

import pytest

from cli.harness import Cli, assert_one_line
from imgbackend import Engine
from labs.libvirt import Guests, Libvirt, MakeGuests
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
        (["--image", "tiny.qcow2", "--root-size", "1M"], 1, "the image needs a disk of"),
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
