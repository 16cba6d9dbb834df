"""Names that are none are refused before they meet a path, an option or a header."""

from pathlib import Path

import pytest

from cli.harness import Cli, assert_one_line
from imgbackend import errors
from imgbackend.driver.abilities import Snapshottable
from imgbackend.types import Ki, Mi
from labs.images import qcow2
from trust.conftest import MakeEngine, assert_nothing_left
from trust.conftest import assert_one_line as assert_one_line_of

ESCAPES = ["", ".", "..", "/", "../x", "a/b", "/etc/passwd", "a\\b"]
ODD = ["a b", "a,b", "a:b", "a;b", "a=b", "a%sb", "$(id)", "a'b", 'a"b', "a\nb", "a\n", "\ta", "a\0b", "ü", "a\u202eb"]
OPTIONS = ["-x", "--help", "-", "--"]
TOO_LONG = ["a" * 256, "a" * 5000]

INSTANCES = [*ESCAPES, *ODD, *OPTIONS, *TOO_LONG, "a" * 64, "a_b", "_a", ".a", "a..b"]
RESERVED = ["locks", "snapshots", "compute_nodes", "_base"]
DISKS = [*ESCAPES, *ODD, *OPTIONS, *TOO_LONG, "Disk", "disk.", "disk.X", "disk.a.b", "disks.json"]
DISKS += ["disk.info", "disk.part", "disk.rescue.json", "disk_1", "kernel.", ".disk", "libvirt.xml", "console.log"]
SNAPSHOTS = [*ESCAPES, *ODD, *OPTIONS, *TOO_LONG, "1", "123", "_a", ".a"]
BASES = [*ESCAPES, *ODD, *OPTIONS, *TOO_LONG, "a" * 39, "g" * 40, "A" * 40, "a" * 40 + "_", "a" * 40 + ".part"]
BASES += ["gen-", "gen-" + "a" * 39, "swap_", "swap_-1", "ephemeral_1_../x", "a" * 40 + "\n"]
REFERENCES = [
    "",
    ".",
    "..",
    "/",
    "../x",
    "a/b",
    *ODD,
    *TOO_LONG,
    "nowhere://x",
    "glance://x/../y",
    "file://host/x",
    "file:///",
    "http://",
]


@pytest.mark.parametrize("name", [*INSTANCES, *RESERVED])
def test_bad_name_of_an_instance_is_refused(name: str, make_engine: MakeEngine, instances: Path) -> None:
    with pytest.raises(errors.ConfigError, match="instance") as caught:
        make_engine().disk(name)
    assert_one_line_of(caught.value)
    assert list(instances.iterdir()) == []


def test_folder_of_the_bases_is_no_instance(make_engine: MakeEngine) -> None:
    with pytest.raises(errors.ConfigError, match="folder of the bases"):
        make_engine(image_cache__subdirectory_name="bases").disk("bases")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "locks", "snapshots", "/"])
def test_bad_folder_for_the_bases_is_refused(name: str, make_engine: MakeEngine) -> None:
    with pytest.raises(errors.ConfigError, match="subdirectory_name"):
        make_engine(image_cache__subdirectory_name=name)


@pytest.mark.parametrize("name", DISKS)
def test_bad_name_of_a_disk_is_refused(name: str, make_engine: MakeEngine, instances: Path) -> None:
    with pytest.raises(errors.ConfigError, match="disk") as caught:
        make_engine().disk("web1", name)
    assert_one_line_of(caught.value)
    assert list(instances.iterdir()) == []


@pytest.mark.parametrize("name", BASES)
def test_bad_name_of_a_base_is_refused(name: str, make_engine: MakeEngine, instances: Path, images: Path) -> None:
    (images / "a.raw").write_bytes(bytes(Ki))
    engine = make_engine()
    with pytest.raises(errors.DiskError, match="base") as caught:
        engine.disk("web1").cache(engine.image("a.raw"), name)
    assert_one_line_of(caught.value)
    assert_nothing_left(instances)


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_bad_name_of_a_snapshot_is_refused(name: str, make_engine: MakeEngine, instances: Path) -> None:
    disk = make_engine(images_type="qcow2").disk("web1")
    assert isinstance(disk, Snapshottable)
    with pytest.raises(errors.DiskError, match="snapshot") as caught:
        disk.create_snap(name)
    assert_one_line_of(caught.value)
    assert list(instances.iterdir()) == []


@pytest.mark.parametrize("ref", REFERENCES)
def test_bad_reference_is_refused(ref: str, make_engine: MakeEngine, instances: Path) -> None:
    with pytest.raises((errors.ImageNotFound, errors.ConfigError)) as caught:
        make_engine().image(ref)
    assert_one_line_of(caught.value)
    assert list(instances.iterdir()) == []


def test_bare_name_does_not_leave_its_folder(make_engine: MakeEngine, secret: Path) -> None:
    with pytest.raises(errors.ImageNotFound):
        make_engine().image(f"folder:../{secret.name}")


# The same through the command: one line and status 1, or 2 where it is read as an option.


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    tmp_path.chmod(0o755)
    made = Cli(tmp_path, tmp_path / "cache")
    made.images.mkdir()
    qcow2(made.images / "a.qcow2", Mi)
    return made


def test_command_refuses_bad_names(cli: Cli) -> None:
    create = ["disk", "create", "--image", "a.qcow2"]
    for name in ["..", "a/b", "a_b", "a,b", "a\nb", "locks", "a" * 64]:
        assert_one_line(cli(*create, name), 1, "instance")
    for name in ["..", "disk,x", "disk.info", "disk\n"]:
        assert_one_line(cli(*create, "web1", "--name", name), 1, "disk")
    for ref in ["../a.qcow2", "a\nb", "nowhere://a"]:
        assert_one_line(cli("disk", "create", "web1", "--image", ref), 1)
    assert not cli.instances.exists() or cli.files() == set()


def test_command_reads_a_dash_as_an_option(cli: Cli) -> None:
    for words in (["-x"], ["--nothing"], ["web1", "--name"], ["web1", "--name", "-x"]):
        done = cli("disk", "create", "--image", "a.qcow2", *words)
        assert done.status == 2
        assert "Traceback" not in done.err
    assert_one_line(cli("disk", "create", "--image", "a.qcow2", "--", "-x"), 1, "instance")
    assert not cli.instances.exists() or cli.files() == set()


def test_command_refuses_bad_snapshot_names(cli: Cli) -> None:
    assert cli("disk", "create", "web1", "--image", "a.qcow2").status == 0
    for name in ["..", "a,b", "1", "a\nb"]:
        assert_one_line(cli("disk", "snapshot", "create", "web1", name), 1, "snapshot")
    assert cli("disk", "snapshot", "create", "web1", "-x").status == 2
    assert cli("disk", "snapshot", "list", "web1", "-f", "json").json() == []
