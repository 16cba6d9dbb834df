"""Fixtures for tests of the engine with its drivers: engines on folders of their own, and images."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from imgbackend import Engine
from imgbackend.types import Mi
from labs.images import qcow2, scattered, sparse_raw
from labs.templates import Template


class MakeEngine(Protocol):
    """Makes an engine on the test's ``instances_path``; it is closed after the test."""

    def __call__(self, overrides: dict[str, Any] | None = None) -> Engine: ...


@pytest.fixture
def make_engine(instances: Path) -> Iterator[MakeEngine]:
    """Engines: ``make_engine({"images_type": "raw"})``; one instances_path unless another is named."""
    with contextlib.ExitStack() as stack:

        def make(overrides: dict[str, Any] | None = None) -> Engine:
            told = {"instances_path": str(instances), **(overrides or {})}
            return stack.enter_context(Engine.from_config([], told))

        yield make


@pytest.fixture(params=["raw", "qcow2"])
def images_type(request: pytest.FixtureRequest) -> str:
    """Each of the drivers that keep files."""
    return str(request.param)


@pytest.fixture
def engine(make_engine: MakeEngine, images_type: str) -> Engine:
    """An engine for each of the drivers."""
    return make_engine({"images_type": images_type})


@pytest.fixture
def raw_content(tmp_path: Path) -> Path:
    """A raw image of 8 MiB, a quarter of it data, its last sector too."""
    data = {**scattered(8 * Mi, 0.25, extent=64 << 10), 0: b"\xeb\x3c" + b"boot" * 100, 8 * Mi - 512: b"end!" * 128}
    return sparse_raw(tmp_path / "content.raw", 8 * Mi, data=data)


@pytest.fixture
def qcow2_content(tmp_path: Path, raw_content: Path) -> Path:
    """The same as a qcow2."""
    return qcow2(tmp_path / "content.qcow2", 8 * Mi, content=raw_content)


@pytest.fixture
def raw_image(raw_content: Path) -> Template:
    """It declares nothing but its format."""
    return Template(content=raw_content, image_id="raw-image", format="raw")


@pytest.fixture
def qcow2_image(qcow2_content: Path) -> Template:
    """It declares nothing but its format."""
    return Template(content=qcow2_content, image_id="qcow2-image", format="qcow2")
