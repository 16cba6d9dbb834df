"""What is shipped: archives that hold everything, and work where nothing else is."""

import configparser
import json
import os
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from labs import wheels

_ROOT = wheels.ROOT

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Archives:
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """A source archive of this tree without its .git, and a wheel built from that archive alone."""
    folder = tmp_path_factory.mktemp("packaging")
    sdist = wheels.build(wheels.copied(_ROOT, folder / "tree"), "sdist")
    (folder / "unpacked").mkdir()
    # tar(1): the first releases of Python 3.11 lack the filter that later ones ask extractall for
    subprocess.run(["tar", "-xf", str(sdist), "-C", str(folder / "unpacked")], check=True, timeout=60)
    (unpacked,) = (folder / "unpacked").iterdir()
    return Archives(sdist, wheels.build(unpacked, "wheel"))


def _to_be_shipped() -> set[str]:
    """The files of every package folder in the tree, by the names that they have when installed."""
    return {
        str(path.relative_to(source_root))
        for source_root, tops in ((_ROOT, ["imgbackend"]), (_ROOT / "backends", os.listdir(_ROOT / "backends")))
        for top in tops
        for path in (source_root / top).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def _entry_points(text: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(text)
    return {section: dict(parser[section]) for section in parser.sections()}


def _declared_entry_points() -> dict[str, dict[str, str]]:
    setup = configparser.ConfigParser()
    setup.read(_ROOT / "setup.cfg")
    groups = setup["options.entry_points"]
    return {name: _entry_points(f"[{name}]\n{text.strip()}")[name] for name, text in groups.items()}


def test_wheel_holds_every_file_of_every_package_and_nothing_else(archives: Archives) -> None:
    with zipfile.ZipFile(archives.wheel) as wheel:
        shipped = set(wheel.namelist())
    packages = {name for name in shipped if ".dist-info/" not in name and ".data/" not in name}
    assert packages == _to_be_shipped()
    assert {
        "imgbackend/VERSION",
        "imgbackend/py.typed",
        "imgbackend_raw/py.typed",
        "imgbackend_qcow2/py.typed",
    } <= packages


def test_source_archive_holds_what_is_needed_to_build_and_to_test(archives: Archives) -> None:
    with tarfile.open(archives.sdist) as archive:
        shipped = {name.partition("/")[2] for name in archive.getnames()}
    packages = {name if name.startswith("imgbackend/") else f"backends/{name}" for name in _to_be_shipped()}
    assert packages <= shipped
    beside = {
        "setup.cfg",
        "setup.py",
        "README.rst",
        "LICENSE",
        "dev",
        ".ci/run",
        "etc/systemd/imgbackend-cache.service",
        "tests/conftest.py",
        "doc/source/index.rst",
    }
    assert beside <= shipped


def test_units_are_installed_where_systemd_looks_below_the_prefix(archives: Archives, installed: Path) -> None:
    units = {path.name for path in (_ROOT / "etc" / "systemd").iterdir()}
    with zipfile.ZipFile(archives.wheel) as wheel:
        data = {name.partition(".data/data/")[2] for name in wheel.namelist() if ".data/" in name}
    assert data == {f"lib/systemd/system/{name}" for name in units}
    assert {path.name for path in (installed.parent / "lib/systemd/system").iterdir()} == units


def test_wheel_names_every_entry_point_and_each_has_its_module(archives: Archives) -> None:
    with zipfile.ZipFile(archives.wheel) as wheel:
        names = wheel.namelist()
        (text,) = (wheel.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    found = _entry_points(text)
    assert found == _declared_entry_points()
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names}
    targets = {target.partition(":")[0] for group in found.values() for target in group.values()}
    assert targets <= modules


@pytest.fixture(scope="module")
def installed(archives: Archives, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a virtual environment with the wheel in it."""
    return wheels.installed(tmp_path_factory.mktemp("installed") / "venv", archives.wheel)


def test_installed_wheel_is_what_is_imported(installed: Path, tmp_path: Path) -> None:
    program = "import imgbackend, imgbackend_raw; print(imgbackend.__file__, imgbackend_raw.__file__)"
    for path in wheels.run(installed, tmp_path, "python", "-c", program).split():
        assert Path(path).is_relative_to(installed.parent)


def test_installed_command_tells_its_version(installed: Path, tmp_path: Path) -> None:
    told = wheels.run(installed, tmp_path, "imgbackend", "--version")
    assert (_ROOT / "imgbackend/VERSION").read_text().strip() in told.split()


def test_installed_command_lists_the_stock_backends_with_their_distribution(installed: Path, tmp_path: Path) -> None:
    listed = json.loads(wheels.run(installed, tmp_path, "imgbackend", "backend", "list", "-f", "json"))
    packages = {row["name"]: row["package"] for row in listed}
    ours = f"imgbackend {(_ROOT / 'imgbackend/VERSION').read_text().strip()}"
    assert packages["raw"] == ours
    assert packages["qcow2"] == ours
