"""A template whose source counts the digest of what it delivers, as those over the network do."""

import hashlib
from pathlib import Path

from imgbackend.types import Declared, Delivered, Progress
from labs.templates import Template


class Delivering:
    """Another template, with its sha256 told."""

    def __init__(self, template: Template) -> None:
        self._template = template

    @property
    def declared(self) -> Declared:
        return self._template.declared

    def __call__(self, target: Path, progress: Progress, /) -> Delivered:
        self._template(target, progress)
        data = target.read_bytes()
        return Delivered(size=len(data), digests=(("sha256", hashlib.sha256(data).hexdigest()),))
