"""Every error that leaves the library.

::

    Error
    ├── ConfigError              the operator has to change something
    ├── TemplateError            whoever made the image has to
    │   ├── TemplateTooLarge
    │   ├── TemplateUnsafe
    │   └── TemplateCorrupt
    ├── DiskError                the caller has to
    │   ├── DiskNotFound
    │   ├── DiskBusy
    │   ├── DiskElsewhere        it is another host's, or another folder's
    │   └── BaseMissing
    ├── StorageError             nobody named can; see the cause
    │   ├── CommandFailed
    │   ├── StorageFull
    │   └── StorageUnavailable   the one class that is worth retrying
    │       └── WrongStore       the disk was made in another store than the one that the options lead to
    ├── SourceError
    │   ├── ImageNotFound
    │   ├── SourceDenied
    │   └── SourceUnavailable    the source is down or broke off; it was retried
    ├── InstanceError            the caller has to: a machine, not a disk
    │   ├── InstanceNotFound
    │   ├── InstanceElsewhere    it is another host's, or another folder's
    │   └── InstanceFailed       it was started, and did not come to run
    └── HypervisorError          libvirt refused; see the cause
        └── HypervisorUnavailable   libvirtd does not answer; worth retrying too

A message is one line, and says what to do where that is known.  What a progress
callback raises, and what a caller's own fetch function raises (but for an
``OSError``), passes through unchanged.
"""

from collections.abc import Sequence
from typing import Final

_LAST_LINES: Final = 3
_LONGEST_LINE: Final = 160
"""Of what a guest said: characters, of each of its last lines."""

THE_DISK: Final = "the disk"
"""The limit of a :class:`TemplateTooLarge` where another size of disk would do."""


class Error(Exception):
    """The root of all."""


class ConfigError(Error):
    """An option, a missing tool, or a permission: for the operator to change."""


class TemplateError(Error):
    """The image itself is at fault."""


class TemplateTooLarge(TemplateError):
    """The image does not fit the disk that was asked for, or what is allowed."""

    def __init__(self, needed: int, allowed: int, *, limit: str = THE_DISK) -> None:
        """``needed`` and ``allowed`` are bytes; ``limit`` names what allows no more."""
        super().__init__(f"the image needs a disk of {needed} bytes, and {limit} allows {allowed} bytes")
        self.needed, self.allowed, self.limit = needed, allowed, limit


class TemplateUnsafe(TemplateError):
    """The image refers to something outside itself, or is not what it says it is."""


class TemplateCorrupt(TemplateError):
    """The image is broken, or not the bytes that its source promised."""


class DiskError(Error):
    """The disk is not as the call needs it."""


class DiskNotFound(DiskError):
    """There is no such disk."""


class OnNoRecord(DiskError):
    """A file has a disk's name, and nothing tells its format: a guest may have written the header of another."""

    def __init__(self, disk: str) -> None:
        """``disk`` names it."""
        super().__init__(
            f"{disk} is there, and on no record, so that nothing tells its format; move it away, or remove it by disk "
            "delete"
        )


class DiskBusy(DiskError):
    """The disk is in use: by a guest, by another disk, or by this very call."""


class DiskOpen(DiskBusy):
    """A guest, or another process, has the disk open."""


class DiskElsewhere(DiskError):
    """The disk is another host's, or another folder's of this host."""


class BaseMissing(DiskError):
    """What the disk depends on is gone, and could not be brought back."""


class StorageError(Error):
    """The storage failed; the cause tells more."""


class CommandFailed(StorageError):
    """A command did not do its work."""

    def __init__(
        self, argv: Sequence[str], status: int, output: str, *, reason: str | None = None, printed: str = ""
    ) -> None:
        """``status`` is the exit status, negative for a signal; ``output`` is what it said of
        it, ``printed`` its standard output; ``reason`` says which limit fired."""
        what = reason or f"ended with {status}: {output.strip()[-500:] or 'no output'}"
        super().__init__(f"{argv[0]} {what}".replace("\n", "; "))
        self.argv, self.status, self.output = tuple(argv), status, output
        self.reason, self.printed = reason, printed


class StorageFull(StorageError):
    """There is no room."""

    def __init__(
        self, where: str, need: int | None, have: int | None, *, short: int | None = None, is_quota: bool = False
    ) -> None:
        """``need`` and ``have`` are bytes; None where that could not be told.

        ``short`` is what would have to be freed: more than the difference where a limit is exceeded already.
        ``is_quota``: what is free is nothing to go by, for this user may take no more of it.
        """
        have = None if is_quota else have
        told = f"{need} bytes are needed" if need is not None else "more is needed"
        left = f", {have} are free" if have is not None else ""
        if is_quota:
            message = f"a quota is used up on {where}: {told}; free some of what counts for it, or have it raised"
        else:
            message = f"no space on {where}: {told}{left}; free some, or use another place"
        super().__init__(message)
        self.where, self.need, self.have, self.is_quota = where, need, have, is_quota
        self.short = max(need - have, 0) if short is None and need is not None and have is not None else short


class StorageUnavailable(StorageError):
    """The storage does not answer; trying again later may help."""


class WrongStore(StorageUnavailable):
    """What a backend's options lead to is not the store that the disk was made in: nothing can be told of the disk."""


class SourceError(Error):
    """The image could not be had."""


class ImageNotFound(SourceError):
    """The source that was asked has no such image, or does not show it to this caller."""


class SourceDenied(SourceError):
    """The source refuses these credentials."""


class SourceUnavailable(SourceError):
    """The source does not answer, or broke off; it was tried ``num_retries`` times more."""


class InstanceError(Error):
    """The instance is not as the call needs it."""


class InstanceNotFound(InstanceError):
    """There is no such instance."""


class InstanceElsewhere(InstanceError):
    """The instance is another host's, or another folder's of this host."""


class InstanceFailed(InstanceError):
    """The instance was started, and ended, or did not come to run in time."""

    def __init__(self, message: str, console: str = "") -> None:
        """``console`` is the end of what the guest said; its last lines are told, but for what terminals obey."""
        lines = ["".join(char if char.isprintable() else "?" for char in line.strip()) for line in console.splitlines()]
        said = " / ".join(line[-_LONGEST_LINE:] for line in [line for line in lines if line][-_LAST_LINES:])
        super().__init__(f"{message}; it said last: {said}" if said else message)
        self.console = console


class HypervisorError(Error):
    """libvirt did not do what it was asked for."""

    def __init__(self, message: str, code: int | None = None) -> None:
        """``code`` is libvirt's own number of the error, where it gave one."""
        super().__init__(message)
        self.code = code


class HypervisorUnavailable(HypervisorError):
    """libvirtd does not answer; trying again later may help."""
