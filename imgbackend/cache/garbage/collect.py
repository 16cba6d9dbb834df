"""Leftovers: what killed calls left behind, and how it goes when nobody can be at it any more.

A leftover goes under the lock of whoever makes such things, after another look.  That nobody
is at it is known where its maker was noted and is gone; else it has to be unchanged for
``lease_seconds``, for hosts whose locks do not reach each other may share a folder.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imgbackend import errors
from imgbackend.cache.policy import span
from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.system.locks import Held
from imgbackend.types import Progress

LOG = logging.getLogger(__name__)

Kind = Literal[
    "fetch",
    "base",
    "bad base",
    "manifest",
    "disk",
    "record",
    "instance",
    "snapshot",
    "failure",
    "room",
    "lock",
    "file",
    "open file",
]
"""fetch: a download or conversion; base, disk: something unfinished of one; bad base: put aside when it was found
broken; manifest, record: of what is not there; instance: the folder of one that was being destroyed; snapshot:
the folder in which one was made into a file; failure: one that waiters shared; room: a promise of space; lock: of
what is gone; file: a temporary one; open file: one that was removed while it was open, on NFS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something that was left behind, or is being made just now."""

    kind: Kind
    store: str | None
    """The backend whose store has it; None: it is below ``instances_path``."""
    name: str
    """Its path below ``instances_path``; what its store calls it."""
    size: int
    """Bytes that are spent on it."""
    time: float
    """Seconds since 1970: its last change."""
    dead: bool
    """Nobody can be at it any more."""
    removed: bool
    reason: str
    """Why it is dead, or stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """What one look for leftovers found."""

    leftovers: list[Leftover]
    """Those that were removed too."""
    faults: list[str]
    """What could not be removed, a line each."""
    unknown: list[str]
    """What could not be looked at, a line each: there may be more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftoverState:
    """What a leftover is like now."""

    size: int
    time: float
    dead: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A lock, by its file."""

    file: Path
    take: Callable[[Progress], contextlib.AbstractContextManager[Held]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Something that looks like a leftover, and how to look closer, and to remove it: both under its lock."""

    kind: Kind
    name: str
    guard: Guard
    look: Callable[[], LeftoverState | None]
    """None: it is none, or is gone."""
    remove: Callable[[], None]
    store: str | None = None
    size: int = 0
    time: float = 0.0
    """Both of what a store told before its lock was asked for."""


def aged(lease: float, since: float, now: float, reason: str, size: int = 0) -> LeftoverState:
    """What is unfinished since then: dead if it is older than ``lease`` seconds; both times are of one clock."""
    age = now - since
    dead = age >= lease
    shown = reason if dead else f"{reason}, {span(age)} ago; left for {span(lease)}"
    return LeftoverState(size=size, time=since, dead=dead, reason=shown)


class _HeldError(Exception):
    """Somebody has the lock."""


def settled(candidates: Iterable[Candidate], host: Host, faults: list[str], *, remove: bool) -> Iterator[Leftover]:
    """What the candidates are; where ``remove``, the dead are removed; ``faults`` gets what could not be told."""
    for each in candidates:
        try:
            with _free(each.guard, always=remove):
                state = each.look()
                if state is not None and state.dead and remove:
                    each.remove()
                    LOG.info("Removed the leftover %s (%s): %s", each.name, each.kind, state.reason)
        except _HeldError:
            if each.kind == "lock":
                continue  # it is none, then
            yield _told(each, _alive(host, each, "its lock is held: somebody is at it"), removed=False)
        except (errors.DiskBusy, errors.DiskElsewhere, errors.InstanceElsewhere) as exc:  # for its own host to remove
            yield _told(each, _alive(host, each, str(exc)), removed=False)
        except FileNotFoundError:
            continue  # somebody else removed it meanwhile
        except (OSError, errors.Error) as exc:
            told = files.as_error(exc, host.instances) if isinstance(exc, OSError) else exc
            faults.append(f"the leftover {each.name} ({each.kind}) stays: {told}")
        else:
            if state is not None:
                yield _told(each, state, removed=remove and state.dead)


def _told(each: Candidate, state: LeftoverState, *, removed: bool) -> Leftover:
    return Leftover(
        kind=each.kind,
        store=each.store,
        name=each.name,
        size=state.size,
        time=state.time,
        dead=state.dead,
        removed=removed,
        reason=state.reason,
    )


def _alive(host: Host, each: Candidate, reason: str) -> LeftoverState:
    size, time = each.size, each.time
    with contextlib.suppress(OSError):
        if each.store is None:
            found = os.lstat(host.instances / each.name)
            size, time = found.st_blocks * 512, found.st_mtime
    return LeftoverState(size=size, time=time, dead=False, reason=reason)


@contextlib.contextmanager
def _free(guard: Guard, *, always: bool) -> Iterator[None]:
    """Hold a lock, if nobody else does; one that nobody ever took is not taken for a look.

    A lock's file that is made by this goes again.
    """
    there = guard.file.exists()
    if not there and not always:
        yield
        return
    with guard.take(_give_up) as held:
        try:
            yield
        finally:
            if not there:
                held.forget()


def _give_up(_phase: str, _done: int, _total: int | None) -> None:
    raise _HeldError
