"""What the tests of the cache share: engines, one of them with a store that keeps bases, and time that has passed."""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbackend import Engine
from imgbackend.config import plugins
from imgbackend.state import manifests
from labs.able import AbleBackend
from labs.engines import MakeEngine, make_engine, qcow2_content, qcow2_image, raw_content, raw_image
from labs.glance import glance

__all__ = ["glance", "make_engine", "qcow2_content", "qcow2_image", "raw_content", "raw_image"]

HOUR = 3600
DAY = 24 * HOUR

Aged = Callable[..., None]


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """One that makes overlays."""
    return make_engine({"images_type": "qcow2"})


@pytest.fixture
def able_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver ``able`` counts as installed: its store keeps the bases."""
    real_load, real_drivers = plugins.load_driver, plugins.drivers
    told = plugins.DriverInfo(name="able", distribution="able", version="1", target="labs.able:AbleBackend")
    monkeypatch.setattr(plugins, "load_driver", lambda name: AbleBackend if name == "able" else real_load(name))
    monkeypatch.setattr(
        plugins,
        "drivers",
        lambda group=plugins.BACKENDS: [*real_drivers(group), *([told] if group == plugins.BACKENDS else [])],
    )


@pytest.fixture
def make_able(make_engine: MakeEngine, able_driver: None, tmp_path: Path) -> Callable[..., Engine]:
    """Engines whose new disks, and their bases, are in a store."""

    def make(overrides: dict[str, Any] | None = None) -> Engine:
        told = {"images_type": "able", "able.folder": str(tmp_path / "able")}
        return make_engine(told | (overrides or {}))

    return make


@pytest.fixture
def able_engine(make_able: Callable[..., Engine]) -> Engine:
    """One of them."""
    return make_able()


def age(path: Path, seconds: float) -> None:
    """Let a base of the folder, or of the store ``able``, have been used so long ago."""
    then = time.time() - seconds
    for each in (path, manifests.path_of(path)):
        with contextlib.suppress(FileNotFoundError):
            os.utime(each, (then, then))


def names(engine: Engine, store: str | None = None) -> set[str]:
    """The bases that there are."""
    return {base.name for base in engine.cache.bases().bases if base.store == store}


def actions(engine: Engine, *, dry_run: bool = False) -> dict[tuple[str, str], str]:
    """What a pass does, by store and name; nothing may have been unseen."""
    done = engine.cache.prune(dry_run=dry_run)
    assert done.faults == []
    return {(each.base.where, each.base.name): each.action for each in done.outcomes}
