"""The doctor's look for hosts with an older version on the same folder.

It knows no owners, and so may change or destroy the disks of others.  Two things tell of one: a pass that it made, and
records of disks that it wrote.
"""

import os
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final

from imgbackend.bases import instance_folders
from imgbackend.errors import Error
from imgbackend.state import folder_marker
from imgbackend.state.records import OURS
from imgbackend.types import Finding

if TYPE_CHECKING:
    from imgbackend.cache.sharing_hosts import SeenHost
    from imgbackend.engine import Engine
    from imgbackend.system.host import Host

_LISTED: Final = 5
_UNTIL_THEN: Final = "until then it takes no notice of whose an instance is, and may change or destroy others'"


def versions(engine: "Engine") -> Iterator[Finding]:
    """All that is to be said of them."""
    if engine.host.instances.is_dir():
        yield from _hosts(engine)
        yield from _records(engine.host)


def _hosts(engine: "Engine") -> Iterator[Finding]:
    """Hosts that are alive, by what made their last pass."""
    check = "versions"
    try:
        alive = [host for host in engine.cache.hosts() if host.alive]
    except Error as exc:
        yield Finding(check, "warning", f"with which version other hosts make passes cannot be told: {exc}")
        return
    older = [host for host in alive if host.made_by == "older version"]
    doubtful = [host for host in alive if host.made_by == "older version or Nova"]
    if older:
        found = f"the last pass of {_names(older)} was an older version's"
        yield Finding(check, "warning", found, f"update imgbackend there and start its services anew; {_UNTIL_THEN}")
    if doubtful:
        found = f"the last pass of {_names(doubtful)} was an older version's, or a Nova's"
        advice = f"if imgbackend runs there, update it and start its services anew; {_UNTIL_THEN}"
        yield Finding(check, "warning", found, f"{advice}; nothing is wrong with a Nova")
    if any(host.made_by == "unknown" for host in alive):
        found = (
            "a newer version wrote imgbackend_hosts.json, or it is broken: the versions of other hosts are not known"
        )
        yield Finding(check, "warning", found, "update imgbackend here; where it is broken the next pass makes it anew")
    elif not older and not doubtful:
        yield Finding(check, "ok", "no host made its last pass with an older version")


def _names(hosts: "list[SeenHost]") -> str:
    return ", ".join(f"{host.name} (this host)" if host.here else host.name for host in hosts)


def _records(host: "Host") -> Iterator[Finding]:
    """Instances whose records have no owner and are younger than the marker: this version writes none like that."""
    check, unread = "records", list[str]()
    try:
        found = [] if folder_marker.read(host.instances) is None else sorted(_written_by_older(host, unread))
    except (Error, OSError) as exc:
        yield Finding(check, "warning", f"whether an older version wrote some cannot be told: {exc}")
        return
    if found:
        yield _older_records(found)
    if unread:
        yield Finding(check, "warning", f"{_some(unread)} cannot be read", "imgbackend disk list tells why")
    if not found and not unread:
        yield Finding(check, "ok", "no older version wrote any since this one uses the folder")


def _older_records(found: list[tuple[float, str]]) -> Finding:
    last = datetime.fromtimestamp(found[-1][0]).astimezone().isoformat(sep=" ", timespec="minutes")
    names = _some([name for _, name in reversed(found)])
    told = f"an older version wrote those of {names}, the last one at {last}: they have no owner"
    advice = (
        f"find the host that runs it, and update it; {_UNTIL_THEN}; then note whose each of them is, on its host: "
        "imgbackend instance start NAME --take-over"
    )
    return Finding("records", "warning", told, advice)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _written_by_older(host: "Host", unread: list[str]) -> Iterator[tuple[float, str]]:
    """When, and which instance; those whose records cannot be read are added to ``unread``.

    What counts is when a disk was made, by the clock of its host, and when the file was written, by the file system's.
    Either alone deceives: a clock may be wrong, and files are copied.
    """
    since = os.stat(host.instances / folder_marker.NAME).st_mtime
    for instance in instance_folders.instances(host):
        try:
            written = os.stat(host.instances / instance / OURS).st_mtime
            records = host.records.all(instance).values() if written > since else ()
        except FileNotFoundError:
            continue
        except (Error, OSError):
            unread.append(instance)
            continue
        made = max((record.time for record in records if record.owner is None), default=0.0)
        if made > since:
            yield min(made, written), instance
