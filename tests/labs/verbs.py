"""What can be done to a disk of an image, by name: tests that refuse all of it try what their driver can."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from imgbackend.types import Mi
from labs.templates import Template

Verbs: TypeAlias = dict[str, Callable[[Any, Template], object]]

CHANGES: Final[Verbs] = {
    "create": lambda disk, image: disk.cache(image, image.name),
    "resize": lambda disk, _image: disk.resize(64 * Mi),
    "remove": lambda disk, _image: disk.remove(),
}
"""Of every disk."""
LOOKS: Final[Verbs] = {
    "explain": lambda disk, image: disk.explain(image, image.name),
    "exists": lambda disk, _image: disk.exists(),
    "info": lambda disk, _image: disk.info(),
    "extract": lambda disk, image: disk.extract(image.content.with_name("copy"), "raw"),
}
"""What changes nothing, of every disk."""
SNAPSHOTS: Final[Verbs] = {
    "snapshot": lambda disk, _image: disk.create_snap("first"),
    "rollback": lambda disk, _image: disk.rollback_to_snap("kept"),
    "remove_snap": lambda disk, _image: disk.remove_snap("kept"),
    "snapshots": lambda disk, _image: disk.snaps(),
}
"""Of one that has the snapshot ``kept``."""
FLATTEN: Final[Verbs] = {"flatten": lambda disk, _image: disk.flatten()}
