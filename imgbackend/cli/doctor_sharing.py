"""The doctor's look at what hosts need that share a folder: names, clocks and paths of their own, or in common."""

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from imgbackend.cli.places import time_in
from imgbackend.errors import Error
from imgbackend.types import Finding

if TYPE_CHECKING:
    from imgbackend.engine import Engine

_EVERYBODYS: Final = frozenset({"localhost", "localhost.localdomain", "localhost4", "localhost6"})
_SKEW: Final = 60.0
"""Seconds by which a clock may differ from that of the file system."""


def sharing(engine: "Engine") -> Iterator[Finding]:
    """All that is to be said of it."""
    yield _name(engine)
    if engine.host.instances.is_dir():
        yield _clock(engine)
        yield from _paths(engine)


def _name(engine: "Engine") -> Finding:
    check, name = "host", engine.host.settings.hostname
    try:
        refusal = engine.cache.namesake()
    except Error as exc:
        return Finding(check, "warning", f"{name}; whether it is another host's too cannot be told: {exc}")
    if refusal is not None:
        return Finding(check, "error", f"{name} is the name of two hosts", refusal)
    if name in _EVERYBODYS:
        advice = "give this host a name of its own, host in [DEFAULT], where it shares instances_path or a store"
        return Finding(check, "warning", f"{name}, as every host may be called", advice)
    return Finding(check, "ok", name)


def _clock(engine: "Engine") -> Finding:
    ahead = time.time() - time_in(engine.host.instances)
    if abs(ahead) > _SKEW:
        found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the file system of instances_path"
        return Finding("clock", "warning", found, "set the clock right: stores and logs go by it")
    return Finding("clock", "ok", "that of the file system of instances_path")


def _paths(engine: "Engine") -> Iterator[Finding]:
    """Other hosts that have mounted the folder in another place."""
    try:
        paths = engine.cache.paths()
    except Error:
        return  # told of the name
    here = os.path.realpath(engine.host.instances)
    for name, path in paths.items():
        if name != engine.host.settings.hostname and path not in (here, str(engine.host.instances)):
            found = f"the host {name} has this folder at {path}, and here it is at {engine.host.instances}"
            advice = "mount it at one path: qcow2 disks refer to their bases by it, and each host opens only its own"
            yield Finding("instances_path", "warning", found, advice)
