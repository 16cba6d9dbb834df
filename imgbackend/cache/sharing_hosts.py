"""The hosts that share an ``instances_path``, and when each of them was last heard of.

It is the file ``compute_nodes`` that a Nova keeps there, in Nova's form: a JSON object of host names and seconds since
1970, read and written under Nova's lock, so that the one sees the other.  Ours is whole at every moment, where
Nova's may be cut off.  A host that was not heard of for a day is no user any more, as for Nova.

Our times there are the file system's.  A Nova's are its host's, whose clock may be wrong.  That is known when its entry
changes: its pass was after the last look at the entries, and tells another time.  Such a host is alive for a day
after its entry was seen to change, whatever that says.

A host whose entry changed and that left no note with it runs a Nova, or an imgbackend of before the owners.  The number
tells them apart: our entries are whole seconds, written without a point.  A Nova that adds its own leaves them
so; the older imgbackend reads all numbers as floats, and writes them so.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from imgbackend import errors
from imgbackend.bases import instance_folders
from imgbackend.cache import host_notes
from imgbackend.cache.host_notes import HostNote, Notes, Program
from imgbackend.cache.policy import OtherHost, span
from imgbackend.state import folder_marker
from imgbackend.system import files
from imgbackend.system.host import Host
from imgbackend.system.process_identity import machine_id

ALIVE: Final = 86400.0
"""Seconds that a host counts for after its last pass: Nova's own limit."""
_TOLD: Final = 7 * ALIVE
"""A host is told to be missing for so long; after that it is taken to be gone for good."""
_SKEW: Final = 60.0
"""Seconds by which a pass may be in the future before the clock of its host is taken to be wrong."""
_LONGEST: Final = 7200.0
"""Seconds that a pass may take: it tells when it began, and only at its end."""


Maker: TypeAlias = Literal["imgbackend", "older version", "Nova", "older version or Nova", "unknown"]
"""What made a host's last pass: an imgbackend that tells its format, one that does not, or a Nova."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenHost:
    """A host on record."""

    name: str
    last_pass: float
    """Seconds since 1970: when its last pass began that saw all there is, or a Nova's last one."""
    alive: bool
    here: bool
    """It is this one."""
    clock_is_wrong: bool = False
    """It makes passes, and tells other times of them than it can have made them at."""
    format: int | None = None
    """The format that its version writes, as in the marker of the folder; None: its last pass did not tell."""
    made_by: Maker = "unknown"
    """What made its last pass.  An ``older version`` takes no notice of whose an instance is."""


