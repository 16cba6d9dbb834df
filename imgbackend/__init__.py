"""Turns images of virtual machines into disks, on any storage.

The public names; each is imported when it is first used, so that ``import
imgbackend`` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgbackend.driver.contract import Backend as Backend
    from imgbackend.driver.contract import Disk as Disk
    from imgbackend.engine import Engine as Engine
    from imgbackend.types import Gi as Gi
    from imgbackend.types import Ki as Ki
    from imgbackend.types import Mi as Mi
    from imgbackend.types import Ti as Ti

_HOMES = {
    "Engine": "engine",
    "Backend": "driver.contract",
    "Disk": "driver.contract",
    "Ki": "types",
    "Mi": "types",
    "Gi": "types",
    "Ti": "types",
}

__all__ = ["Backend", "Disk", "Engine", "Gi", "Ki", "Mi", "Ti"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'imgbackend' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"imgbackend.{_HOMES[name]}"), name)
