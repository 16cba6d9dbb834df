"""Fixtures: the command, real images, and a server that can be slow."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.harness import Cli, qemu_img
from cli.slow_server import SlowServer
from imgbackend.types import Mi
from labs.tinylinux import tiny_linux

__all__ = ["tiny_linux"]


@pytest.fixture(scope="session")
def stevedore_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cli(tmp_path: Path, stevedore_cache: Path) -> Cli:
    tmp_path.chmod(0o755)
    made = Cli(tmp_path, stevedore_cache)
    made.images.mkdir(mode=0o755)
    return made


@pytest.fixture
def raw_image(cli: Cli) -> Path:
    """4 MiB of raw image, a quarter of it data."""
    path = cli.images / "tiny.raw"
    path.write_bytes(os.urandom(Mi))
    os.truncate(path, 4 * Mi)
    return path


@pytest.fixture
def qcow2_image(cli: Cli, raw_image: Path) -> Path:
    path = cli.images / "small.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw_image, path)
    return path


@pytest.fixture
def slow_server(raw_image: Path) -> Iterator[SlowServer]:
    with SlowServer(raw_image.read_bytes()) as server:
        yield server