class SharingHosts:
    """The hosts of one ``instances_path``."""

    def __init__(self, host: Host, clock: Callable[[], float]) -> None:
        """``clock`` is the time of the file system of the folder; nothing is touched."""
        self._host, self._clock = host, clock
        self._file = host.instances / "compute_nodes"

    def all(self) -> list[SeenHost]:
        """All hosts on record, by name; none where the file cannot be understood: a Nova begins anew then, too.

        :raises OSError: if it cannot be read.
        """
        if not self._file.exists():
            return []
        with self._host.locks.hosts():
            found, notes = self._read(), host_notes.read(self._host.instances)
        now = self._clock()
        known = _looked_at(found, notes, now)
        return [self._seen(name, note, notes, now) for name, note in sorted(known.items())]

    def slowest(self) -> OtherHost | None:
        """Of the other hosts that are alive, the one whose last pass is longest ago.

        That of one whose clock is wrong may have been at any time.
        """
        others = [each for each in self.all() if each.alive and not each.here]
        passes = [
            OtherHost(name=each.name, last_pass=0.0 if each.clock_is_wrong else each.last_pass) for each in others
        ]
        return min(passes, key=lambda each: each.last_pass, default=None)

    def missing(self) -> list[str]:
        """Hosts that have fallen silent within the last week, or whose clocks are wrong, a line each."""
        now = self._clock()
        others = [each for each in self.all() if not each.here and abs(now - each.last_pass) < _TOLD]
        return [
            *(self._silent(each, now) for each in others if not each.alive),
            *(self._wrong(each, now) for each in others if each.alive and each.clock_is_wrong),
        ]

    def namesake(self) -> str | None:
        """Why this host's name is another host's, in a line that says what to do; None: it is its own.

        :raises OSError: if the notes cannot be read.
        """
        return self._namesake(host_notes.read(self._host.instances))

    def paths(self) -> dict[str, str]:
        """Where the hosts that are known have mounted the folder.

        :raises OSError: if the notes cannot be read.
        """
        notes = host_notes.read(self._host.instances)
        return {name: note.instances for name, note in sorted(notes.hosts.items()) if note.instances is not None}

    def register(self, began: float) -> None:
        """Tell the others of a pass of this host that saw everything, and that began then.

        :raises Error: if it cannot be written; ConfigError where another host has the name.
        """
        if not self._is_used():
            return
        name, here = self._host.settings.hostname, str(self._host.instances)
        try:
            with self._host.locks.hosts():
                found, notes = self._read(), host_notes.read(self._host.instances)
                refusal, now = self._namesake(notes), self._clock()
                if refusal is not None:
                    raise errors.ConfigError(refusal)
                hosts = _looked_at(found, notes, now)
                hosts[name] = HostNote(
                    last_pass=int(began),
                    seen=now,
                    machine=machine_id(),
                    instances=here,
                    format=folder_marker.FORMAT,
                    replaced=found.get(name),
                )
                host_notes.write(self._host.instances, dataclasses.replace(notes, hosts=hosts, looked=now))
                found[name] = int(began)
                # those of the others as well: where an older version gave them a point, it is known now
                found |= {each: int(entry) for each, entry in _ours(found, hosts).items()}
                host_notes.replace(self._file, json.dumps(found).encode())
        except OSError as exc:
            raise files.as_error(exc, self._file) from exc

    def _is_used(self) -> bool:
        """Whether there is anything that this host could use; a mount point on which nothing is mounted has nothing."""
        host = self._host
        return bool(folder_marker.read(host.instances) or host.bases.exists() or instance_folders.instances(host))

    def forget(self, name: str) -> None:
        """Take a host off the record that is no more; one that is not on it is no error.

        :raises ConfigError: if it cannot be written.
        """
        try:
            with self._host.locks.hosts():
                found, notes = self._read(), host_notes.read(self._host.instances)
                if found.pop(name, None) is not None:
                    host_notes.replace(self._file, json.dumps(found).encode())
                others = {other: note for other, note in notes.hosts.items() if other != name}
                if len(others) < len(notes.hosts):
                    host_notes.write(self._host.instances, dataclasses.replace(notes, hosts=others))
        except OSError as exc:
            raise files.as_error(exc, self._file) from exc

    def _read(self) -> dict[str, int | float]:
        """The entries, each of the type of number that it is written as."""
        try:
            found = json.loads(files.content(self._file))
        except (FileNotFoundError, ValueError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: seen for name, seen in found.items() if isinstance(seen, int | float)}

    def _seen(self, name: str, note: HostNote, notes: Notes, now: float) -> SeenHost:
        alive = now - (note.last_pass if note.credible else note.seen) < ALIVE
        return SeenHost(
            name=name,
            last_pass=float(note.last_pass),
            alive=alive,
            here=name == self._host.settings.hostname,
            clock_is_wrong=alive and not note.credible,
            format=note.format,
            made_by=_maker(note, notes),
        )

    def _namesake(self, notes: Notes) -> str | None:
        name, mine = self._host.settings.hostname, machine_id()
        note = notes.hosts.get(name)
        if note is None or None in (mine, note.machine) or note.machine == mine:
            return None
        since = self._clock() - note.last_pass
        if since > _TOLD:
            return None
        return (
            f"a host of the name {name} made a pass {span(since)} ago, and has another machine id "
            f"({note.machine}; this one has {mine}): of two hosts of one name each would take the other's work for its "
            "own.  Give one of them another name: host, in [DEFAULT].  If it is this one, installed anew: "
            f"imgbackend cache hosts --forget {name}"
        )

    def _silent(self, host: SeenHost, now: float) -> str:
        return (
            f"the host {host.name} made no pass for {span(now - host.last_pass)}: of what it uses, only the disks in "
            f"{self._host.instances} count; if it is no more, forget it: imgbackend cache hosts --forget {host.name}"
        )

    def _wrong(self, host: SeenHost, now: float) -> str:
        ahead = host.last_pass - now
        how = f"{span(ahead)} ahead of" if ahead > 0 else f"{span(-ahead)} behind"
        return (
            f"the clock of the host {host.name} is {how} the file system's: when it made its passes is not known, so "
            "no base goes that it may use; set its clock right"
        )


def _looked_at(found: Mapping[str, int | float], notes: Notes, now: float) -> dict[str, HostNote]:
    """The notes of the hosts that are on record, as of now."""
    noted = {name: note for name, note in notes.hosts.items() if found.get(name, "") in (note.last_pass, note.replaced)}
    program = _program(found, noted)
    looked = {}
    for name, last_pass in found.items():
        if name in noted:
            looked[name] = dataclasses.replace(noted[name], last_pass=last_pass)
            continue
        note = notes.hosts.get(name, HostNote(last_pass=last_pass, seen=now))
        earliest = last_pass if notes.looked is None else notes.looked - _LONGEST
        looked[name] = dataclasses.replace(
            note,
            last_pass=last_pass,
            seen=now,
            credible=earliest <= last_pass <= now + _SKEW,
            format=None,
            replaced=None,
            made_by=program or note.made_by,
        )
    return looked


def _program(found: Mapping[str, int | float], noted: Mapping[str, HostNote]) -> Program | None:
    """What made the passes that nobody noted, of hosts that are in ``found`` and not in ``noted``.

    None where that cannot be told: there is no entry of ours, or an older version wrote one of several entries, and who
    wrote the others is not known.
    """
    ours = _ours(found, noted)
    if ours and all(isinstance(entry, int) for entry in ours.values()):
        return "Nova"
    return "older version" if ours and len(found) - len(noted) == 1 else None


def _ours(found: Mapping[str, int | float], noted: Mapping[str, HostNote]) -> dict[str, int | float]:
    """The entries that were written as whole numbers, by versions that tell their format."""
    return {
        name: found[name] for name, note in noted.items() if note.format is not None and float(found[name]).is_integer()
    }


def _maker(note: HostNote, notes: Notes) -> Maker:
    if note.format is not None:
        return "imgbackend"
    return (note.made_by or "older version or Nova") if notes.is_readable else "unknown"
