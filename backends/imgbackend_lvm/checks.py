"""What ``imgbackend doctor`` tells of a volume group and its thin pool, before either is full.

A thin pool promises more than it has, and it has two rooms that can be full: data and
metadata.  What lvm2 does about that is in lvm.conf; lvmthin(7), *Automatically extend thin
pool LV*.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from imgbackend import errors
from imgbackend.system.host import Host
from imgbackend.system.runner import CommandLimits
from imgbackend.types import Finding, Gi, Mi, Verdict
from imgbackend_lvm.lvm2 import LogicalVolume, Lvm2, VolumeGroup

_SCARCE: Final = 80
"""Percent in use that are worth a warning."""
_LAST: Final = 95
"""Percent in use that are an error: what is left is gone in minutes."""
_NEVER: Final = 100
"""The percentage at which lvm2 extends no pool."""
_SETTINGS: Final = (
    "activation/monitoring",
    "activation/thin_pool_autoextend_threshold",
    "activation/thin_pool_autoextend_percent",
    "global/thin_check_executable",
)
_LIMITS: Final = CommandLimits(cpu_seconds=10, address_space=1 << 30, stall_seconds=10)
_HEALTH: Final[Mapping[str, tuple[str, str]]] = {
    "F": ("it has failed", "repair it with its disks' guests stopped: lvconvert --repair {}"),
    "D": ("it is out of data space", "lvextend --size +10G {}, or remove disks"),
    "M": ("its metadata are read only", "stop the guests of its disks, then lvconvert --repair {}"),
}


def findings(lvm2: Lvm2, host: Host, group: str, pool: str | None) -> Iterator[Finding]:
    """All that is to be said of them; ``pool`` None: disks are thick.

    :raises Error: if the group cannot be looked at.
    """
    whole, volumes = lvm2.vgs(group), lvm2.lvs(group)
    found = next((volume for volume in volumes if volume.is_thin_pool and volume.lv_name == pool), None)
    if pool is None:
        yield thick_room(whole)
    elif found is None:
        yield Finding("thin pool", "error", f"there is no thin pool {pool} in {group}", "make it, or correct thin_pool")
    else:
        settings = _settings(host)
        yield from of_pool(whole, found, volumes)
        yield growth(whole, found, settings, watched=_dmeventd_runs())
        yield repair(settings)


def of_pool(group: VolumeGroup, pool: LogicalVolume, volumes: list[LogicalVolume]) -> Iterator[Finding]:
    """What lvm2's own report of a pool says."""
    name = f"{group.vg_name}/{pool.lv_name}"
    yield _health(pool, name)
    yield zeroing(pool, name)
    yield used("data", pool.data_percent, pool.lv_size, f"lvextend --size +10G {name}")
    yield used("metadata", pool.metadata_percent, pool.lv_metadata_size, f"lvextend --poolmetadatasize +256M {name}")
    yield _promised(pool, volumes)


def thick_room(group: VolumeGroup) -> Finding:
    """What a group has left for thick volumes."""
    told = f"{_told(group.vg_free)} of {_told(group.vg_size)} in {group.vg_name} are free"
    if group.vg_free * 100 < group.vg_size * (100 - _SCARCE):
        return Finding("room", "warning", told, f"vgextend {group.vg_name} DEVICE, or remove volumes")
    return Finding("room", "ok", told)


def zeroing(pool: LogicalVolume, name: str) -> Finding:
    """Whether a disk can show what another tenant wrote."""
    if pool.zeroes:
        return Finding("zeroing", "ok", "chunks are zeroed before a disk gets them")
    advice = f"lvchange --zero y {name}; chunks that disks have already keep what is in them"
    return Finding("zeroing", "error", "off: a disk can show what was in the pool before it", advice)


def used(what: str, percent: float | None, size: int | None, advice: str) -> Finding:
    """How much of one room of a pool is in use."""
    if percent is None:
        return Finding(what, "warning", "cannot be told while the pool is not active", "lvchange --activate y the pool")
    told = f"{percent:.1f} % in use" + (f" of {_told(size)}" if size is not None else "")
    verdict: Verdict = "error" if percent >= _LAST else "warning" if percent >= _SCARCE else "ok"
    return Finding(what, verdict, told, "" if verdict == "ok" else f"{advice}, or remove disks, snapshots and bases")


def growth(group: VolumeGroup, pool: LogicalVolume, settings: Mapping[str, str], *, watched: bool) -> Finding:
    """Whether the pool is extended before it is full, and what happens where it is not."""
    name = f"{group.vg_name}/{pool.lv_name}"
    if not settings:
        return Finding("growth", "warning", "lvmconfig does not tell whether lvm2 extends the pool", "see lvmconfig")
    at, step = (int(settings.get(f"thin_pool_autoextend_{key}", _NEVER)) for key in ("threshold", "percent"))
    if at >= _NEVER:
        full = "fail at once" if pool.lv_when_full == "error" else "wait for a minute, and then fail"
        told = f"lvm2 does not extend the pool; when it is full, writes {full}"
        return Finding("growth", "warning", told, "set activation/thin_pool_autoextend_threshold = 80 in lvm.conf")
    if not watched or settings.get("monitoring") == "0":
        told = f"it is to be extended at {at} %, and dmeventd does not run"
        return Finding("growth", "warning", told, f"start lvm2-monitor.service, then lvchange --monitor y {name}")
    if group.vg_free * 100 < pool.lv_size * step:
        told = f"{group.vg_name} has {_told(group.vg_free)} left, less than one step of {step} %"
        return Finding("growth", "warning", told, f"vgextend {group.vg_name} DEVICE")
    return Finding("growth", "ok", f"by {step} % when {at} % are in use; dmeventd runs")


def repair(settings: Mapping[str, str]) -> Finding:
    """Whether the pool's metadata can be checked and repaired."""
    tool = settings.get("thin_check_executable", "/usr/sbin/thin_check")
    if Path(tool).is_file():
        return Finding("repair", "ok", tool)
    told = f"{tool or 'thin_check'} is missing: the pool's metadata are not checked, and cannot be repaired"
    return Finding("repair", "warning", told, "install thin-provisioning-tools")


def _health(pool: LogicalVolume, name: str) -> Finding:
    if pool.health in _HEALTH:
        told, advice = _HEALTH[pool.health]
        return Finding("thin pool", "error", told, advice.format(name))
    return Finding("thin pool", "ok", f"{name}, chunks of {pool.chunk_size >> 10} KiB")


def _promised(pool: LogicalVolume, volumes: list[LogicalVolume]) -> Finding:
    total = sum(volume.lv_size for volume in volumes if volume.pool_lv == pool.lv_name and not volume.read_only)
    return Finding("promised", "ok", f"{_told(total)} to its disks and snapshots, on {_told(pool.lv_size)}")


def _settings(host: Host) -> dict[str, str]:
    """What lvm.conf, and lvm2's defaults, say; empty where lvm2 does not tell."""
    try:
        told = host.run(["/usr/sbin/lvmconfig", "--typeconfig", "full", *_SETTINGS], limits=_LIMITS)
    except errors.Error:
        return {}
    return dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', told, re.MULTILINE))


def _dmeventd_runs() -> bool:
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == "dmeventd":
                return True
        except OSError:
            continue  # it has ended meanwhile
    return False


def _told(size: int) -> str:
    return f"{size / Gi:.1f} GiB" if size >= Gi else f"{size / Mi:.0f} MiB"
