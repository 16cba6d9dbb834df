"""What the crash tests do in processes that are killed: each one call of the library."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imgbackend import Engine
from imgbackend.driver.abilities import Flattenable, Snapshottable
from imgbackend.types import Mi
from labs.templates import Template

SIZE = 3 * Mi
"""Of disks; images are smaller."""


@contextlib.contextmanager
def opened(instances: Path, images_type: str) -> Iterator[Engine]:
    """An engine whose disks are durable."""
    with Engine.from_config([], {"instances_path": str(instances), "images_type": images_type}) as engine:
        yield engine


def create(instances: Path, images_type: str, image: Template, instance: str) -> None:
    """The disk ``instance/disk`` of :data:`SIZE` bytes."""
    with opened(instances, images_type) as engine:
        engine.disk(instance).cache(image, image.name, SIZE)


def generate(instances: Path, images_type: str, template: Template, name: str) -> None:
    """A swap area."""
    with opened(instances, images_type) as engine:
        engine.disk("web1", "disk.swap").cache(template, name, SIZE)


def resize(instances: Path, images_type: str) -> None:
    """To twice its size."""
    with opened(instances, images_type) as engine:
        engine.disk("web1").resize(2 * SIZE)


def extract(instances: Path, images_type: str, target: Path, format: str) -> None:
    """To a file."""
    with opened(instances, images_type) as engine:
        engine.disk("web1").extract(target, format)


def remove(instances: Path, images_type: str) -> None:
    """For good."""
    with opened(instances, images_type) as engine:
        engine.disk("web1").remove()


def flatten(instances: Path, images_type: str) -> None:
    """An overlay."""
    with opened(instances, images_type) as engine:
        disk = engine.disk("web1")
        assert isinstance(disk, Flattenable)
        disk.flatten()


def snapshot(instances: Path, images_type: str, action: str) -> None:
    """Create, roll back to, or remove the snapshot ``snap``."""
    with opened(instances, images_type) as engine:
        disk = engine.disk("web1")
        assert isinstance(disk, Snapshottable)
        if action == "create" and not any(snap.name == "snap" for snap in disk.snaps()):
            disk.create_snap("snap")
        elif action == "rollback":
            disk.rollback_to_snap("snap")
        elif action == "remove" and any(snap.name == "snap" for snap in disk.snaps()):
            disk.remove_snap("snap")
