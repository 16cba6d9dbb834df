"""A driver that is a distribution of its own: built, installed beside our wheel, selected, tried, and booted from."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from imgbackend.types import Gi, Mi
from labs import bootsector, wheels

_EXAMPLE: Final = wheels.ROOT / "doc/examples/imgbackend-btrfs"
_MARKER: Final = "Hello from btrfs"
_QEMU: Final = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg", "-m", "64", "-nodefaults", "-no-reboot"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a virtual environment with our wheel and the example's, each built from its own tree."""
    folder = tmp_path_factory.mktemp("third-party")
    ours = wheels.build(wheels.copied(wheels.ROOT, folder / "ours"), "wheel")
    theirs = wheels.build(wheels.copied(_EXAMPLE, folder / "theirs"), "wheel")
    return wheels.installed(folder / "venv", ours, theirs)


class Host:
    """A host with ``images_type = btrfs``, its instances on btrfs, and a bootable image."""

    def __init__(self, installed: Path, btrfs: Path, folder: Path) -> None:
        self._installed, self._folder = installed, folder
        (folder / "imgbackend.conf").write_text(f"[DEFAULT]\nimages_type = btrfs\ninstances_path = {btrfs}/instances\n")
        bootsector.write_disk(folder / "tiny.qcow2", 64 * Mi, format="qcow2", marker=_MARKER, end="poweroff")

    def __call__(self, *words: str) -> Any:
        """What the command prints as JSON."""
        command = ["imgbackend", "--config-file", "imgbackend.conf", "--quiet", *words, "-f", "json"]
        return json.loads(wheels.run(self._installed, self._folder, *command))


@pytest.fixture
def host(installed: Path, btrfs: Path, tmp_path: Path) -> Host:
    return Host(installed, btrfs, tmp_path)


def _console(disk: dict[str, Any]) -> str:
    """What a guest writes that is booted from the disk."""
    drive = f"file={disk['location'].replace(',', ',,')},format={disk['format']},if=virtio"
    done = subprocess.run(
        [*_QEMU, "-display", "none", "-serial", "stdio", "-drive", drive],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=True,
    )
    return done.stdout.decode("ascii", "replace")


def test_driver_of_a_third_party_comes_from_its_own_wheel(installed: Path, tmp_path: Path) -> None:
    program = "import imgbackend, imgbackend_btrfs; print(imgbackend.__file__, imgbackend_btrfs.__file__)"
    for path in wheels.run(installed, tmp_path, "python", "-c", program).split():
        assert Path(path).is_relative_to(installed.parent)


def test_disk_of_a_third_party_boots(host: Host) -> None:
    first = host("disk", "create", "web1", "--image", "./tiny.qcow2", "--size", "2G")
    second = host("disk", "create", "web2", "--image", "./tiny.qcow2", "--size", "2G")
    assert (first["way"], first["fetched"], second["fetched"]) == ("reflink", True, False)
    assert Path(second["location"]).parent.stat().st_ino == 256, "a subvolume's root has this number"
    console = _console(second)
    assert _MARKER in console
    assert bootsector.sectors_in(console) == 2 * Gi // bootsector.SECTOR


def test_disk_of_a_third_party_is_snapshot_and_rolled_back(host: Host) -> None:
    disk = host("disk", "create", "web1", "--image", "./tiny.qcow2")
    file = Path(disk["location"])
    whole = file.read_bytes()
    host("disk", "snapshot", "create", "web1", "before")
    with file.open("r+b") as guest:
        guest.write(bytes(bootsector.SECTOR))
    host("disk", "snapshot", "rollback", "web1", "before")
    assert file.read_bytes() == whole
    assert [snap["snapshot"] for snap in host("disk", "snapshot", "list", "web1")] == ["before"]
    host("disk", "delete", "web1")
    assert not file.parents[1].exists()


def test_backend_show_tells_of_a_third_partys_driver(host: Host) -> None:
    shown = host("backend", "show", "btrfs")
    assert shown["package"] == "imgbackend-btrfs 1.0"
    assert shown["abilities"] == ["Exclusive", "Snapshottable"]
    assert (shown["state"], shown["traits"]["formats"]) == ("works", ["raw"])
    assert 0 < shown["free"] <= shown["total"]


def test_backend_show_tells_why_a_third_partys_driver_would_not_work(installed: Path, tmp_path: Path) -> None:
    folder = "/dev/shm"  # nowhere btrfs
    words = ["--set", f"btrfs.folder={folder}", "backend", "show", "btrfs", "-f", "json"]
    shown = json.loads(wheels.run(installed, tmp_path, "imgbackend", *words))
    assert "not on btrfs" in shown["state"]
    assert (shown["package"], shown["abilities"]) == ("imgbackend-btrfs 1.0", ["Exclusive", "Snapshottable"])
    assert shown["free"] is None


@pytest.mark.parametrize("kit", ["TestBtrfs", "TestBtrfsWithBasesElsewhere"])
def test_driver_of_a_third_party_conforms(kit: str, installed: Path, btrfs: Path, tmp_path: Path) -> None:
    """Its own tests, against both wheels, as its author's continuous integration runs them."""
    own = wheels.copied(_EXAMPLE / "tests", tmp_path / "own")
    strict = ["-W", "error", "--strict-markers", "--strict-config", "--import-mode=importlib", "-p", "no:cacheprovider"]
    command = ["python", "-m", "pytest", "-q", "-n", "2", *strict, f"test_conformance.py::{kit}"]
    # its mounts are in a namespace of their own, as ours are: the kernel takes them away, however it ends
    settings = {"IMGBACKEND_REQUIRE": "btrfs", "TMPDIR": str(tmp_path)}
    told = wheels.run(installed, own, *command, seconds=1200, **settings)
    assert re.search(r"^[1-9][0-9]{2,} passed", told.splitlines()[-1]), told


def test_operators_command_tries_a_third_partys_driver(installed: Path, btrfs: Path, tmp_path: Path) -> None:
    """On a store of its own, where instances are too: nothing of the trial stays."""
    configuration = tmp_path / "imgbackend.conf"
    configuration.write_text(
        f"[DEFAULT]\ninstances_path = {btrfs}/instances\n[fast]\ndriver = btrfs\nfolder = {btrfs}/fast\n"
    )
    command = ["imgbackend-conformance", "fast", "--config-file", str(configuration)]
    told = wheels.run(installed, tmp_path, *command, seconds=600, TMPDIR=str(tmp_path)).splitlines()
    assert "driver btrfs of imgbackend-btrfs 1.0" in told[0]
    assert re.fullmatch(r"[1-9][0-9]{2,} passed, 0 failed, 0 deviations, [0-9]+ not applicable", told[-1])
    assert [path for path in btrfs.rglob("*") if "conformance-" in path.name] == []
