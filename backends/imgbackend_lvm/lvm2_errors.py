"""What the failures of lvm2's commands mean: its exit status says little, its words are all there is.

They were read off lvm2 2.03.16, sudo 1.9.13 and util-linux 2.38, in the C locale.
"""

import re
from collections.abc import Sequence
from typing import Final

from imgbackend import errors

TOOLS: Final = {
    **dict.fromkeys(("vgs", "lvs", "lvcreate", "lvextend", "lvrename", "lvremove", "lvchange"), "lvm2"),
    "blkdiscard": "util-linux",
    "dd": "coreutils",
}
"""Every command that is run, and its Debian package."""

_TIMED_OUT: Final = (124, 137)
"""How timeout(1) ends when it had to end the command, and when it had to kill it."""
_NOT_STARTED: Final = (126, 127)
_NO_FILTER: Final = (98, 99)
"""How rootwrap ends where it may not run a command, and where its configuration is wrong."""


class OutOfExtents(errors.StorageFull):
    """A volume group has not so many extents left."""

    def __init__(self, needed: int, left: int) -> None:
        """Keep both numbers, of extents."""
        super().__init__("the volume group", None, None)
        self.needed, self.left = needed, left


_EXTENTS: Final = (
    re.compile(r"free space \((?P<left>\d+) extents\): (?P<needed>\d+) required"),
    re.compile(r"Insufficient free space: (?P<needed>\d+) extents needed, but only (?P<left>\d+) available"),
)
_FULL: Final = re.compile(
    r"insufficient free space|Insufficient suitable allocatable|[Ff]ree space in (?:thin )?pool (?P<pool>\S+) reached"
    r"|[Tt]hin pool (?P<other>\S+).*out of (?:meta)?data space"
)


def _table(*rows: tuple[str, type[errors.Error], str]) -> tuple[tuple[re.Pattern[str], type[errors.Error], str], ...]:
    return tuple((re.compile(pattern, re.MULTILINE), kind, words) for pattern, kind, words in rows)


_MEANINGS: Final = _table(
    (
        r"sudo: .*(?:password|terminal).*required|\S+ is not in the sudoers file|user \S+ is not allowed to",
        errors.ConfigError,
        "this user may not run {tool} as root ({0}); install the rules for sudo that come with this driver, "
        "or set root_helper",
    ),
    (
        r"mapper/control: open failed: No such.*|device-mapper driver missing from kernel|target.* not detected.*",
        errors.ConfigError,
        "{tool}: device-mapper is not in this kernel ({0}); load dm-mod, and dm-thin-pool for thin pools",
    ),
    (
        r"^.*(?:Permission denied|Operation not permitted)$",
        errors.ConfigError,
        "{tool} did not run as root ({0}); set root_helper to sudo or rootwrap",
    ),
    (
        r"(\S*/thin_check): execvp failed",
        errors.ConfigError,
        "{1} is not installed; install thin-provisioning-tools",
    ),
    (
        r'Volume group "([^"]+)" not found',
        errors.ConfigError,
        "there is no volume group {1}; make it with vgcreate, or set volume_group",
    ),
    (
        r"Pool (\S+) not found in Volume group (\S+?)\.?$",
        errors.ConfigError,
        "there is no thin pool {1} in {2}; make it with lvcreate --type thin-pool, or set thin_pool",
    ),
    (
        r"^.*PVs? (?:are|is) missing.*|^.*Can't get lock.*|^.*Giving up waiting for lock.*",
        errors.StorageUnavailable,
        "{tool}: {0}",
    ),
    (
        r"[Ll]ogical [Vv]olume (\S+) (?:in use|is used by another device|contains a filesystem in use)"
        r"|^blkdiscard: (?:cannot open )?(\S+): .*Device or resource busy",
        errors.DiskBusy,
        "{last} is in use; stop the guest, or unmount it, first",
    ),
    (
        r'(?:Failed to find logical volume|Existing logical volume|Snapshot origin LV) "?([^\s"]+)'
        r"|Logical volume (\S+) not found in volume group",
        errors.DiskNotFound,
        "there is no volume {1}",
    ),
    (
        r'Logical Volume "([^"]+)" already exists in volume group "([^"]+)"',
        errors.DiskError,
        "there is a volume {1} in {2} already; remove it, or use another name",
    ),
)


def meaning(argv: Sequence[str], status: int, stderr: str, *, seconds: float = 0.0) -> errors.Error:
    """The error that a command's exit status and standard error stand for; ``seconds`` is what it was given.

    ConfigError: a tool, a privilege, a part of the kernel, the group or the pool is
    missing.  DiskBusy, DiskNotFound, DiskError: a volume is in use, is not there, has the
    name already.  StorageFull, StorageUnavailable, and CommandFailed for all that is not known.
    """
    tool = argv[0]
    if status in _TIMED_OUT:
        return too_long(tool, seconds)
    if status in _NOT_STARTED and "timeout: " in stderr:
        return not_started(tool, _last(stderr))
    if status in _NO_FILTER:
        return errors.ConfigError(f"rootwrap does not run {tool} ({_last(stderr)}); install this driver's filters")
    for pattern, kind, words in _MEANINGS:
        if match := pattern.search(stderr):
            found = [group for group in match.groups() if group]
            return kind(words.format(match[0].strip(), *found, tool=tool, last=found[-1] if found else ""))
    return _no_room(stderr) or errors.CommandFailed(argv, status, stderr)


def _no_room(stderr: str) -> errors.StorageFull | None:
    for pattern in _EXTENTS:
        if match := pattern.search(stderr):
            return OutOfExtents(int(match["needed"]), int(match["left"]))
    if match := _FULL.search(stderr):
        return errors.StorageFull(match["pool"] or match["other"] or "the volume group", None, None)
    return None


def not_started(tool: str, why: str) -> errors.ConfigError:
    """The error of a command that is not installed, or cannot be run."""
    return errors.ConfigError(f"{tool} cannot be started ({why}); install {TOOLS.get(tool, tool)}")


def too_long(tool: str, seconds: float) -> errors.StorageUnavailable:
    """A command did not end in time."""
    return errors.StorageUnavailable(
        f"{tool} did not end within {seconds:.6g} s: another command holds the lock of the volume group, or a device "
        "does not answer; see ps and dmsetup info"
    )


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1].strip()
