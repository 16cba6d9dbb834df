"""What the documentation shows is what happens."""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

from imgbackend.types import Mi
from labs import bootsector

_ROOT: Final = Path(__file__).parents[1]
_QUICKSTART: Final = _ROOT / "doc" / "source" / "quickstart.rst"
_COMMAND: Final = Path(sys.executable).with_name("imgbackend")


def _blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:(?: {{3,}}.*)?\n)+)", page.read_text(), re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


@pytest.fixture
def reader(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with the image that the pages speak of, and an environment that keeps all else in it."""
    bootsector.write_disk(tmp_path / "debian-12.qcow2", 64 * Mi, format="qcow2")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OS_DEFAULT__STATE_PATH": str(tmp_path / "state")}
    return tmp_path, environment


def _run(reader: tuple[Path, dict[str, str]], argv: list[str]) -> str:
    folder, env = reader
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{shlex.join(argv)}: {done.stderr}"
    return done.stdout


def test_commands_of_the_quick_start_do_what_it_says(reader: tuple[Path, dict[str, str]]) -> None:
    lines = [line for block in _blocks(_QUICKSTART, "console") for line in block.splitlines()]
    commands = [shlex.split(line.removeprefix("# ")) for line in lines if line.startswith("# imgbackend disk")]
    told = [_run(reader, [str(_COMMAND), *command[1:], "-f", "json"]) for command in commands]
    first, second, listed, explained = told
    assert '"fetched": true' in first
    assert '"fetched": false' in second
    assert '"web1"' in listed
    assert '"web2"' in listed
    assert '"raw"' in explained
    assert not (reader[0] / "state/instances/web3/disk").exists()


def test_configuration_of_the_quick_start_is_understood(reader: tuple[Path, dict[str, str]]) -> None:
    (text,) = _blocks(_QUICKSTART, "ini")
    folder = reader[0]
    file = folder / "imgbackend.conf"
    file.write_text(text.replace("/srv/instances", str(folder / "elsewhere")))
    _run(reader, [str(_COMMAND), "--config-file", str(file), "disk", "create", "web1", "--image", "./debian-12.qcow2"])
    assert (folder / "elsewhere/web1/disk").stat().st_size == 64 * Mi


def test_python_of_the_quick_start_runs(reader: tuple[Path, dict[str, str]]) -> None:
    (program,) = _blocks(_QUICKSTART, "python")
    told = _run(reader, [sys.executable, "-W", "error", "-c", program])
    assert told.startswith("overlay ")


def test_python_of_the_readme_runs(reader: tuple[Path, dict[str, str]]) -> None:
    (program,) = _blocks(_ROOT / "README.rst", "python")
    assert "glance:debian-12" in program
    _run(reader, [sys.executable, "-W", "error", "-c", program.replace("glance:debian-12", "./debian-12.qcow2")])
    assert (reader[0] / "state/instances/web1/disk").exists()


def test_commands_of_the_readme_exist() -> None:
    words = re.findall(r"^    imgbackend (\w+ \w+)", (_ROOT / "README.rst").read_text(), re.MULTILINE)
    assert words
    for word in words:
        done = subprocess.run([_COMMAND, *word.split(), "--help"], capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, word


@pytest.mark.slow
def test_demo_boots_guests_and_leaves_nothing(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(_ROOT / "tests"), "TMPDIR": str(tmp_path)}
    argv = [sys.executable, str(_ROOT / "doc/examples/demo.py")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("It booted, ") == 4
    assert list(tmp_path.iterdir()) == []
